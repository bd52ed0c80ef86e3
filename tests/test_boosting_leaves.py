"""Curvatures against closed forms, and the values of leaves against what statistics says they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from gradkit import losses
from gradkit.boosting import curvatures, gauss_newton, intercepts, leaves
from gradkit.boosting.growing import Bounds
from gradkit.boosting.splits import Penalties

RNG = np.random.default_rng(0)
TARGETS = RNG.normal(2.0, 3.0, 301).astype(np.float32)
COUNTS = RNG.poisson(4.0, 301).astype(np.float32)
HIGH = functools.partial(losses.quantile, level=0.8)
CLASSES = (RNG.random(301) < 0.3).astype(np.float32)


def p(score):
    return 1 / (1 + np.exp(-score))


CLOSED_FORMS = {  # loss, targets, gradient, curvature: as in textbooks, not by autodiff
    "squared": (losses.squared, TARGETS, lambda s, y: 2 * (s - y), lambda s, y: 2 + 0 * s),
    "absolute": (losses.absolute, TARGETS, lambda s, y: np.sign(s - y), lambda s, y: 1 + 0 * s),
    "quantile": (HIGH, TARGETS, lambda s, y: np.where(y > s, -0.8, 0.2), lambda s, y: 1 + 0 * s),
    "huber": (losses.huber, TARGETS, lambda s, y: np.clip(s - y, -1, 1), lambda s, y: 1 + 0 * s),
    "log_cosh": (losses.log_cosh, TARGETS, lambda s, y: np.tanh(s - y), lambda s, y: 1 + 0 * s),
    "poisson": (losses.poisson, COUNTS, lambda s, y: np.exp(s) - y, lambda s, y: np.exp(s)),
    "logistic": (losses.logistic, CLASSES, lambda s, y: p(s) - y, lambda s, y: p(s) * (1 - p(s))),
    "hinge": (losses.hinge, 2 * CLASSES - 1, lambda s, y: np.where(y * s < 1, -y, 0), lambda s, y: 1 + 0 * s),
}  # fmt: skip


def of(loss, scores, targets, curvature=None, num_outputs=None):
    example = jax.ShapeDtypeStruct(scores.shape[1:], scores.dtype), jax.ShapeDtypeStruct(targets.shape[1:], targets.dtype)
    return curvatures.derivatives(loss, num_outputs, curvature, *example)


@functools.partial(jax.jit, static_argnums=0)
def values(loss, scores, targets):
    return jax.vmap(loss)(scores, targets)


def in_leaves(scores, targets, leaf=None, num_leaves=1, weights=None):
    n = len(targets)
    leaf = jnp.zeros(n, jnp.int32) if leaf is None else leaf
    return leaves.Rows(jnp.asarray(scores), jnp.asarray(targets), jnp.ones(n) if weights is None else weights, leaf, num_leaves)


@functools.partial(jax.jit, static_argnums=0)
def solved(loss, rows, l1, l2):
    rows = rows._replace(num_leaves=4)  # static, as in a step
    return leaves.solve(rows, of(loss, rows.scores, rows.targets), Penalties(l1=l1, l2=l2), steps=30)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_gradient_and_curvature_are_those_of_the_textbook(name):
    loss, targets, gradient, curvature = CLOSED_FORMS[name]
    scores = jnp.asarray(RNG.normal(size=(301, 1)), jnp.float32)
    found = of(loss, scores, targets)
    flat = np.asarray(scores[:, 0], float)
    np.testing.assert_allclose(found.gradient(scores, targets)[:, 0], gradient(flat, targets), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.curvature(scores, targets)[:, 0], curvature(flat, targets), rtol=1e-4, atol=1e-5)
    if name == "log_cosh":  # it vanishes far from the target, so that trees want it only if it is asked for
        found = of(loss, scores, targets, "diagonal").curvature(scores, targets)
        np.testing.assert_allclose(found[:, 0], 1 - np.tanh(flat - targets) ** 2, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_the_softmax_has_its_textbook_gradient_diagonal_and_matrix():
    scores, targets = jnp.asarray(RNG.normal(size=(50, 4)), jnp.float32), jnp.asarray(RNG.integers(0, 4, 50))
    share = np.asarray(jax.nn.softmax(scores), float)
    found = of(losses.softmax, scores, targets, num_outputs=4)
    np.testing.assert_allclose(found.gradient(scores, targets), share - np.eye(4)[targets], atol=1e-6)
    np.testing.assert_allclose(found.curvature(scores, targets), share * (1 - share), atol=1e-6)
    block = of(losses.softmax, scores, targets, "block", 4).matrix(scores, targets)
    expected = share[:, :, None] * np.eye(4) - share[:, :, None] * share[:, None, :]
    np.testing.assert_allclose(block, expected, atol=1e-5)


def test_negative_curvature_counts_as_none():
    dip = lambda score, target: -jnp.cos(score - target)  # noqa: E731
    scores, targets = jnp.array([[0.0], [3.0]]), jnp.zeros(2)
    np.testing.assert_allclose(of(dip, scores, targets).curvature(scores, targets)[:, 0], [1.0, 0.0], atol=1e-6)
    saddle = lambda score, target: score[0] * score[1]  # noqa: E731
    scores = jnp.ones((2, 2))
    np.testing.assert_allclose(
        of(saddle, scores, targets, "block", 2).matrix(scores, targets)[0], [[0.5, 0.5], [0.5, 0.5]], atol=1e-6
    )


@pytest.mark.parametrize(
    ("loss", "is_straight"),
    [
        (lambda s, t: jnp.abs(s - t), True),
        (lambda s, t: jnp.where(s > t, 3 * (s - t), t - s), True),
        (lambda s, t: jnp.maximum(0.2 * (t - s), 0.8 * (s - t)), True),
        (lambda s, t: (s - t) ** 2, False),
        (lambda s, t: jnp.where(s > t, 5 * (s - t) ** 2, (s - t) ** 2), False),
        (lambda s, t: jnp.exp(s) - t * s, False),
    ],
)
def test_an_unknown_loss_of_straight_pieces_is_known_as_such(loss, is_straight):
    assert of(loss, jnp.zeros((1, 1)), jnp.zeros(1)).has_curvature != is_straight


def test_gauss_newton_is_the_curvature_without_the_bend_of_the_link():
    curve = gauss_newton(lambda mean, y: (mean - y) ** 2, lambda score: jnp.exp(score))
    scores, targets = jnp.asarray(RNG.normal(size=(20, 1)), jnp.float32), jnp.asarray(RNG.normal(size=20), jnp.float32)
    found = of(lambda s, y: (jnp.exp(s) - y) ** 2, scores, targets, curve).curvature(scores, targets)
    np.testing.assert_allclose(found, 2 * np.exp(2 * np.asarray(scores)), rtol=1e-5)


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("loss", "targets", "expected"),
    [
        (losses.squared, TARGETS, TARGETS.mean()),
        (losses.absolute, TARGETS, np.median(TARGETS)),
        (lambda s, y: jnp.abs(s - y), TARGETS, np.median(TARGETS)),
        (HIGH, TARGETS, np.quantile(TARGETS, 0.8, method="inverted_cdf")),
        (losses.poisson, COUNTS, np.log(COUNTS.mean())),
        (losses.logistic, CLASSES, np.log(CLASSES.mean() / (1 - CLASSES.mean()))),
        (losses.poisson, 1e4 * COUNTS, np.log(1e4 * COUNTS.mean())),
        (losses.absolute, np.array([1.0, 2.0, 4.0, 8.0], np.float32), 3.0),  # the middle of a flat minimum
        (losses.absolute, 1e-4 * TARGETS, np.median(1e-4 * TARGETS)),
        (losses.absolute, 1e6 * TARGETS, np.median(1e6 * TARGETS)),
        (losses.hinge, np.ones(9, np.float32), 1.0),
    ],
)  # fmt: skip
def test_the_intercept_is_the_constant_of_least_loss(loss, targets, expected):
    rows = in_leaves(jnp.zeros((len(targets), 1)), targets)
    found = jax.jit(lambda: intercepts.intercept(rows, of(loss, rows.scores, targets)))()
    np.testing.assert_allclose(found, [expected], rtol=2e-6, atol=1e-9)


def test_the_intercept_of_classes_is_their_log_shares():
    targets = jnp.asarray(RNG.integers(0, 3, 400) ** 2 // 2)
    rows = in_leaves(jnp.zeros((400, 3)), targets)
    found = jax.nn.softmax(intercepts.intercept(rows, of(losses.softmax, rows.scores, targets, num_outputs=3)))
    np.testing.assert_allclose(found, np.bincount(targets, minlength=3) / 400, atol=1e-5)


@pytest.mark.few(6)
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.0, 3.0), (8.0, 0.0), (5.0, 2.0)])
@pytest.mark.parametrize("loss", [losses.logistic, losses.absolute, losses.poisson])
def test_leaves_minimize_their_loss_with_its_penalties(loss, l1, l2):
    leaf = RNG.integers(0, 3, 301).astype(np.int32)
    targets = TARGETS if loss is losses.absolute else CLASSES
    scores, weights = RNG.normal(size=(301, 1)).astype(np.float32), RNG.uniform(0, 2, 301).astype(np.float32)
    rows = in_leaves(scores, targets, jnp.asarray(leaf), 4, jnp.asarray(weights))
    found = solved(loss, rows, l1, l2)[:, 0]
    for number in range(3):
        own = leaf == number

        def objective(c, own=own):
            value = values(loss, scores[:, 0] + np.float32(c), targets)[own]
            return float(np.asarray(value, float) @ weights[own]) + l2 / 2 * c**2 + l1 * abs(c)

        best = optimize.minimize_scalar(objective, bounds=(-10, 10), method="bounded", options={"xatol": 1e-6})
        assert objective(float(found[number])) <= best.fun + 1e-4 * abs(best.fun)
    assert found[3] == 0, "a leaf without examples"


@pytest.mark.long
def test_a_block_leaf_is_the_solution_of_its_system():
    matrix = np.array([[2.0, 1.2], [1.2, 1.0]], np.float32)
    loss = lambda s, t: (s - t) @ matrix @ (s - t) / 2  # noqa: E731
    targets = RNG.normal(size=(40, 2)).astype(np.float32)
    rows = in_leaves(jnp.zeros((40, 2)), targets)
    found = leaves.solve(rows, of(loss, rows.scores, targets, "block", 2), Penalties(l2=3.0))
    expected = np.linalg.solve(40 * matrix + 3 * np.eye(2), matrix @ targets.sum(0))
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_a_step_that_would_raise_the_loss_is_halved():
    rows = in_leaves(jnp.full((5, 1), -8.0), jnp.full(5, 9.0))
    found = leaves.solve(rows, of(losses.poisson, rows.scores, rows.targets), Penalties(l2=0.0))
    assert 0 < float(found[0, 0]) < 40, "a full Newton step goes to 26,000"
    wave = lambda s, t: jnp.sin(s)  # noqa: E731
    rows = in_leaves(jnp.full((1, 1), -1.4), jnp.zeros(1))
    moved = leaves.solve(rows, of(wave, rows.scores, rows.targets), Penalties(l2=0.0))
    assert np.sin(-1.4 + float(moved[0, 0])) <= np.sin(-1.4) + 1e-6


def test_leaves_keep_to_their_limits():
    rows = in_leaves(jnp.zeros((3, 1)), jnp.array([1.0, 5.0, 9.0]), jnp.arange(3), 3)
    own, free = of(losses.squared, rows.scores, rows.targets), Penalties(l2=0.0)
    np.testing.assert_allclose(leaves.solve(rows, own, free._replace(max_delta_step=4.0))[:, 0], [1.0, 4.0, 4.0], rtol=1e-6)
    bounds = Bounds(jnp.array([2.0, -jnp.inf, 0.0]), jnp.array([3.0, 4.5, jnp.inf]))
    np.testing.assert_allclose(leaves.solve(rows, own, free, bounds=bounds)[:, 0], [2.0, 4.5, 9.0], rtol=1e-6)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="`curvature` must be one of diagonal, block, unit, got 'hessian'"):
        of(losses.squared, jnp.zeros((1, 1)), jnp.zeros(1), "hessian")
