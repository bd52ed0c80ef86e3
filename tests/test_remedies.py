"""What a sweep advises where no member finished must be true of what went wrong."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk

INPUTS = np.linspace(-1, 1, 8, dtype=np.float32)


def line(w, batch):
    return jnp.mean((w * batch - 3 * batch) ** 2)


def of(function):
    return lambda w, batch: function(w) + 0 * jnp.sum(batch)


# what goes wrong -> loss, start, learning rates, what the advice says and what it does not
CASES = {
    "steps too large": (line, 0.0, [100.0, 1000.0], "lower the learning rates", "where it begins"),
    "an update that overflows": (line, 0.0, [3e38, 2e38], "lower the learning rates", "look at"),
    "a loss without a value": (of(jnp.log), 0.0, [0.1, 0.2], "The loss is not finite where it begins", "learning rates"),
    "a loss without a slope": (of(jnp.sqrt), 0.0, [0.1, 0.2], "The gradient of the loss is not finite where it begins", "rates"),
    "a bad start": (line, np.nan, [0.1, 0.2], "before the first step: look at the initialization", "learning rates"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_advice_follows_what_was_not_finite_first(name):
    loss, start, rates, said, unsaid = CASES[name]
    make = lambda h: gk.descent(loss, jnp.asarray(start, jnp.float32), optax.sgd(h.learning_rate))  # noqa: E731
    sweep = gk.sweep(make, INPUTS, gk.grid(learning_rate=rates), steps=50, progress=False)
    assert said in repr(sweep) and unsaid not in repr(sweep).split(". ", 1)[1]
    with pytest.raises(ValueError, match="must have a member that finished, got 2 diverged"):
        sweep.best()


def skipping(optimizer, num_steps=1):
    multi = optax.MultiSteps(optimizer, num_steps, should_skip_update_fn=optax.skip_not_finite)
    return multi.gradient_transformation()


SKIPPERS = {
    "apply_if_finite": lambda inner: optax.apply_if_finite(inner, 5),
    "MultiSteps": lambda inner: optax.chain(optax.clip(1.0), skipping(inner)),
}


@pytest.mark.parametrize("name", SKIPPERS)
def test_who_skips_updates_is_told_of_the_guard(name):
    batches = [INPUTS] * 2 + [INPUTS * np.nan] + [INPUTS] * 3

    def run(wrap):
        make = lambda h: gk.descent(line, jnp.zeros(()), wrap(optax.sgd(h.learning_rate)))  # noqa: E731
        return gk.sweep(make, iter(batches), gk.grid(learning_rate=[0.1, 0.2]), steps=6, progress=False)

    failed = run(SKIPPERS[name])
    assert failed[0].status.name == "DIVERGED" and failed[0].steps == 2
    assert f"optax.{name}" in failed[0].skipper and f"{failed[0].skipper} leaves out updates only" in repr(failed[0])
    with pytest.raises(ValueError, match=rf"Leave bad steps out by gk.transforms.guard\(optimizer\): optax.{name}"):
        failed.best()
    assert run(lambda inner: gk.transforms.guard(SKIPPERS[name](inner)))[0].status.name == "FINISHED"


def test_multi_steps_that_skip_nothing_are_not_blamed():
    batches = iter([INPUTS, INPUTS * np.nan])
    optimizer = optax.MultiSteps(optax.sgd(0.1), 2)
    failed = gk.fit(gk.descent(line, jnp.zeros(()), optimizer), batches, steps=2, progress=False)
    assert failed.status.name == "DIVERGED" and not failed.skipper and "guard" not in repr(failed)


def test_poisoned_batches_and_short_streams_are_told():
    make = lambda h: gk.descent(line, jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    rates = gk.grid(learning_rate=[0.1, 0.2])
    poisoned = gk.sweep(make, iter([INPUTS] * 4 + [INPUTS * np.nan]), rates, steps=5, progress=False)
    assert "not finite: batch in step 5" in repr(poisoned) and repr(poisoned).endswith("Look at the data.")
    short = gk.sweep(make, iter([INPUTS] * 4), rates, steps=5, progress=False)
    assert repr(short).endswith("Let them make their steps. the stream ended after 4 batches: it has no more")
