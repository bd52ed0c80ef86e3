"""What a failure names: the first thing that was not finite, in the order in which a step makes things."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import same_bits

import gradkit as gk

DATA = (np.linspace(-1, 1, 8, dtype=np.float32), np.ones(8, np.float32))
START = {"b1": jnp.zeros(()), "w": [jnp.ones(()), jnp.zeros(())]}
QUIET = {"progress": False}


def straight(params, batch):
    return jnp.mean(params["w"][0] * batch[0] + params["b1"] * batch[1])


def adding(value):
    return optax.stateless(lambda updates, params: jax.tree.map(lambda leaf: leaf + value, updates))


# what goes wrong -> loss, optimizer, what is named
FAILURES = {
    "a logarithm of zero": (lambda p, b: jnp.mean(jnp.log(p["b1"] * b[1])), optax.sgd(0.1), "loss"),
    "a root of zero": (lambda p, b: jnp.sqrt(jnp.mean(p["w"][1] * b[1])), optax.sgd(0.1), "gradients of w[1]"),
    "an update": (straight, optax.chain(adding(1e30), optax.scale(1e30)), "updates of b1"),
    "a sum": (lambda p, b: 1e-30 * p["b1"] + 0 * jnp.sum(b[0]), adding(3e38), "params of b1"),
    "a guard that raises": (
        lambda p, b: jnp.sqrt(jnp.mean(p["w"][1] * b[1])),
        gk.transforms.guard(optax.sgd(0.1), policy="raise"),
        "gradients of w[1]",
    ),
    "what no part holds": (lambda p, b: 1e30 * straight(p, b), optax.adam(0.1), "state.optimizer[0].nu.b1"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_names_what_was_not_finite_first(name):
    loss, optimizer, named = FAILURES[name]
    start = START | {"b1": jnp.full((), 3e38)} if name == "a sum" else START
    fit = gk.fit(gk.descent(loss, start, optimizer), DATA, steps=20, **QUIET)
    assert (fit.status, fit.steps, fit.bad_leaf) == (gk.Status.DIVERGED, 0, named)
    assert same_bits(fit.params, start)
    assert f"not finite: {named} in step 1" in repr(fit)


def test_a_parameter_that_is_not_finite_at_the_start_is_named_as_such():
    fit = gk.fit(gk.descent(straight, START | {"b1": jnp.full((), jnp.nan)}, optax.sgd(0.1)), DATA, steps=3, **QUIET)
    assert (fit.steps, fit.bad_leaf) == (0, "state.params.b1 at the start")
    assert repr(fit).endswith("not finite: state.params.b1 at the start")


def test_a_poisoned_batch_is_named_before_the_loss():
    batches = [DATA] * 9
    batches[6] = (DATA[0], np.where(np.arange(8) == 3, np.nan, DATA[1]))
    fit = gk.fit(gk.descent(straight, START, optax.sgd(0.1)), iter(batches), steps=9, **QUIET)
    assert (fit.status.name, fit.steps, fit.bad_leaf) == ("DIVERGED", 6, "batch[1]")


def test_the_state_of_a_loss_comes_after_the_loss():
    def loss(params, seen, batch, key):
        return straight(params, batch), ({"mean": seen["mean"] * 1e30}, {})

    descent = gk.descent(loss, START, optax.sgd(0.1), state={"mean": jnp.ones(())})
    fit = gk.fit(descent, DATA, steps=9, **QUIET)
    assert (fit.status.name, fit.steps, fit.bad_leaf) == ("DIVERGED", 1, "state of mean")


@pytest.mark.parametrize("width", [1, 3])
def test_members_of_a_chunk_fail_each_in_its_own_step_and_order(width):
    """The gradient of the root is infinite where the weight has come down to zero, after as many steps as it began with."""

    def make(h):
        def loss(w, batch):
            return jnp.sqrt(jnp.maximum(w["left"], 0.0)) + 0 * jnp.sum(batch)

        unit = optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.where(jnp.isfinite(u), -1.0, u), updates))
        return gk.descent(loss, {"left": h.begin}, unit)

    space = gk.grid(begin=[3.0, 100.0, 40.0, 7.0, 20.0], seed=range(1))
    plan = gk.Plan(width=width)
    sweep = gk.sweep(make, DATA[0], space, steps=60, batch_size=2, order="per_seed", plan=plan, **QUIET)
    told = [(fit.steps, fit.bad_leaf) for fit in sweep]
    expected = "gradients of left"
    assert told == [(3, expected), (60, None), (40, expected), (7, expected), (20, expected)]


def test_a_descent_with_a_step_of_its_own_keeps_what_is_seen_from_outside():
    base = gk.descent(lambda p, b: jnp.log(p["b1"]) + 0 * jnp.sum(b[0]), START, optax.sgd(0.1))

    def step(carried, batch):
        state, info, growth = base.step(carried["inner"], batch)
        return {"inner": state}, info, growth

    wrapped = base._replace(
        init=lambda *args: {"inner": base.init(*args)},
        step=step,
        params=lambda state, growths: base.params(state["inner"], growths),
    )
    assert gk.fit(wrapped, DATA, steps=3, **QUIET).bad_leaf == "loss"
    four = gk.Descent(*wrapped[:4])
    assert gk.fit(four, DATA, steps=3, **QUIET).bad_leaf == "loss"
