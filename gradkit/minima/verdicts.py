"""A point, the coordinates seen there and Newton's step flow in; whether what was seen holds around it flows out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradkit.minima.searches import relative


def stays_curved(product_fn: Callable, x: jax.Array, frame: jax.Array, ways: jax.Array, mapped: Callable) -> jax.Array:
    """Whether curvatures of one are still about one some way along each direction; at x**3 or x**4 they are not.

    Args:
        product_fn: ``(x, None, vector) -> H(x) vector``.
        x: Shape ``(d,)``.
        frame: Directions along which the function curves by one, shape ``(d, k)``; one that is zero is passed over.
        ways: How far to go before each is looked at, shape ``(d, k)``.
        mapped: ``jax.vmap``, or a loop where copies of the product must not run side by side.
    """
    bends = mapped(lambda both: both[0] @ product_fn(x + both[1], None, both[0]))((frame.T, ways.T))
    is_seen = jnp.any(frame != 0, axis=0)
    return jnp.all(~is_seen | (jnp.abs(bends - 1) < 0.1))


def leads_nearer(value_and_grad: Callable, x: jax.Array, frame: jax.Array, newton: jax.Array, floor: Any) -> jax.Array:
    """Whether Newton's step is followed by one of less than a quarter of its length, in the same coordinates.

    Then a minimum is little farther away than the step is long, and steps of Newton lead there.

    Args:
        value_and_grad: ``x -> (value, gradient)``.
        x: Shape ``(d,)``.
        frame: Directions along which the function curves by one, shape ``(d, k)``.
        newton: Newton's step in these coordinates, shape ``(k,)``.
        floor: Coordinates below it count as it where steps are measured.

    References:
        Deuflhard (2011), Newton Methods for Nonlinear Problems, section 2.1. https://doi.org/10.1007/978-3-642-23899-4
    """
    step = frame @ newton
    again = -frame @ (frame.T @ value_and_grad(x + step)[1])
    return relative(again, x, floor) < relative(step, x, floor) / 4
