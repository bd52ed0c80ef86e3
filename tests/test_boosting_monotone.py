"""Monotone trees of losses without curvature: in the units of the target, and monotone wherever one looks."""

import functools

import jax
import numpy as np
import pytest
from test_boosting_units import FEATURES, HIGH, TARGETS, WEIGHTS, N, scaled_huber

import gradkit as gk
from gradkit import losses
from gradkit.boosting import bin, descent, orderings
from gradkit.boosting.growing import Tree

RNG = np.random.default_rng(1)
HOLED = bin(np.where(RNG.random((N, 3)) < 0.1, np.nan, FEATURES), bins=16)
MONOTONE = {
    "limited": (HIGH, {"depth": 5, "max_delta_step": np.float32(0.2)}),
    "plain": (losses.absolute, {"depth": 3, "max_delta_step": np.float32(np.inf)}),
    "huber": (scaled_huber, {"depth": 1, "curvature": "unit", "max_delta_step": np.float32(np.inf)}),
    "oblivious": (losses.absolute, {"depth": 4, "oblivious": True, "max_delta_step": np.float32(np.inf)}),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", MONOTONE)
def test_monotone_scores_without_curvature_have_the_units_of_the_target_and_are_monotone(name):
    loss, form = MONOTONE[name]
    levels = np.linspace(-3, 3, 40, dtype=np.float32)
    lines = np.stack([np.roll([level, 0.3, np.nan], j) for j in (0, 1) for level in levels])

    @jax.jit
    def grown(targets, scale):
        own = form | {"max_delta_step": scale * form["max_delta_step"]}
        booster = descent(loss, learning_rate=0.3, monotone=(1, -1, 0), min_child_samples=5, **own)
        data = HOLED, targets, WEIGHTS
        state, trees = jax.lax.scan(lambda state, _: booster.step(state, data)[::2], booster.init(jax.random.key(0), data, None),
                                    length=4)  # fmt: skip
        return state.scores[:, 0], gk.boosting.predict(booster.params(state, trees), HOLED.like(lines))

    def of(scale, shift):
        moved = (scale * TARGETS[:, 0] + shift).astype(np.float32)
        targets = (moved, np.full_like(moved, 0.7 * scale)) if loss is scaled_huber else moved
        return (np.asarray(each, float) for each in grown(targets, np.float32(scale)))

    plain, _ = of(1.0, 0.0)
    assert np.ptp(plain) > 0.4
    for scale, shift in ((1.0, 0.0), (1e-4, 0.0), (1e5, 0.0), (1e5, -3e6)):
        scores, along = of(scale, shift)
        np.testing.assert_allclose(scores, scale * plain + shift, rtol=0, atol=2e-3 * scale)
        rising, falling = np.diff(along.reshape(2, -1))
        assert (rising >= 0).all() and (falling <= 0).all() and rising.max() > 0.1 * scale


def test_leaves_are_put_in_order_and_those_in_order_stay():
    depth, signs = 4, (1, -1, 0)
    ordered = jax.jit(functools.partial(orderings.monotone, signs=signs))
    for _ in range(20):
        feature, is_split = RNG.integers(0, 3, 2**depth - 1), RNG.random(2**depth - 1) < 0.9
        tree = Tree(feature, None, None, is_split, None, None, None, None)
        value, size = (RNG.normal(size=(2**depth, 1)).astype(np.float32) for _ in range(2))
        size = np.maximum(size, 0)  # many are empty
        found = np.asarray(ordered(value, size, tree))
        for node in range(2**depth - 1):
            sign, level = signs[feature[node]] * is_split[node], (node + 1).bit_length() - 1
            left, right = sign * found.reshape(2**level, 2, -1)[node + 1 - 2**level]
            assert sign == 0 or left.max() <= right.min()
        assert found.min() >= value[size > 0].min() and found.max() <= value[size > 0].max()
        again = np.asarray(ordered(found, np.ones_like(size), tree))
        np.testing.assert_array_equal(again, found)
