"""The layers of the small networks: parameters and arrays flow in, arrays flow out."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "identity": lambda values: values,
}
HE = 2**0.5
EPS = 1e-5
MOMENTUM = 0.9


class Moments(NamedTuple):
    """Mean and biased variance of each feature."""

    mean: jax.Array
    var: jax.Array


def init_weight(key: jax.Array, shape: tuple[int, ...], weight_scale: ArrayLike) -> jax.Array:
    """Normal weights of standard deviation ``weight_scale / sqrt(fan_in)``; the last axis counts the outputs."""
    normal = jax.random.normal(key, shape)
    fan_in = normal.size // shape[-1]
    return (weight_scale * fan_in**-0.5 * normal).astype(normal.dtype)


def init_dense(key: jax.Array, num_inputs: int, num_outputs: int, weight_scale: ArrayLike) -> dict[str, jax.Array]:
    """A weight ``[d, k]``, and a bias ``[k]`` of zeros."""
    return {"weight": init_weight(key, (num_inputs, num_outputs), weight_scale), "bias": jnp.zeros(num_outputs)}


def add_bias(values: jax.Array, bias: ArrayLike) -> jax.Array:
    """``values + bias``; a bias that has a row per example perturbs each example by its own."""
    return values + jnp.broadcast_to(bias, values.shape)


def init_output(key: jax.Array, num_inputs: int, num_outputs: int | None) -> dict[str, jax.Array]:
    """The last layer of a model, for ``num_outputs`` scores, or one."""
    return init_dense(key, num_inputs, num_outputs or 1, 1.0)


def output(params: dict[str, ArrayLike], values: jax.Array, num_outputs: int | None) -> jax.Array:
    """Scores ``[n, k]``, or ``[n]`` where ``num_outputs`` is ``None``."""
    scores = add_bias(values @ params["weight"], params["bias"])
    return scores[:, 0] if num_outputs is None else scores


def init_moments(num_features: int) -> Moments:
    """Where running moments start: mean 0 and variance 1."""
    return Moments(jnp.zeros(num_features), jnp.ones(num_features))


def batch_moments(values: jax.Array) -> Moments:
    """Moments over the examples, in float32 or wider."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return Moments(wide.mean(axis=0), wide.var(axis=0))


def normalize(values: jax.Array, moments: Moments) -> jax.Array:
    """``(values - mean) / sqrt(var + eps)``, in the dtype of ``values``."""
    mean = jnp.broadcast_to(moments.mean, values.shape)
    inverse_deviation = jnp.broadcast_to(jax.lax.rsqrt(moments.var + EPS), values.shape)
    return ((values - mean) * inverse_deviation).astype(values.dtype)


def decay_moments(running: Moments, batch: Moments) -> Moments:
    """``momentum * running + (1 - momentum) * batch``, in the dtype of ``running``."""
    return jax.tree.map(lambda old, new: (MOMENTUM * old + (1 - MOMENTUM) * new).astype(old.dtype), running, batch)
