"""A member at width one, and the fit of the same numbers as Python constants: where they are equal, and where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import apply_net, init_net, regression_data, same_bits

import gradkit as gk

RUN = {"steps": 12, "batch_size": 16, "progress": False}
ONE = gk.Plan(width=1, threads=1)
OPTIMIZERS = {
    "sgd: rate": (lambda number: optax.sgd(number), 0.1),
    "sgd: momentum": (lambda number: optax.sgd(0.1, momentum=number), 0.9),
    "adam: rate": (lambda number: optax.adam(number), 0.01),
    "adam: b1": (lambda number: optax.adam(0.01, b1=number), 0.9),
    "adam: b2": (lambda number: optax.adam(0.01, b2=number), 0.999),
    "adam: eps": (lambda number: optax.adam(0.01, eps=number), 1e-3),
    "adamw: decay": (lambda number: optax.adamw(0.01, weight_decay=number), 0.1),
}
MEETS_A_NUMBER_FIRST = ["adam: b1", "adam: b2"]  # in 1 - b1, and in the powers of b1 that correct the bias


def lone_and_swept(name, dtype):
    """The fit with a constant, and the first of two members at width one."""
    make_optimizer, number = OPTIMIZERS[name]
    data = tuple(np.asarray(each, dtype) for each in regression_data())

    def init(key):
        return jax.tree.map(lambda leaf: leaf.astype(dtype), init_net(key))

    def loss_fn(params, batch):
        return jnp.mean((apply_net(params, batch[0]) - batch[1]).astype(jnp.promote_types(dtype, jnp.float32)) ** 2)

    make = lambda h: gk.descent(loss_fn, init, make_optimizer(h.number))  # noqa: E731
    swept = gk.sweep(make, data, gk.grid(number=[number, 0.5 * number]), plan=ONE, **RUN)
    return gk.fit(gk.descent(loss_fn, init, make_optimizer(number)), data, **RUN), swept


def are_equal(name, dtype):
    lone, swept = lone_and_swept(name, dtype)
    assert swept[0].params["out"].dtype == dtype
    return same_bits([lone.params, lone.history], [swept[0].params, swept[0].history])


def some_are_long(*short):
    """All optimizers; those that are not named are for long runs."""
    return [name if name in short else pytest.param(name, marks=pytest.mark.long) for name in OPTIMIZERS]


@pytest.mark.parametrize("name", some_are_long("sgd: momentum", "adam: b1"))
def test_with_bfloat16_parameters_every_number_of_plain_optax_follows_the_lone_fit_to_the_bit(name):
    assert are_equal(name, jnp.bfloat16)


@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "dtype"), [("adam: b1", np.float32), ("adam: b2", np.float64)])
def test_under_x64_swept_numbers_are_as_exact_as_constants(x64, name, dtype):
    assert are_equal(name, dtype)


@pytest.mark.parametrize("name", some_are_long("adam: b1", "adamw: decay"))
def test_in_float32_only_a_number_that_meets_another_number_first_differs_from_a_constant(name):
    assert are_equal(name, np.float32) == (name not in MEETS_A_NUMBER_FIRST)


def test_a_swept_number_takes_the_dtype_of_what_it_meets():
    seen = {}

    def make(h):
        seen["half"], seen["byte"] = (h.rate * jnp.ones((), jnp.bfloat16)).dtype, (h.count * jnp.ones((), jnp.uint8)).dtype
        return gk.descent(lambda params, batch: jnp.sum(params**2), jnp.ones(2), optax.sgd(h.rate * h.count))

    gk.sweep(make, jnp.zeros(1), gk.grid(rate=[0.1], count=[2]), steps=1, progress=False)
    assert seen == {"half": jnp.bfloat16, "byte": jnp.uint8}
