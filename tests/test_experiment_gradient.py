"""The gradient experiment against closed forms: its surface, its theory of finite steps, its paths, and claims that can fail."""

import functools

import numpy as np
import pandas as pd
import pytest

from experiments import gradient

SETTINGS = gradient.Settings(directions=512, steps=30)
BATCH = gradient.load_patients()
PLACES = [(-1.0, 2.5), (0.3, 0.4)]


def numpy_loss(theta):
    """The logistic loss as it stands in a textbook."""
    inputs, targets = BATCH
    scores = inputs @ np.asarray(theta)
    return np.mean(np.logaddexp(0, scores) - targets * scores)


@functools.cache
def sweep():
    """One sweep for all tests of paths."""
    return gradient.descend(BATCH, SETTINGS)


def quadratic(hessian, angles):
    """A point of a quadratic surface, the descents from it in closed form, and its table."""
    start = gradient.Point(np.zeros(2), 1.0, np.array([0.6, -0.8]), np.array(hessian))
    fall = lambda u: -u @ start.gradient - gradient.LENGTHS[:, None] / 2 * np.sum(u @ start.hessian * u, axis=1)  # noqa: E731
    descents = fall(np.stack([np.cos(angles), np.sin(angles)], axis=1) @ start.frame)
    return start, gradient.tabulate(start, angles, descents, straight=fall(start.frame[:1])[:, 0])


@pytest.mark.parametrize("theta", PLACES)
def test_loss_gradient_and_hessian_are_those_of_logistic_regression(theta):
    point, (inputs, targets) = gradient.look(BATCH, theta), BATCH
    chances = 1 / (1 + np.exp(-inputs @ np.array(theta)))
    np.testing.assert_allclose(point.loss, numpy_loss(theta), rtol=1e-12)
    np.testing.assert_allclose(point.gradient, inputs.T @ (chances - targets) / len(targets), rtol=1e-10)
    np.testing.assert_allclose(point.hessian, (inputs.T * chances * (1 - chances)) @ inputs / len(targets), rtol=1e-10)


def test_the_patients_values_are_standardized_and_lie_in_a_narrow_valley():
    inputs, targets = BATCH
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-12)
    assert np.corrcoef(inputs.T)[0, 1] > 0.85
    assert set(targets) == {0.0, 1.0}


@pytest.mark.parametrize("theta", PLACES)
def test_descents_are_falls_of_the_loss_per_unit_of_length(theta):
    start, angles = gradient.look(BATCH, theta), np.array([0.0, np.pi / 2, np.pi, 1.0])
    down = -start.gradient / np.linalg.norm(start.gradient)
    left = np.array([-down[1], down[0]])
    for row, length in list(enumerate(gradient.LENGTHS))[4:]:
        expected = [(start.loss - numpy_loss(theta + length * (np.cos(a) * down + np.sin(a) * left))) / length for a in angles]
        np.testing.assert_allclose(gradient.measure_descents(BATCH, start, angles)[row], expected, atol=1e-12)


def test_the_theory_of_finite_steps_is_exact_on_a_quadratic_while_the_step_is_short():
    count = 2**17
    _, table = quadratic([[1.0, 0.9], [0.9, 3.0]], np.linspace(-np.pi, np.pi, count, endpoint=False))
    short = table[(table.length >= 1e-3) & (table.length <= 1e-2)]
    np.testing.assert_allclose(table.gap_to_cosine, table.gap_theory, rtol=1e-4)
    np.testing.assert_allclose(short.best_angle, short.best_angle_theory, rtol=0.05, atol=360 / count)
    np.testing.assert_allclose(short.share_that_beats, short.share_theory, rtol=0.05, atol=2 / count)


def test_no_direction_beats_the_gradient_where_the_surface_is_round_and_the_claim_says_so():
    start, table = quadratic(np.eye(2), np.linspace(-3, 3, 500))
    assert not table.share_that_beats.any()
    assert [claim.held for claim in gradient.judge_directions(start, table, 500)] == [True, True, False]


@pytest.mark.parametrize(("turn", "held"), [(0.0, True), (0.05, False)])
def test_a_gradient_turned_by_three_degrees_is_not_the_steepest_way(turn, held):
    start, angles = gradient.look(BATCH, SETTINGS.start), np.linspace(-np.pi, np.pi, 720)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    start = start._replace(gradient=rotation @ start.gradient)
    descents, straight = (gradient.measure_descents(BATCH, start, each) for each in (angles, np.zeros(1)))
    table = gradient.tabulate(start, angles, descents, straight=straight[:, 0])
    assert [claim.held for claim in gradient.judge_directions(start, table, 720)] == [held, held, True]


def test_the_safe_rate_is_eight_over_the_largest_eigenvalue_of_the_covariance():
    covariance = BATCH[0].T @ BATCH[0] / len(BATCH[0])
    assert gradient.safe_rate(BATCH) == pytest.approx(8 / np.linalg.eigvalsh(covariance).max(), rel=1e-10)


def test_newton_finds_the_minimum():
    minimum = gradient.find_minimum(BATCH)
    assert minimum.norm < 1e-14
    assert all(numpy_loss(minimum.theta + step) > minimum.loss for step in 0.01 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]))


def test_paths_follow_a_loop_written_in_numpy():
    inputs, targets = BATCH
    for member in (0, 1):
        rate, theta = sweep().hyper[member]["learning_rate"], np.array(SETTINGS.start)
        path = gradient.trace_path(sweep()[member])
        assert path.shape == (SETTINGS.steps + 1, 2)
        for place in path:
            np.testing.assert_allclose(place, theta, atol=1e-4)
            theta = theta - rate * inputs.T @ (1 / (1 + np.exp(-inputs @ theta)) - targets) / len(targets)


def test_only_the_rate_above_the_limit_goes_up_and_all_claims_hold():
    rises = [gradient.count_rises(fit) for fit in sweep()]
    assert rises[:2] == [0, 0]
    assert rises[2] > 5
    assert all(claim.held for claim in gradient.judge_paths(BATCH, SETTINGS, sweep()))


def test_a_path_of_another_rate_is_seen():
    path, rate = gradient.trace_path(sweep()[1]), sweep().hyper[1]["learning_rate"]
    assert gradient.measure_deviation(BATCH, path, rate) < 1e-5 < gradient.measure_deviation(BATCH, path, 1.01 * rate)


def test_the_story_is_told_and_written(capsys, tmp_path):
    assert gradient.main(["--directions", "256", "--steps", "20", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Is the negative gradient the steepest way down")
    assert text.count("yes") == 5
    table, paths = pd.read_csv(tmp_path / "table.csv"), pd.read_parquet(tmp_path / "paths.parquet")
    assert (len(table), len(paths)) == (len(gradient.LENGTHS), 3 * 21)
    assert (tmp_path / "gradient.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--directions", "0"], "`directions` must be a whole number of at least 1, got 0"),
        (["--steps", "0"], "`steps` must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        gradient.main([*arguments, "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())
