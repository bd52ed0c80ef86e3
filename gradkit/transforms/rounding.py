"""A value flows in, and out rounded to its last bit, whatever a compiler would have liked to fuse."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def rounded(h: Any, value: jax.Array) -> jax.Array:
    """The value, rounded before it enters a sum: without this a compiler may fuse a product and a sum, which rounds once.

    Its derivatives are those of the value, of any order.

    Args:
        h: What a rule is given; its ``zero`` is the integer 0 in a way that the compiler does not see through.
        value: float32 or float64.
    """
    return _rounded.bind(value, h.zero)


def _through_bits(value, zero):
    whole = jnp.int64 if value.dtype == jnp.float64 else jnp.int32
    bits = jax.lax.bitcast_convert_type(value, whole) + zero.astype(whole)
    return jax.lax.bitcast_convert_type(bits, value.dtype)


def _batched(arguments, axes):
    (value, zero), (axis, zero_axis) = arguments, axes
    size = value.shape[axis] if axis is not None else zero.shape[zero_axis]
    value = jnp.broadcast_to(value, (size, *value.shape)) if axis is None else jnp.moveaxis(value, axis, 0)
    if zero_axis is not None:
        zero = jnp.moveaxis(zero, zero_axis, 0)
        zero = zero.reshape(size, *[1] * (value.ndim - zero.ndim), *zero.shape[1:])
    elif zero.ndim > 0:
        zero = zero[None]
    return _rounded.bind(value, zero), 0


# Not a `custom_jvp`: inside a scan jax forgets such a rule between a first gradient and a second.
_rounded = Primitive("rounded")
_rounded.def_impl(_through_bits)
_rounded.def_abstract_eval(lambda value, zero: value)
mlir.register_lowering(_rounded, mlir.lower_fun(_through_bits, multiple_results=False))
batching.primitive_batchers[_rounded] = _batched
ad.primitive_jvps[_rounded] = lambda primals, tangents: (_rounded.bind(*primals), tangents[0])
