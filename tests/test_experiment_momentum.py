"""The momentum experiment against closed forms, slow loops and simulations; claims that broken optimizers and figures refute."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from experiments import momentum
from experiments import momentum_claims as claims
from experiments import momentum_landscapes as lands
from experiments import momentum_laws as laws

SETTINGS = momentum.Settings(condition=25.0, rates=8, pairs=4, starts=32, steps=250)
SMALL = ["--condition", "25", "--rates", "8", "--pairs", "4", "--starts", "32", "--steps", "250"]
NUMPY_SLOPES = {
    "ravine": lambda p: p * [1, 1 / 25],
    "saddle": lambda p: np.array([2 * p[0], p[1] ** 3 - 2 * p[1]]),
    "monkey saddle": lambda p: np.array([3 * p[0] ** 2 - 3 * p[1] ** 2, -6 * p[0] * p[1]]) + 3 * p * (p @ p),
    "many minima": lambda p: 2 * p + 2 * np.pi * np.sin(2 * np.pi * p),
}


@pytest.fixture(scope="module")
def runs():
    """One small survey for all tests."""
    return momentum.survey(SETTINGS)


def walk(method, rate, slope, place, steps, *, momentum=0.9, decay=0.9, gain=1.0):
    """Every place of a descent, in the words of the papers; with a gain, the velocity takes in so much of each gradient."""
    places, v, n, m, old = [], 0.0, 0.0, 0.0, decay if method == "RMSprop" else 0.999
    for t in range(1, steps + 1):
        places.append(place)
        g = slope(place)
        v, n, m = momentum * v + gain * g, old * n + (1 - old) * g**2, 0.9 * m + 0.1 * g
        place = place - rate * {
            "plain": g, "momentum": v, "Nesterov": g + momentum * v, "RMSprop": g / np.sqrt(n + 1e-8),
            "Adam": m / (1 - 0.9**t) / (np.sqrt(n / (1 - 0.999**t)) + 1e-8),
        }[method]  # fmt: skip
    return np.array(places)


@pytest.mark.long
@pytest.mark.parametrize("name", NUMPY_SLOPES)
def test_paths_follow_loops_written_in_numpy(runs, name):
    for method in lands.METHODS:
        rates, paths = runs.paths(method, name)
        for start in (1, -1):
            expected = walk(method, rates[3], NUMPY_SLOPES[name], paths[3, start, 0], 30)
            np.testing.assert_allclose(paths[3, start, :30], expected, atol=2e-4)


@pytest.mark.long
def test_slopes_are_those_of_the_heights(runs):
    places = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    for name, slope in NUMPY_SLOPES.items():
        expected = [slope(place) for place in places]
        np.testing.assert_allclose(lands.measure_slopes(runs.landscapes[name], places), expected, atol=1e-6)


@pytest.mark.long
def test_what_theory_says_holds_in_small_and_figures_match_closed_forms(runs):
    table = momentum.tabulate(runs)
    told = {claim.statement: claim for claim in momentum.judge(runs, table, 25.0)}
    chance = ("What crosses", "RMSprop's steps", "In units")  # want more starts, steps or worse units
    assert [claim.held for words, claim in told.items() if not words.startswith(chance)] == [True] * 13
    texts = [claim.measured for claim in told.values()]
    assert "best of them 1.9231 (theory 1.9231), factor 0.92308" in texts[0]  # 2 / (1 + 1 / 25) and 24 / 26
    assert "(theory 0.6667" in texts[2]  # (5 - 1) / (5 + 1)
    assert "across 0.500 to 0.50" in texts[6]


@pytest.mark.long
def test_contraction_is_that_of_the_closed_forms(runs):
    table = claims.compare_factors(runs, 25.0)
    ball = table[(table.method == "momentum") & (table.momentum > 0.9) & (table.rate < 2 * 1.9)]
    assert len(ball) >= 2
    np.testing.assert_allclose(ball.radius, ball.momentum**0.5, rtol=1e-6)  # complex roots, whatever the rate
    np.testing.assert_allclose(ball.factor, ball.momentum**0.5, rtol=0.02)
    still = table[table.momentum == 0]
    np.testing.assert_allclose(still.factor, np.maximum(abs(1 - still.rate), 1 - still.rate / 25), rtol=1e-5)


@pytest.mark.parametrize("condition", [25.0, 400.0])
def test_the_best_numbers_of_theory_are_the_textbook_ones(condition):
    root, low = condition**0.5, 1 / condition
    rate, factor = laws.best_plain(low, 1)
    assert max(laws.factor("plain", rate, 0.9, each) for each in (low, 1)) == pytest.approx(factor, rel=1e-12)
    rate, momentum_, factor = laws.best_momentum(low, 1)
    radii = [laws.factor("momentum", rate, momentum_, each) for each in np.linspace(low, 1, 20)]
    np.testing.assert_allclose(radii, (root - 1) / (root + 1), rtol=1e-6)
    assert factor == pytest.approx((root - 1) / (root + 1))
    nesterov = max(laws.factor("Nesterov", 1.0, (root - 1) / (root + 1), each) for each in (low, 1))
    assert nesterov == pytest.approx(1 - 1 / root, rel=1e-6)


@pytest.mark.parametrize("method", claims.LINEAR)
def test_the_stationary_variance_is_the_sum_over_all_past_noise(method):
    rate, curvature, noise = 0.3, 0.7, 0.2
    slope = lambda push: lambda x: curvature * x + push  # noqa: E731
    v = x = total = 0.0
    for step in range(2000):  # what one unit of noise does to all later places
        g = slope(1.0 if step == 0 else 0.0)(x)
        v = (0.0 if method == "plain" else 0.9) * v + g
        x -= rate * (g + 0.9 * v if method == "Nesterov" else v)
        total += x**2
    measured = laws.variance(method, rate, 0.9, curvature, noise)
    assert measured == pytest.approx(noise**2 * total, rel=1e-9)
    closed = {"plain": 1 / (2 - rate * curvature), "momentum": 19 / (2 * 1.9 - rate * curvature)}
    if method in closed:
        assert measured == pytest.approx(rate * noise**2 / curvature * closed[method], rel=1e-9)


def test_the_step_of_rmsprop_is_that_of_a_simulation():
    rng = np.random.default_rng(0)
    for noise in (1.0, 1e-4):
        n, squares = noise**2, []
        for g in noise * rng.normal(size=(1500, 200)):
            n = 0.9 * n + 0.1 * g**2
            squares.append(g**2 / (n + 1e-8))
        assert laws.rmsprop_step(noise) == pytest.approx(np.mean(squares[100:]) ** 0.5, rel=5e-3)


@pytest.mark.parametrize(("rate", "curvature"), [(0.1, 1.0), (0.03, 0.01), (0.01, 0.01)])
def test_rmsprop_ends_on_the_circle_of_theory(rate, curvature):
    ends = walk("RMSprop", rate, lambda x: curvature * x, np.array(0.2), 3000)[-2:]
    assert np.abs(ends) == pytest.approx(laws.rmsprop_circle(rate, curvature), abs=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_the_bounds_on_escapes_hold_loops_written_in_numpy_and_are_tight(rate):
    distances, radius = np.array([0.1, 0.03, 0.01]), claims.RADIUS
    along = {"saddle": lambda y: 2 * y - y**3, "monkey saddle": lambda r: 3 * r**2 - 3 * r**3}
    plain = {"saddle": laws.saddle_steps, "monkey saddle": laws.monkey_steps}
    for name, slope in along.items():
        for method in ("plain", "RMSprop"):
            counts = [np.argmax(walk(method, rate, lambda y, s=slope: -s(y), d, 9000) > radius) for d in distances]
            bounds = plain[name](rate, distances, radius) if method == "plain" else laws.rmsprop_steps(
                slope, rate, distances, radius, 9000)  # fmt: skip
            assert np.all(counts >= bounds[0]) and np.all(counts <= bounds[1] + 1)
    np.testing.assert_allclose(*laws.saddle_steps(rate, distances, radius), rtol=0.06)


def walked(stretch=1.0, **fault):
    """Runs as the experiment reads them, from loops in numpy; a fault breaks the optimizer."""
    rate, momentum_, _ = laws.best_momentum(1 / 25, 1)
    pairs = [("plain", "tuning", 0.9), ("momentum", "tuning", 0.5), ("momentum", "tuning", momentum_)]
    rates_of = {"plain": [0.5, laws.best_plain(1 / 25, 1)[0]], "momentum": [rate], "Nesterov": [1.0]}

    def paths(method, name, momentum=0.9):
        circle, rates = np.array([[0.8, 0.6], [-0.6, 0.8]]), np.array(rates_of[method] if name == "tuning" else [0.02, 0.1])
        near = np.stack([np.ones(16), np.geomspace(0.1, 1e-8, 16)], axis=1)
        slope = lambda p: np.stack([2 * p[:, 0], p[:, 1] ** 3 - 2 * p[:, 1]], axis=1)  # noqa: E731
        slope, starts = (NUMPY_SLOPES["ravine"], circle) if name == "tuning" else (slope, near)
        courses = [walk(method, stretch * rate, slope, starts, 300, momentum=momentum, **fault) for rate in rates]
        return rates, np.array(courses).swapaxes(1, 2)

    return SimpleNamespace(members=[*pairs, ("Nesterov", "tuning", 0.5)], paths=paths)


def judge_walks(runs):
    """Which hold: the claims of plain descent, the recursions and the heavy ball, and the bounds of plain descent and RMSprop."""
    plain = lambda rate, distances, most: laws.saddle_steps(rate, distances, claims.RADIUS)  # noqa: E731
    rmsprop = lambda rate, distances, most: laws.rmsprop_steps(lambda y: 2 * y - y**3, rate, distances, 0.3, most)  # noqa: E731
    judged = [*claims.judge_plain(runs, 25.0), *claims.judge_tuning(claims.compare_factors(runs, 25.0), 25.0)]
    left = [claims.is_between(runs, "plain", "saddle", plain), claims.is_between(runs, "RMSprop", "saddle", rmsprop)]
    return [claim.held for claim in judged] + left


@pytest.mark.parametrize(
    ("fault", "held"),
    [
        ({}, [True, True, True, True, True]),
        ({"stretch": 1.01}, [False, False, False, False, False]),
        ({"gain": 0.1}, [True, False, False, True, True]),
        ({"decay": 0.99}, [True, True, True, True, False]),
    ],
)
def test_broken_optimizers_are_seen(fault, held):
    assert judge_walks(walked(**fault)) == held


@pytest.mark.long
def test_half_of_the_starts_choose_the_rate_and_the_others_judge_it(runs):
    row = momentum.summarize(runs, "saddle", "plain")
    landscape, (rates, paths) = runs.landscapes["saddle"], runs.paths("plain", "saddle")
    counts = np.full((len(rates), 16), 250.0)
    for place in np.ndindex(*counts.shape):
        heights = [lands.saddle(x, y) for x, y in paths[place]]
        stays = [step for step in range(250) if all(height <= -0.9 for height in heights[step:])]
        counts[place] = min(stays, default=250)
    best = counts[:, 0::2].mean(axis=1).argmin()
    assert (row["best_rate"], row["steps"]) == (rates[best], counts[best, 1::2].mean())
    assert row["rate_x"] == pytest.approx(row["best_rate"], rel=1e-3)  # plain descent: one rate for all coordinates
    assert row["rate_y"] == pytest.approx(row["best_rate"], rel=1e-3)
    assert np.isinf(lands.count_to_arrive(landscape, paths[:1])).all()


def test_starts_that_choose_are_not_those_that_judge():
    arrivals = np.array([[2, 4], [3, 1]])  # by rate and start: the first start is for the first rate, the second against it
    x = np.where(np.arange(6) < arrivals[..., None], 1.0, 0.0)
    slant = lands.Landscape(lambda x, y: x + y, np.zeros((2, 2)), np.full(2, 0.5))
    fake = SimpleNamespace(landscapes={"slant": slant}, paths=lambda *_: (np.array([0.1, 0.2]), np.stack([x, 0 * x], axis=-1)))
    row = momentum.summarize(fake, "slant", "plain")
    assert (row["best_rate"], row["steps"], row["starts"], row["share"]) == (0.1, 4, 1, 1)


def test_steps_are_counted_by_hand():
    landscape = lands.Landscape(lambda x, y: x + y, np.zeros((3, 2)), np.ones(3))
    heights = np.array([[5, 1, 2, 1, 0], [5, 4, 3, 2, np.nan], [1, 0, 0, 0, 0]])
    paths = np.stack([heights, np.zeros((3, 5))], axis=-1)[None]
    assert lands.count_to_arrive(landscape, paths).tolist() == [[3, np.inf, 0]]
    assert lands.count_to_leave(np.array([[0.1, 0.2, 0.4], [0.1, 0.2, 0.3]]), 0.3).tolist() == [2, 3]


def test_crests_lie_between_the_minima():
    crests = claims.find_crests()
    for crest in crests[np.abs(crests) < 2]:
        assert lands.waves(crest, 0.0) > max(lands.waves(crest - 0.01, 0.0), lands.waves(crest + 0.01, 0.0))
    assert np.sum((crests > -1) & (crests < 1)) == 2


def make_table(**steps):
    """As of two landscapes, on which every claim about who is first holds, with some steps replaced."""
    shares = {"plain": 0.05, "momentum": 0.2, "Nesterov": 0.06, "RMSprop": 0.05, "Adam": 0.4}
    first = {"plain": 900, "momentum": 600, "Nesterov": 500, "RMSprop": 390, "Adam": 360} | steps
    rows = [{"landscape": "many minima", "method": name, "share": share, "starts": 128} for name, share in shares.items()]
    return pd.DataFrame(rows + [{"landscape": "noisy bowl", "method": name, "steps": count} for name, count in first.items()])


def test_claims_about_shares_and_first_places_can_fail():
    table = make_table()
    assert claims.judge_shares(table)[0].held and claims.judge_first(table, 100.0)[0].held
    assert not claims.judge_first(make_table(Adam=550), 100.0)[0].held
    for method, share in (("momentum", 0.08), ("Adam", 0.6), ("RMSprop", 0.3)):
        other = table.copy()
        other.loc[(other.method == method) & (other.landscape == "many minima"), "share"] = share
        assert not claims.judge_shares(other)[0].held


@pytest.mark.long
def test_the_story_is_told_and_written(runs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(momentum, "survey", lambda settings: runs)
    status, text = momentum.main([*SMALL, "--output", str(tmp_path)]), capsys.readouterr().out
    have_held = [claim.held for claim in momentum.judge(runs, momentum.tabulate(runs), SETTINGS.condition)]
    assert (status == 0) == all(have_held)
    assert text.startswith("What do momentum and adaptive rates change")
    table, escapes = pd.read_csv(tmp_path / "table.csv"), pd.read_parquet(tmp_path / "escapes.parquet")
    assert (len(table), len(escapes)) == (6 * 5, 2 * 5 * 8 * lands.DISTANCES)
    assert (tmp_path / "momentum.png").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--condition", "1"], "`condition` must be finite and at least 10, got 1.0. Less is no ravine."),
        (["--condition", "inf"], "`condition` must be finite and at least 10, got inf"),
        (["--steps", "96"], "`steps` must be above 96, 20 times the root of the condition, got 96"),
        (["--starts", "8"], "`starts` must be a whole number of at least 16, got 8"),
        (["--rates", "2"], "`rates` must be a whole number of at least 8, got 2"),
        (["--high", "0.5"], r"`low, high` must reach from 0.01 or less to 1 up to 100, got \(0.0001, 0.5\)"),
        (["--high", "1e40"], r"`low, high` must reach from 0.01 or less to 1 up to 100"),
        (["--pairs", "1"], "`pairs` must be a whole number of at least 2, got 1"),
        (["--seed", "-1"], "`seed` must be a whole number of at least 0, got -1"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        momentum.main([*SMALL, *arguments, "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())
