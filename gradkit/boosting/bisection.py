"""Where slopes change sign: a function of many values at once flows in, the root of each flows out.

Every root has a bracket of its own, which grows until it holds the root and is then halved in the order of floats: no number is
too large or too small to be found. Where the slope jumps over zero, the root is the value at which it jumps, to the last digit;
where it is zero between two values, their middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

MOST = 1e38  # that a bracket may grow to in float32


class Root(NamedTuple):
    """Roots, and whether they were found: a slope that never changes sign has none."""

    value: jax.Array
    is_found: jax.Array


class Bracket(NamedTuple):
    """The last values seen below a boundary and the first beyond it, infinite while there are none; with their slopes' sizes.

    While an end is missing, ``edge`` is looked at: zero first, then the scale, then ever farther by factors of ``growth``. Where
    it is infinite, nothing more is sought beyond it.
    """

    low: jax.Array
    high: jax.Array
    at_low: jax.Array
    at_high: jax.Array
    edge: jax.Array
    growth: jax.Array

    @property
    def is_there(self) -> jax.Array:
        """Whether both ends were seen."""
        return jnp.isfinite(self.low) & jnp.isfinite(self.high)


def root(slope: Callable, like: jax.Array, scale: jax.Array) -> Root:
    """The values at which slopes turn from negative to positive, each between minus and plus infinity.

    Args:
        slope: ``values -> slopes``, of equal shape, each increasing in its own value. One that is NaN leads back to zero.
        like: An array of the shape of the values.
        scale: Where to look first: the size that values may have, above 0. Any number will do, a good one saves passes.

    >>> found = root(lambda x: x**3 - jnp.array([8.0, -1e-9]), jnp.zeros(2), jnp.array(1.0)).value
    >>> [round(value, 4) for value in found.tolist()]
    [2.0, -0.001]
    """

    def bracket(is_strict):
        """Around the value from which slopes are at least zero, or above it if ``is_strict``."""

        def look(value):
            at = slope(value)
            signed = jnp.where(jnp.isnan(at), jnp.sign(value), at)
            return (signed > 0) | (~is_strict & (signed == 0)), jnp.where(jnp.isnan(at), jnp.inf, jnp.abs(at))

        return _bracket(look, like, scale)

    both = jax.lax.map(bracket, jnp.array([False, True]))  # one after the other: a slope is compiled once
    below, above = Bracket(*(leaf[0] for leaf in both)), Bracket(*(leaf[1] for leaf in both))
    has_low, has_high = below.is_there, above.is_there
    first, at_first = (jnp.where(has_low, a, b) for a, b in [(below.high, above.low), (below.at_high, above.at_low)])
    last, at_last = (jnp.where(has_high, a, b) for a, b in [(above.low, below.high), (above.at_low, below.at_high)])
    jump = jnp.where(at_first <= at_last, first, last)  # neighbors, and where it jumps the slope is between those on either side
    value = jnp.where(first <= last, first / 2 + last / 2, jump)
    is_found = has_low | has_high
    return Root(jnp.where(is_found, value, 0), is_found)


def along(slope: Callable, value: jax.Array, way: jax.Array, scale: jax.Array) -> jax.Array:
    """Values (n, k), each row moved along a way of its shape to where the slope along it changes sign."""

    def slope_along(step):
        return jnp.where(way != 0, slope(value + step * way) * way, 0).sum(-1, keepdims=True)

    return value + root(slope_along, value[:, :1], scale).value * way


def in_turn(slope: Callable, value: jax.Array, scale: jax.Array) -> jax.Array:
    """Values (n, k), each column moved to where its own slope changes sign, one after the other."""
    units = jnp.eye(value.shape[1], dtype=value.dtype)

    def move(j, value):
        return along(slope, value, jnp.broadcast_to(units[j], value.shape), scale)

    return jax.lax.fori_loop(0, len(units), move, value)


def _bracket(look: Callable, like: jax.Array, scale: jax.Array) -> Bracket:
    """Where values begin to be beyond a boundary, by a function that tells whether they are and the size of their slopes."""
    zero = jnp.zeros_like(like)
    inf = zero + jnp.inf

    def is_going(bracket):
        is_narrow = _order(bracket.high) - _order(bracket.low) <= 1
        return ~jnp.where(bracket.is_there, is_narrow, jnp.isinf(bracket.edge)).all()

    def narrow(bracket):
        low, high, edge = bracket.low, bracket.high, bracket.edge
        value = jnp.where(jnp.isinf(high), edge, jnp.where(jnp.isinf(low), -edge, _middle(low, high)))
        is_beyond, size = look(value)
        is_low, is_high = jnp.isfinite(value) & ~is_beyond, jnp.isfinite(value) & is_beyond
        wider = jnp.where(edge >= MOST, jnp.inf, jnp.minimum(edge * bracket.growth, MOST))
        return Bracket(
            jnp.where(is_low, value, low),
            jnp.where(is_high, value, high),
            jnp.where(is_low, size, bracket.at_low),
            jnp.where(is_high, size, bracket.at_high),
            jnp.where(edge == 0, scale, wider),
            jnp.where(edge == 0, 2, bracket.growth**2),
        )

    none = jnp.zeros((), like.dtype)
    return jax.lax.while_loop(is_going, narrow, Bracket(-inf, inf, inf, inf, none, none + 2))


def _order(value: jax.Array) -> jax.Array:
    """The place of each float among all floats, an integer of as many bits."""
    bits = jax.lax.bitcast_convert_type(value, jnp.dtype(f"int{8 * value.dtype.itemsize}"))
    return jnp.where(bits < 0, jnp.iinfo(bits.dtype).min - bits, bits)


def _middle(low: jax.Array, high: jax.Array) -> jax.Array:
    """The float halfway between two of one sign in the order of floats."""
    first = _order(low)
    place = first + (_order(high) - first) // 2
    bits = jnp.where(place < 0, jnp.iinfo(place.dtype).min - place, place)
    return jax.lax.bitcast_convert_type(bits, low.dtype)
