"""Where slopes change sign: a function of many values at once flows in, the root of each flows out.

Every root has a bracket of its own, doubled until it holds the root and then halved. Where the slope jumps over zero, the root is
the value at which it jumps, to the last digit; where it is zero between two values, their middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

DOUBLINGS, SHRINKINGS, BISECTIONS = 60, 16, 40
SHRINK = 2.0**-8
MOST = 1e38  # that a bracket may grow to in float32


class Root(NamedTuple):
    """Roots, and whether they were found: a slope that never changes sign has none."""

    value: jax.Array
    is_found: jax.Array


def root(slope: Callable, like: jax.Array, scale: jax.Array) -> Root:
    """The values at which slopes turn from negative to positive, each between minus and plus infinity.

    Args:
        slope: ``values -> slopes``, of equal shape, each increasing in its own value. One that is NaN leads back to zero.
        like: An array of the shape of the values.
        scale: Where to begin: the size that values may have, above 0. Any number will do, a good one saves passes.

    >>> found = root(lambda x: x**3 - jnp.array([8.0, -1e-9]), jnp.zeros(2), jnp.array(1.0)).value
    >>> [round(value, 4) for value in found.tolist()]
    [2.0, -0.001]
    """

    def bracket(is_strict):
        def is_beyond(value):
            at = slope(value)
            at = jnp.where(jnp.isnan(at), jnp.sign(value), at)
            return (at > 0) | (~is_strict & (at == 0))

        return _bracket(is_beyond, like, scale)

    below, above, is_there = jax.lax.map(bracket, jnp.array([False, True]))  # one after the other: a slope is compiled once
    has_low, has_high = is_there
    first, last = jnp.where(has_low, above[0], below[1]), jnp.where(has_high, below[1], above[0])
    at_first, at_last = (jnp.abs(each) for each in jax.lax.map(slope, jnp.stack([first, last])))
    jump = jnp.where(at_first <= at_last, first, last)  # neighbors, and where it jumps the slope is between those on either side
    is_found = has_low | has_high
    return Root(jnp.where(is_found, jnp.where(first <= last, first / 2 + last / 2, jump), 0), is_found)


def _bracket(is_beyond: Callable, like: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The last values up to which something does not hold, the first from which it does, and whether there are any."""
    zero = jnp.zeros_like(like)
    is_down = is_beyond(zero)  # then the boundary is at or below zero
    sign = jnp.where(is_down, -1.0, 1.0).astype(zero.dtype)
    has_none = is_beyond(sign * MOST) == is_down  # as of a leaf without examples: nobody waits for its bracket

    def is_outside(edge):
        return (is_beyond(sign * edge) == is_down) & ~has_none

    def shrink(carry):
        count, edge, _ = carry
        return count + 1, edge * SHRINK, is_outside(edge * SHRINK * SHRINK)

    # Brackets far too wide are narrowed together, as long as all roots stay far inside.
    edge = zero + scale.astype(zero.dtype)
    is_wide = lambda carry: (carry[0] < SHRINKINGS) & ~carry[2].any()  # noqa: E731
    _, edge, _ = jax.lax.while_loop(is_wide, shrink, (0, edge, is_outside(edge * SHRINK)))

    def widen(carry):
        count, edge, outside = carry
        edge = jnp.where(outside, jnp.minimum(edge * 2, MOST), edge)
        return count + 1, edge, is_outside(edge)

    is_going = lambda carry: (carry[0] < DOUBLINGS) & carry[2].any()  # noqa: E731
    _, edge, outside = jax.lax.while_loop(is_going, widen, (0, edge, is_outside(edge)))
    low, high = jnp.where(is_down, -edge, 0), jnp.where(is_down, 0, edge)

    def halve(_, carry):
        low, high = carry
        middle = low / 2 + high / 2
        beyond = is_beyond(middle)
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))
    return low, high, ~(outside | has_none)
