"""Losses as a user writes them, against closed forms worked out by hand, and distributions by the natural gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradkit import fit, losses
from gradkit.boosting import bin, curvatures, descent, fisher, predict

N = 600
DRAWN = np.random.default_rng(0)
FEATURES = DRAWN.normal(size=(N, 4)).astype(np.float32)
SIGNAL = 0.7 * FEATURES[:, 0] * FEATURES[:, 1] + np.sin(2 * FEATURES[:, 2])
BINNED = bin(FEATURES, bins=32)
NOISY = (SIGNAL + 0.3 * DRAWN.normal(size=N)).astype(np.float32)
INFLATED = (DRAWN.poisson(np.exp(SIGNAL)) * (DRAWN.random(N) > 0.3)).astype(np.float32)
GRADES = np.digitize(SIGNAL + DRAWN.logistic(size=N), (-1, 1)).astype(np.int32)


def asymmetric(score, target):
    return jnp.where(score < target, 3.0, 1.0) * (score - target) ** 2


def zero_inflated(score, target):
    """A Poisson count, or with probability 0.3 nothing at all; of the logarithm of its rate."""
    log_zero = jnp.logaddexp(jnp.log(0.3), jnp.log(0.7) - jnp.exp(score))
    return -jnp.where(target == 0, log_zero, jnp.log(0.7) + target * score - jnp.exp(score))


def ordinal(score, target):
    """A grade of three: how likely it is to lie below each of two thresholds."""
    below = jnp.concatenate([jnp.zeros(1), jax.nn.sigmoid(jnp.array([-1.0, 1.0]) - score), jnp.ones(1)])
    return -jnp.log(below[target + 1] - below[target])


def p(score):
    return 1 / (1 + np.exp(-score))


def slopes_of_zero_inflated(s, y):
    rate = np.exp(s)
    share = 0.7 * np.exp(-rate) / (0.3 + 0.7 * np.exp(-rate))
    bend = np.maximum(share * rate * (1 - rate * (1 - share)), 0)
    return np.where(y == 0, share * rate, rate - y), np.where(y == 0, bend, rate)


def slopes_of_ordinal(s, y):
    edges = np.array([-np.inf, -1, 1, np.inf])
    low, high = p(edges[y] - s), p(edges[y + 1] - s)
    return 1 - low - high, low * (1 - low) + high * (1 - high)


LOSSES = {  # as a user writes it, targets, gradient and curvature by hand
    "asymmetric": (asymmetric, NOISY, lambda s, y: (np.where(s < y, 6, 2) * (s - y), np.where(s < y, 6.0, 2.0))),
    "zero-inflated": (zero_inflated, INFLATED, slopes_of_zero_inflated),
    "ordinal": (ordinal, GRADES, slopes_of_ordinal),
}


def trained(loss, targets, trees=30, **arguments):
    booster = descent(loss, learning_rate=0.3, depth=3, **arguments)
    return fit(booster, (BINNED, targets), steps=trees, progress=False)


@pytest.mark.long
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_ones_own_trains_as_well_as_its_closed_form(name):
    xgboost = pytest.importorskip("xgboost", reason="the peer is not installed")
    loss, targets, by_hand = LOSSES[name]
    scores = np.random.default_rng(1).normal(size=(N, 1)).astype(np.float32)
    found = curvatures.derivatives(loss, None, None, *(jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in (scores, targets)))
    gradient, curvature = by_hand(scores[:, 0].astype(float), targets)
    np.testing.assert_allclose(found.gradient(scores, targets)[:, 0], gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.curvature(scores, targets)[:, 0], curvature, rtol=1e-3, atol=1e-4)

    params = trained(loss, targets).params
    codes = np.asarray(BINNED.codes, np.float32)  # one bin for each
    matrix = xgboost.QuantileDMatrix(codes, targets, base_margin=np.full(N, params.intercept))
    told = {"tree_method": "hist", "max_depth": 3, "eta": 0.3, "base_score": 0.0}
    model = xgboost.train(told, matrix, 30, obj=lambda scores, _: by_hand(scores.astype(float), targets))
    ours, theirs = (
        float(jax.vmap(loss)(jnp.asarray(scores), targets).mean())
        for scores in (predict(params, BINNED), model.predict(matrix, output_margin=True))
    )
    assert ours <= theirs + 1e-3 * abs(theirs)


def test_the_gaussian_is_minus_its_log_density_and_knows_its_fisher_information():
    score, target = jnp.array([0.7, -0.4]), 1.9
    scale = np.exp(-0.4)
    density = np.exp(-((1.9 - 0.7) ** 2) / (2 * scale**2)) / np.sqrt(2 * np.pi * scale**2)
    np.testing.assert_allclose(losses.gaussian(score, target), -np.log(density), rtol=1e-5)
    drawn = fisher(losses.gaussian, lambda key, score: score[0] + jnp.exp(score[1]) * jax.random.normal(key), draws=40_000)
    closed = curvatures.declared(losses.gaussian)(score, target)
    np.testing.assert_allclose(closed, [[scale**-2, 0], [0, 2]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(drawn(score, target), closed, atol=0.06)


def test_a_gaussian_of_two_scores_finds_the_mean_and_how_sure_it_is():
    scale = np.where(FEATURES[:, 3] > 0, 1.0, 0.25)
    targets = (np.sin(2 * FEATURES[:, 2]) + scale * np.random.default_rng(2).normal(size=N)).astype(np.float32)
    made = trained(losses.gaussian, targets, num_outputs=2)
    mean, log_scale = np.asarray(predict(made.params, BINNED)).T
    assert np.corrcoef(mean, np.sin(2 * FEATURES[:, 2]))[0, 1] > 0.9
    for is_noisy in (False, True):
        own = scale == (1.0 if is_noisy else 0.25)
        assert abs(np.exp(log_scale[own].mean()) / scale[own][0] - 1) < 0.25
    of_truth = np.log(scale).mean() + 0.5 + np.log(2 * np.pi) / 2
    assert abs(made.history["loss"][-1] - of_truth) < 0.25 < made.history["loss"][0] - of_truth


@pytest.mark.long
def test_the_natural_gradient_does_not_depend_on_how_a_distribution_is_written():
    """Of the mean in other units, the scale in powers of two: all trees are the same but for those units."""
    other = lambda score, target: losses.gaussian(jnp.stack([10 * score[0], jnp.log(2.0) * score[1]]), target)  # noqa: E731

    def information(score, target):
        bend = jnp.diag(jnp.stack([10.0, jnp.log(2.0)]))
        inner = jnp.diag(jnp.stack([jnp.exp(-2 * jnp.log(2.0) * score[1]), jnp.array(2.0)]))
        return bend @ inner @ bend

    settings = {"num_outputs": 2, "l2": 0.0, "min_child_weight": 0.0, "min_child_samples": 20, "trees": 5}
    plain = predict(trained(losses.gaussian, NOISY, **settings).params, BINNED)
    rescaled = predict(trained(other, NOISY, curvature=information, **settings).params, BINNED)
    np.testing.assert_allclose(rescaled * np.array([[10, np.log(2)]]), plain, atol=2e-3)


def test_a_distribution_that_is_not_drawn_from_is_refused():
    with pytest.raises(ValueError, match=r"`draws` must be .*at least 1, got 0"):
        fisher(losses.poisson, jax.random.poisson, draws=0)
    with pytest.raises(ValueError, match=r"hold a mean and the logarithm of a scale, shape \(2,\), got \(3,\)"):
        losses.gaussian(jnp.zeros(3), 0.0)
    with pytest.raises(ValueError, match=r"`target` must be a scalar, got \(1,\)"):
        losses.gaussian(jnp.zeros(2), jnp.zeros(1))


def test_fixed_parameters_do_not_hide_what_a_loss_is_known_for():
    assert curvatures.declared(functools.partial(losses.gaussian)) is curvatures.declared(losses.gaussian)
