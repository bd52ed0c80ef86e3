"""What boosting makes of weights: splitting one changes nothing, zero is absence, a common factor is one of the penalties.

And what it says of the example at which a loss is not finite.
"""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradkit as gk
from gradkit import losses
from gradkit.boosting import Examples, bin, descent, describe_failure

RNG = np.random.default_rng(0)
N = 160
FEATURES = RNG.normal(size=(N, 3)).astype(np.float32)
BINNED = bin(FEATURES, bins=16)
TARGETS = (FEATURES[:, 0] + np.sin(2 * FEATURES[:, 1]) + 0.5 * RNG.normal(size=N)).astype(np.float32)
WEIGHTS = RNG.uniform(0.5, 2.5, N).astype(np.float32)
LOSSES = {  # loss, targets, outputs
    "squared": (losses.squared, TARGETS, None),
    "absolute": (losses.absolute, TARGETS, None),
    "poisson": (losses.poisson, np.exp(TARGETS), None),
    "gaussian": (losses.gaussian, TARGETS, 2),
}


@functools.lru_cache
def program(loss, num_outputs, form=()):
    """A compiled function from bins, targets, weights and folds to scores, the loss and the held-out loss after three trees."""
    booster = descent(loss, learning_rate=0.3, depth=2, num_outputs=num_outputs, fold=1, **dict(form))

    def run(codes, targets, weights, fold):
        data = Examples(gk.boosting.Binned(codes, BINNED.num_bins, (), BINNED.has_missing), targets, weights, fold=fold)
        state = booster.init(jax.random.key(0), data, None)
        state = jax.lax.fori_loop(0, 2, lambda _, state: booster.step(state, data)[0], state)
        state, info, _ = booster.step(state, data)
        return state.scores, info.loss, info.metrics["held_out_loss"]

    return jax.jit(run)


FOLD = (np.arange(N) % 4 == 0).astype(np.int32)


def boosted(name, rows, weights, form=(), targets=None):
    loss, own, num_outputs = LOSSES[name]
    targets = own[rows] if targets is None else targets
    run = program(loss, num_outputs, form)
    codes = np.asarray(BINNED.codes)[rows]
    return [np.asarray(each, float) for each in run(codes, targets, np.asarray(weights, np.float32), FOLD[rows])]


ALL = np.arange(N)


@pytest.mark.parametrize("name", ["squared", *(pytest.param(name, marks=pytest.mark.long) for name in list(LOSSES)[1:])])
def test_a_weight_may_be_split_among_copies_and_zero_is_absence(name):
    scores, loss, held_out = boosted(name, ALL, WEIGHTS)
    twice = boosted(name, np.concatenate([ALL, ALL]), np.concatenate([0.25 * WEIGHTS, 0.75 * WEIGHTS]))
    np.testing.assert_allclose(twice[0][:N], scores, atol=1e-4)
    np.testing.assert_allclose(twice[1:], [loss, held_out], rtol=1e-4)

    rows, wild = np.concatenate([ALL, ALL[:96]]), np.concatenate([LOSSES[name][1], np.full(96, np.inf, np.float32)])
    padded = boosted(name, rows, np.concatenate([WEIGHTS, np.zeros(96)]), targets=wild)
    np.testing.assert_allclose(padded[0][:N], scores, atol=1e-5)
    np.testing.assert_allclose(padded[1:], [loss, held_out], rtol=1e-6)


@pytest.mark.parametrize("name", ["squared", *(pytest.param(name, marks=pytest.mark.long) for name in list(LOSSES)[1:])])
def test_a_common_factor_of_weights_is_one_of_the_penalties(name):
    form = (("l2", 2.0), ("min_child_weight", 3.0)) if name == "squared" else ()
    times = tuple((key, 1e-3 * value) for key, value in form)
    one, other = boosted(name, ALL, WEIGHTS, form), boosted(name, ALL, 1e-3 * WEIGHTS, times)
    for ours, theirs in zip(one, other):
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=1e-4)


def test_a_fit_whose_trees_have_no_split_says_so():
    small = descent(losses.squared, learning_rate=0.3, depth=2, min_child_weight=1.0)
    constant, grown = (gk.fit(small, (BINNED, TARGETS, w), steps=2, progress=False) for w in (WEIGHTS / 1e3, WEIGHTS))
    assert "; no tree has a split: `min_child_weight`, `min_child_samples` or `gamma` forbids them all" in repr(constant)
    assert not grown.remarks


