"""A descent made by hand in function space: the engine knows nothing of parameters.

A toy booster: each step fits a stump to the negative gradient of the squared loss. The stump is the step's growth; scores of the
training and the validation rows are carried in the state.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import regression_data, same_bits

import gradkit as gk

INPUTS, TARGETS = regression_data()
TRAIN, HELD_OUT = (INPUTS[:64], TARGETS[:64]), (INPUTS[64:], TARGETS[64:])
STEPS = 130


class Scores(NamedTuple):
    step: jax.Array
    train: jax.Array
    validation: jax.Array


class Stump(NamedTuple):
    feature: jax.Array
    threshold: jax.Array
    leaves: jax.Array


def fit_stump(inputs, residuals):
    """The best of all splits at the rows' own values, by the sum of squares explained."""
    right = inputs[None, :, :] > inputs[:, None, :]  # threshold row, row, feature
    count = right.sum(1)
    total = (right * residuals[None, :, None]).sum(1)
    n, whole = len(residuals), residuals.sum()
    gain = total**2 / jnp.maximum(count, 1) + (whole - total) ** 2 / jnp.maximum(n - count, 1)
    row, feature = jnp.unravel_index(jnp.argmax(gain), gain.shape)
    number, sum_right = count[row, feature], total[row, feature]
    leaves = jnp.stack([(whole - sum_right) / jnp.maximum(n - number, 1), sum_right / jnp.maximum(number, 1)])
    return Stump(feature, inputs[row, feature], leaves)


def apply_stump(stump, inputs):
    return stump.leaves[(inputs[:, stump.feature] > stump.threshold).astype(int)]


def booster(h):
    def init(key, data, validation):
        held_out = 0 if validation is None else len(validation[1])
        return Scores(jnp.zeros((), jnp.int32), jnp.zeros(len(data[1])), jnp.zeros(held_out))

    def step(state, batch):
        inputs, targets = batch
        residuals = targets - state.train
        stump = fit_stump(inputs, residuals)
        stump = stump._replace(leaves=h.shrinkage * stump.leaves)
        validation = state.validation + apply_stump(stump, jnp.asarray(HELD_OUT[0]))
        new = Scores(state.step + 1, state.train + apply_stump(stump, inputs), validation)
        return new, gk.Info(jnp.mean(residuals**2), {"validation": jnp.mean((validation - HELD_OUT[1]) ** 2)}), stump

    def loss(stumps, batch):
        inputs, targets = batch
        scores = jax.vmap(apply_stump, (0, None))(stumps, inputs).sum(0)
        return jnp.mean((scores - targets) ** 2)

    return gk.Descent(init, step, lambda state, growths: growths, loss)


def boost_by_numpy(shrinkage, steps):
    """The same algorithm, slowly."""
    inputs, targets = (np.asarray(a, np.float64) for a in TRAIN)
    scores, held_out, losses = np.zeros(len(targets)), np.zeros(len(HELD_OUT[1])), []
    for _ in range(steps):
        residuals = targets - scores
        losses.append(np.mean(residuals**2))
        best = (-np.inf,)
        for feature in range(inputs.shape[1]):
            for threshold in inputs[:, feature]:
                right = inputs[:, feature] > threshold
                parts = residuals[~right], residuals[right]
                gain = sum(part.sum() ** 2 / len(part) for part in parts if len(part))
                if gain > best[0] + 1e-9:
                    best = gain, feature, threshold, [part.mean() if len(part) else 0.0 for part in parts]
        _, feature, threshold, leaves = best
        scores += shrinkage * np.where(inputs[:, feature] > threshold, leaves[1], leaves[0])
        held_out += shrinkage * np.where(HELD_OUT[0][:, feature] > threshold, leaves[1], leaves[0])
    return losses, np.mean((held_out - HELD_OUT[1]) ** 2)


@pytest.fixture(scope="module")
def swept():
    space = gk.grid(shrinkage=[0.05, 0.3, 1.0])
    plan = gk.Plan(width=3)
    return gk.sweep(booster, TRAIN, space, steps=STEPS, validation=HELD_OUT, evaluate_every=50, plan=plan, progress=False)


def test_a_booster_of_stumps_runs_through_sweep_and_matches_a_slow_one(swept):
    for member, shrinkage in ((0, 0.05), (1, 0.3)):
        losses, _ = boost_by_numpy(shrinkage, 25)
        np.testing.assert_allclose(swept[member].history["loss"][:25], losses, rtol=2e-3)


def test_growths_of_all_steps_make_the_params(swept):
    for member in range(3):
        stumps = swept.params(member)
        assert stumps.leaves.shape == (STEPS, 2)
        assert np.abs(stumps.leaves[-1]).max() > 0
        fit = swept[member]
        assert fit.metrics["validation_loss"] == pytest.approx(float(fit.history["validation"][-1]), rel=1e-4)
        assert fit.evaluations["step"].tolist() == [0, 50, 100, 130]
        assert fit.evaluations["validation_loss"][1] == pytest.approx(float(fit.history["validation"][49]), rel=1e-4)


def test_a_booster_runs_through_fit(swept):
    fit = gk.fit(booster(gk.Hyper({"shrinkage": 0.3})), TRAIN, steps=STEPS, validation=HELD_OUT, progress=False)
    assert fit.status == gk.Status.FINISHED
    np.testing.assert_allclose(fit.history["loss"][:25], swept[1].history["loss"][:25], rtol=1e-4)
    assert int(fit.state.step) == STEPS


def test_growths_after_the_last_good_step_are_zeros_and_replays_are_exact(swept):
    def poisoned(h):
        base = booster(h)

        def step(state, batch):
            new, info, growth = base.step(state, batch)
            is_hit = (h.poison > 0) & (new.step >= h.poison)
            return new._replace(train=jnp.where(is_hit, jnp.nan, new.train)), info, growth

        return base._replace(step=step)

    space = gk.zipped(shrinkage=[0.05, 0.3, 1.0], poison=[0, 17, 120])
    sweep = gk.sweep(poisoned, TRAIN, space, steps=STEPS, validation=HELD_OUT, plan=gk.Plan(width=3), progress=False)
    assert [(fit.status.name, fit.steps) for fit in sweep] == [("FINISHED", 130), ("DIVERGED", 16), ("DIVERGED", 119)]
    assert same_bits(sweep.params(0), swept.params(0))
    for member, steps in ((1, 16), (2, 119)):
        stumps, whole = sweep.params(member), swept.params(member)
        assert same_bits([leaf[:steps] for leaf in stumps], [leaf[:steps] for leaf in whole])
        assert not any(np.any(leaf[steps:]) for leaf in stumps)
        assert same_bits(sweep.replay(member).params, stumps)
