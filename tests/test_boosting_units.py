"""Trees for a target in other units are those trees in other units: for every loss, number of outputs and curvature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradkit as gk
from gradkit import losses
from gradkit.boosting import bin, curvatures, descent, intercepts, leaves

RNG = np.random.default_rng(0)
N = 240
FEATURES = RNG.normal(size=(N, 3)).astype(np.float32)
BINNED = bin(FEATURES, bins=16)
SIGNAL = FEATURES[:, :1] * np.array([1.0, -2.0, 0.5]) + np.sin(2 * FEATURES[:, 1:2])
TARGETS = SIGNAL + RNG.normal(size=(N, 3)) + np.array([0.5, -1.0, 2.0])
WEIGHTS = RNG.uniform(0.5, 1.5, N).astype(np.float32)  # so that no two splits are equally good
HIGH = functools.partial(losses.quantile, level=0.7)


def scaled_huber(score, target):
    """Whose joint is given in units of the target, beside it."""
    truth, joint = target
    return jnp.where(
        jnp.abs(score - truth) <= joint, (score - truth) ** 2 / 2, joint * (jnp.abs(score - truth) - joint / 2)
    ).mean()


@functools.lru_cache
def scores_fn(loss, num_outputs, curvature, steps):
    """A compiled function from targets to the scores after some trees."""
    booster = descent(loss, learning_rate=0.3, depth=2, num_outputs=num_outputs, curvature=curvature, min_child_samples=10)

    def scores(targets):
        data = BINNED, targets, WEIGHTS
        state = booster.init(jax.random.key(0), data, None)
        return jax.lax.fori_loop(0, steps, lambda _, state: booster.step(state, data)[0], state).scores

    return jax.jit(scores)


def boosted(loss, targets, num_outputs=None, curvature=None, steps=3):
    targets = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), targets)
    return np.asarray(scores_fn(loss, num_outputs, curvature, steps)(targets), float)


def of_outputs(num_outputs):
    return TARGETS[:, 0] if num_outputs is None else TARGETS[:, :num_outputs]


COUNTS = (None, 2, 3)
ANY = ("diagonal", "block", "unit")
EQUIVARIANT = [(loss, k, "unit") for loss in (losses.absolute, HIGH) for k in COUNTS]
EQUIVARIANT += [(loss, k, curvature) for loss in (losses.squared, scaled_huber) for k in COUNTS for curvature in ANY]
QUICK = [(losses.absolute, 2, "unit"), (losses.squared, 2, "block")]


def named(cases):
    """Cases that take a program each: all but the quick ones are long."""
    name = lambda loss: getattr(loss, "__name__", "quantile")  # noqa: E731
    return [
        pytest.param(*case, id="-".join(map(str, (name(case[0]), *case[1:]))), marks=[] if case in QUICK else pytest.mark.long)
        for case in cases
    ]


@pytest.mark.parametrize(("loss", "num_outputs", "curvature"), named(EQUIVARIANT))
def test_scores_have_the_units_of_the_target(loss, num_outputs, curvature):
    targets = of_outputs(num_outputs)

    def of(scale, shift):
        moved = scale * targets + shift
        return boosted(loss, (moved, 0 * moved + 0.7 * scale) if loss is scaled_huber else moved, num_outputs, curvature)

    plain = of(1.0, 0.0)
    assert np.abs(plain - plain.mean(0)).max() > 0.3
    for scale, shift in ((1e-4, 0.0), (1e5, 0.0), (1.0, 30.0), (1e5, -3e6)):
        np.testing.assert_allclose(of(scale, shift), scale * plain + shift, rtol=0, atol=2e-3 * scale)


@pytest.mark.parametrize("curvature", [None, *(pytest.param(policy, marks=pytest.mark.long) for policy in ANY)])
def test_a_gaussians_mean_has_the_units_of_the_target_and_its_scale_their_logarithm(curvature):
    plain = boosted(losses.gaussian, TARGETS[:, 0], 2, curvature)
    for scale, shift in ((1e-4, 0.0), (1e5, 0.0), (1.0, 30.0)):
        mean, log_scale = boosted(losses.gaussian, scale * TARGETS[:, 0] + shift, 2, curvature).T
        np.testing.assert_allclose(mean, scale * plain[:, 0] + shift, rtol=0, atol=3e-3 * scale)
        np.testing.assert_allclose(log_scale, plain[:, 1] + np.log(scale), rtol=0, atol=3e-3)


@pytest.mark.parametrize(
    ("num_outputs", "curvature"),
    [(None, None), *(pytest.param(k, policy, marks=pytest.mark.long) for k in COUNTS for policy in ANY)],
)
def test_a_rate_in_other_units_moves_its_logarithm(num_outputs, curvature):
    rates = np.exp(0.5 * of_outputs(num_outputs))
    plain = boosted(losses.poisson, rates, num_outputs, curvature)
    assert np.ptp(plain) > 0.3
    for scale in (1e-4, 1e5):
        found = boosted(losses.poisson, scale * rates, num_outputs, curvature)
        np.testing.assert_allclose(found, plain + np.log(scale), rtol=0, atol=3e-3)


def test_log_cosh_is_a_square_in_small_units_and_absolute_in_large_ones():
    shifted = boosted(losses.log_cosh, TARGETS[:, 0] + 30)
    np.testing.assert_allclose(shifted, boosted(losses.log_cosh, TARGETS[:, 0]) + 30, rtol=0, atol=2e-3)
    for near, far in ((1e-4, 1e-3), (1e4, 1e5)):
        few, many = (boosted(losses.log_cosh, scale * TARGETS[:, 0]) / scale for scale in (near, far))
        np.testing.assert_allclose(few, many, rtol=0, atol=5e-3)
        assert np.ptp(few) > 0.3


def intercept(loss, targets, num_outputs=None, curvature=None):
    targets = jnp.asarray(targets)
    score, target = jax.ShapeDtypeStruct((num_outputs or 1,), np.float32), jax.ShapeDtypeStruct(targets.shape[1:], targets.dtype)
    derivatives = curvatures.derivatives(loss, num_outputs, curvature, score, target)

    @jax.jit
    def of(targets):
        n = len(targets)
        rows = leaves.Rows(jnp.zeros((n, num_outputs or 1)), targets, jnp.ones(1), jnp.zeros(n, jnp.int32), 1)
        return intercepts.intercept(rows, derivatives)

    return np.asarray(of(targets), float)


CLASSES = np.repeat([0, 1, 2], [50, 150, 100])
IS_FIRST = (CLASSES == 0).astype(np.float32)
LOG_ODDS = np.log(50 / 250)


@pytest.mark.parametrize("curvature", [None, *(pytest.param(policy, marks=pytest.mark.long) for policy in ANY)])
def test_the_intercept_of_classes_is_right_by_any_curvature(curvature):
    shares = jax.nn.softmax(intercept(losses.softmax, CLASSES, 3, curvature))
    np.testing.assert_allclose(shares, [1 / 6, 1 / 2, 1 / 3], atol=2e-5)
    np.testing.assert_allclose(intercept(losses.logistic, IS_FIRST, None, curvature), LOG_ODDS, rtol=1e-5)
    flat = functools.partial(losses.focal, gamma=0.0)
    np.testing.assert_allclose(intercept(flat, IS_FIRST, None, curvature), LOG_ODDS, rtol=1e-5)
    if curvature in (None, "unit"):
        np.testing.assert_allclose(intercept(losses.hinge, IS_FIRST, None, curvature), -1.0)


def well(score, target):
    """Flat far from the target: its slope is 0 there, and no minimum."""
    return 1 - jnp.exp(-((score - target) ** 2))


@pytest.mark.long
def test_a_loss_that_is_flat_far_from_all_targets_finds_them():
    targets = np.round(FEATURES[:, 0] * 8) / 8
    near = intercept(well, targets)
    assert abs(near) < 0.5
    for shift in (64, -1024):
        np.testing.assert_allclose(intercept(well, targets + np.float32(shift)) - shift, near, atol=1e-3)
    clipped = lambda score, target: jnp.minimum(jnp.abs(score - target), 5.0)  # noqa: E731
    np.testing.assert_allclose(intercept(clipped, targets + np.float32(64)) - 64, np.median(targets), atol=0.2)
    both = np.stack([targets, 2 * targets + 64], 1)
    found = intercept(lambda scores, targets: well(scores, targets).sum(), both, 2)
    np.testing.assert_allclose(found[0], near, atol=1e-3)
    assert np.abs(both[:, 1] - found[1]).min() < 0.5


@pytest.mark.long
def test_the_intercept_of_any_size_is_found():
    sizes = np.abs(TARGETS[:, 0]).astype(np.float32)
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(intercept(losses.poisson, scale * sizes), np.log(scale * sizes.mean()), rtol=1e-5)
        np.testing.assert_allclose(intercept(losses.absolute, scale * sizes), scale * np.median(sizes), rtol=1e-5)
        np.testing.assert_allclose(intercept(losses.log_cosh, 1e5 * sizes), 1e5 * np.median(sizes), rtol=1e-3)
    many_zeros = np.where(np.arange(9) < 6, 0, np.arange(9)).astype(np.float32)
    np.testing.assert_allclose(intercept(losses.absolute, many_zeros), 0, atol=1e-30)
    np.testing.assert_allclose(intercept(HIGH, many_zeros), np.quantile(many_zeros, 0.7, method="inverted_cdf"), atol=1e-30)


COUPLED = {  # loss of scores and a target, where it is least by the target's median
    "near": (lambda s, y: jnp.abs(s[0] - y) + 0.3 * jnp.abs(s[1] - s[0] - 1), lambda y: [y, y + 1]),
    "chain": (
        lambda s, y: jnp.abs(s[0] - y) + 0.3 * jnp.abs(s[1] - s[0] - 1) + 0.2 * jnp.abs(s[2] - s[1] + 2),
        lambda y: [y, y + 1, y - 1],
    ),
    "sum": (lambda s, y: jnp.abs(s[0] + s[1] - y) + 0.01 * jnp.abs(s[0] - s[1] - 3), lambda y: [y / 2 + 1.5, y / 2 - 1.5]),
    "far": (lambda s, y: jnp.abs(s[0] - 1e6 * y) + 0.3 * jnp.abs(s[1] - s[0] - 1e6), lambda y: [1e6 * y, 1e6 * y + 1e6]),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", COUPLED)
def test_scores_that_a_straight_loss_couples_are_found_together(name):
    """Where all kinks meet, no score can move by itself, and the loss falls along a way between them."""
    loss, least_at = COUPLED[name]
    targets = TARGETS[:, 0].astype(np.float32)
    mean = lambda scores: float(jax.vmap(loss, (None, 0))(jnp.asarray(scores, jnp.float32), targets).mean())  # noqa: E731
    found, least = intercept(loss, targets, len(least_at(0))), least_at(np.median(targets))
    np.testing.assert_allclose(mean(found), mean(least), rtol=1e-5)


def test_a_loss_without_a_least_constant_is_no_finished_fit():
    fall = lambda score, target: score * target  # noqa: E731
    assert np.isnan(intercept(fall, np.ones(9, np.float32))).all()
    fit = gk.fit(descent(fall, learning_rate=0.1), (BINNED, np.ones(N, np.float32)), steps=2, progress=False)
    assert fit.status is gk.Status.DIVERGED
    told = gk.boosting.describe_failure(fall, (BINNED, np.ones(N, np.float32)), fit.state.scores)
    assert "no constant was found at which the loss of all examples is least" in told.lower()


def test_the_diabetes_of_people_have_their_mean_and_scale():
    datasets = pytest.importorskip("sklearn.datasets")
    _, y = datasets.load_diabetes(return_X_y=True)
    y = y.astype(np.float32)
    np.testing.assert_allclose(intercept(losses.gaussian, y, 2), [y.mean(), np.log(y.std())], rtol=1e-4)
    both = np.stack([y, 585 + 0 * y], 1)
    np.testing.assert_allclose(intercept(losses.absolute, both, 2), [np.median(y), 585], rtol=1e-6)


@pytest.mark.long
def test_medians_of_large_numbers_are_learned_as_those_of_small_ones():
    large = gk.sklearn.GradientBoostingRegressor("absolute_error")
    assert large.fit(FEATURES, 1e5 * FEATURES[:, 0]).score(FEATURES, 1e5 * FEATURES[:, 0]) > 0.98


def test_a_curvature_that_is_nothing_is_refused():
    with pytest.raises(ValueError, match="`curvature` must be unit for a loss of straight pieces, got 'diagonal'"):
        intercept(losses.absolute, np.ones(9, np.float32), None, "diagonal")


@pytest.mark.parametrize("loss", [losses.softmax, losses.gaussian], ids=["softmax", "gaussian"])
def test_a_block_of_a_few_scores_takes_no_lapack(loss):
    """Its batched calls wait for each other on a CPU."""
    booster = descent(loss, learning_rate=0.3, depth=2, num_outputs=2, curvature="block")
    targets = jnp.zeros(N, jnp.int32 if loss is losses.softmax else jnp.float32)

    def one(targets):
        data = BINNED, targets
        return booster.step(booster.init(jax.random.key(0), data, None), data)[0].scores

    assert "lapack" not in jax.jit(one).lower(targets).as_text().lower()


@pytest.mark.long
def test_blocks_of_many_examples_end():
    binned = bin(RNG.normal(size=(15_000, 3)), bins=16)
    data = binned, (np.asarray(binned.codes)[:, 0] > 7).astype(np.int32)
    booster = descent(losses.softmax, learning_rate=0.3, depth=3, num_outputs=2, curvature="block")
    assert gk.fit(booster, data, steps=5, progress=False).history["loss"][-1] < 0.2
