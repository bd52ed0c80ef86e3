"""Trees as steps of a descent: closed forms in NumPy, and claims that fail when what they claim is broken."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import gradkit as gk
from experiments import boosting_as_descent, boosting_paths
from experiments.boosting_paths import half_squared, shares_left, trace

STEPS, RATE = 20, 0.1


@pytest.fixture(scope="module")
def runs():
    """All descents on a curve, their settings and the curve."""
    settings = boosting_as_descent.Settings(steps=STEPS)
    x, y = boosting_as_descent.make_curve(settings)
    return boosting_as_descent.run_all(x, y, settings), settings, y


@pytest.mark.long
def test_the_story_is_told_and_written(runs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(boosting_as_descent, "run_all", lambda x, y, settings: runs[0])
    assert boosting_as_descent.main(["--steps", str(STEPS), "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("yes") == 6
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == STEPS and not table.isna().any().any()
    np.testing.assert_allclose(table.full_left, table.full_closed_form, rtol=1e-5)
    assert (tmp_path / "boosting_as_descent.png").stat().st_size > 50_000


def test_a_trace_is_the_calculus_of_half_squares():
    scores, y = np.array([[0.0, 0, 0], [1, 1, 0]]), np.array([1.0, 3, -2])
    path = trace(scores, y, half_squared)
    np.testing.assert_allclose(path.losses, [14 / 6, (0 + 4 + 4) / 6])
    np.testing.assert_allclose(path.downhill, (y - scores) / 3)
    np.testing.assert_allclose(path.curvature, 1 / 3)
    np.testing.assert_allclose(path.promises, [4 / 3])
    np.testing.assert_allclose(path.bent_promises, path.falls)
    np.testing.assert_allclose(path.cosines, [4 / np.sqrt(14 * 2)])


def test_the_recursion_is_nesterovs_on_a_parabola():
    """His method as the paper has it, on (f - 0)**2 / 2 from 1: a step from the point ahead, then a mixture of two models."""
    rate, ahead, models, momenta = 0.3, 1.0, [1.0], [0.0]
    for _ in range(12):
        momenta.append((1 + np.sqrt(1 + 4 * momenta[-1] ** 2)) / 2)
        models.append(ahead - rate * ahead)
        following = (1 + np.sqrt(1 + 4 * momenta[-1] ** 2)) / 2
        mixture = (1 - momenta[-1]) / following
        ahead = (1 - mixture) * models[-1] + mixture * models[-2]
    np.testing.assert_allclose(shares_left(rate, 12), models)


@pytest.mark.long
def test_every_tree_is_the_mean_residual_of_its_leaves(runs):
    path, _, y = runs[0].small, *runs[1:]
    for scores, move in zip(path.scores, path.moves):
        residual, tree = y - scores, move / RATE
        leaf = np.cumsum(np.abs(np.diff(tree, prepend=tree[0])) > 1e-5)
        means = [np.bincount(leaf, each) / np.bincount(leaf) for each in (residual, tree)]
        np.testing.assert_allclose(*means, atol=1e-5)
        assert leaf.max() < 4


def broken(runs, **paths):
    """Which claims hold when descents are replaced."""
    made, settings, y = runs
    return [claim.held for claim in boosting_as_descent.judge(made._replace(**paths), y, settings.learning_rate)]


@pytest.mark.long
def test_every_claim_fails_when_its_subject_is_broken(runs):
    made, _, y = runs
    assert broken(runs) == [True] * 6
    uphill = trace(made.small.scores[::-1], np.asarray(y, float), half_squared)
    assert broken(runs, small=uphill)[0] is False
    half = made.small.scores[0] + np.cumsum(np.r_[[0 * y], 0.5 * made.small.moves], axis=0)
    assert broken(runs, small=trace(half, np.asarray(y, float), half_squared))[1] is False
    assert broken(runs, logistic=made.logistic._replace(curvature=-made.logistic.curvature))[2] is False
    assert broken(runs, full=made.full._replace(scores=made.full.scores + 1e-4))[3] is False
    assert broken(runs, full=made.full_nesterov)[3] is False
    assert broken(runs, full_nesterov=made.full)[3] is False
    assert broken(runs, nesterov=made.small)[4] is False
    assert broken(runs, full=made.full._replace(rounding=0.01))[5] is False


@pytest.mark.long
def test_a_penalty_breaks_the_law_of_the_promise(runs, monkeypatch):
    """With an L2 the leaf is no longer the mean of its residuals."""
    made, settings, y = runs
    descent = gk.boosting.descent
    monkeypatch.setattr(gk.boosting, "descent", lambda *args, **options: descent(*args, **{**options, "l2": 1.0}))
    x, _ = boosting_as_descent.make_curve(settings)
    held = boosting_paths.boost(x, jnp.asarray(y), loss=half_squared, rate=RATE, steps=STEPS, depth=2)
    claims = boosting_as_descent.judge(made._replace(small=held), y, RATE)
    assert not claims[1].held


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "41"], "`examples` must be at most 40, got 41"),
        (["--steps", "3"], "`steps` must be a whole number of at least 4, got 3"),
        (["--learning-rate", "1.0"], "`learning_rate` must be below 1, got 1.0"),
        (["--learning-rate", "-0.1"], "`learning_rate` must be above 0 and finite, got -0.1"),
        (["--depth", "11"], "`depth` must be at most 10, got 11"),
    ],
)
def test_wrong_settings_are_refused(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        boosting_as_descent.main([*arguments, "--output", str(tmp_path)])


def test_the_curve_is_that_of_its_seed():
    settings = boosting_as_descent.Settings(examples=16, noise=0.0)
    x, y = boosting_as_descent.make_curve(settings)
    np.testing.assert_allclose(y, np.sin(2 * np.pi * x) + (x > 0.6), atol=1e-6)
    other = boosting_as_descent.make_curve(dataclasses.replace(settings, noise=0.1, seed=1))[1]
    assert y.dtype == np.float32 and 0.05 < np.std(other - y) < 0.2