def test_weights_below_zero_are_refused_and_where_they_are_traced_no_fit_finishes():
    weights = WEIGHTS.copy()
    weights[5] = -0.5
    with pytest.raises(ValueError, match=r"`weights` must be at least 0, got -0.5 at example 5\. A weight of 0 leaves"):
        Examples(BINNED, TARGETS, weights)
    with pytest.raises(ValueError, match=r"`weights` must not all be 0"):
        Examples(BINNED, TARGETS, jnp.zeros(N))
    for weights_ in (weights, np.zeros(N)):
        fit = gk.fit(descent(losses.squared, learning_rate=0.1, depth=2), (BINNED, TARGETS, weights_), steps=2, progress=False)
        assert fit.status is gk.Status.DIVERGED


class Column:
    """What numpy reads as an array without being one, as columns of tables are."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


def test_columns_of_tables_are_looked_at_as_arrays_are():
    data = Examples(BINNED, {"a": Column(TARGETS)}, Column(WEIGHTS), Column(WEIGHTS), Column(FOLD))
    assert data.folds == (0, 1) and all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(tuple(data[1:])))
    with pytest.raises(ValueError, match="`fold` must be one of the data's folds: 0, 1, got 7"):
        gk.fit(descent(losses.squared, learning_rate=0.1, fold=7), data._replace(targets=TARGETS), steps=2, progress=False)
    with pytest.raises(ValueError, match=r"`weights` must be at least 0, got -1"):
        gk.boosting.describe_failure(losses.squared, (BINNED, TARGETS, Column(-np.ones(N))), TARGETS)
    for name in ("weights", "fold"):
        with pytest.raises(TypeError, match=f"`{name}` must hold numbers, got ndarray of dtype object"):
            Examples(BINNED, TARGETS, **{name: Column(np.full(N, None))})


def test_examples_are_a_pytree_that_knows_its_folds():
    data = Examples(BINNED, TARGETS, WEIGHTS, fold=FOLD)
    assert data.folds == (0, 1) == jax.tree.map(jnp.asarray, data).folds == data._replace(weights=None).folds
    assert jax.jit(lambda fold: Examples(BINNED, TARGETS, fold=fold).folds is None)(FOLD)
    assert pickle.loads(pickle.dumps(data)).folds == (0, 1)


@pytest.mark.parametrize("guilty", [0, 7, N - 1])
def test_the_guilty_example_is_named_wherever_it_is(guilty):
    """The loss is NaN or infinite at one example: at the intercept, whatever scores became of it."""
    for wrong in (np.nan, np.inf):
        loss = lambda score, target, wrong=wrong: (score - target) ** 2 + jnp.where(target == 99, wrong, 0.0)  # noqa: E731
        targets = TARGETS.copy()
        targets[guilty] = 99
        for scores in (np.full(N, np.nan), np.zeros(N)):
            told = describe_failure(loss, (BINNED, targets), scores)
            assert told.startswith(f"The loss of example {guilty} is not finite: value {wrong}"), told
            assert told.endswith("at score 0.0, target 99.0."), told
        weights = (np.arange(N) != guilty).astype(np.float32)
        assert "least" in describe_failure(loss, (BINNED, targets, weights), np.full(N, np.nan))


@pytest.mark.long
def test_a_failed_fit_names_its_example_at_the_intercept_and_later():
    targets = TARGETS.copy()
    targets[11] = 99
    lost = lambda score, target: (score - target) ** 2 + jnp.sqrt(100 + score - 2 * target)  # noqa: E731
    fit = gk.fit(descent(lost, learning_rate=0.3, depth=2), (BINNED, targets), steps=2, progress=False)
    assert fit.status is gk.Status.DIVERGED and np.isnan(fit.state.scores).all()
    assert describe_failure(lost, (BINNED, targets), fit.state.scores).startswith("The loss of example 11 is not finite")

    trap = int(np.argsort(TARGETS)[int(0.9 * N)])
    targets = np.stack([TARGETS, np.where(np.arange(N) == trap, 1.0, 0.0)], 1).astype(np.float32)
    falls = lambda score, target: jnp.where((target[1] > 0) & (score > 0.5), jnp.inf, (score - target[0]) ** 2)  # noqa: E731
    booster = descent(falls, learning_rate=2.5, depth=2)  # a leaf keeps out of the trap, a leaf and a half steps into it
    fit = gk.fit(booster, (BINNED, targets), steps=9, progress=False)
    assert fit.status is gk.Status.DIVERGED and fit.steps > 0
    assert describe_failure(falls, (BINNED, targets), fit.state.scores).startswith(f"The loss of example {trap} is not finite")
