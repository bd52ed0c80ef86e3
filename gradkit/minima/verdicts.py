"""A point, the coordinates seen there and Newton's step flow in; whether what was seen holds around it flows out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradkit.minima.curvatures import Curvature, curvature
from gradkit.minima.searches import relative

BESIDE = 16  # units in the last place: enough that what was exactly zero is not


def stays_curved(product_fn: Callable, x: jax.Array, frame: jax.Array, ways: list[jax.Array], mapped: Callable) -> jax.Array:
    """Whether curvatures of one are still about one some way along each direction; at x**3 or x**4 they are not.

    Args:
        product_fn: ``(x, None, vector) -> H(x) vector``.
        x: Shape ``(d,)``.
        frame: Directions along which the function curves by one, shape ``(d, k)``; one that is zero is passed over.
        ways: How far to go before each is looked at, several times, each of shape ``(d, k)``.
        mapped: ``jax.vmap``, or a loop where copies of the product must not run side by side.
    """
    vectors = jnp.concatenate([frame.T] * len(ways))
    places = x[None, :] + jnp.concatenate([way.T for way in ways])
    bends = mapped(lambda both: both[0] @ product_fn(both[1], None, both[0]))((vectors, places))
    is_seen = jnp.any(vectors != 0, axis=1)
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


def see_beside(
    value_and_grad: Callable, product_fn: Callable, x: jax.Array, floor: Any, mapped: Callable
) -> tuple[jax.Array, jax.Array, Curvature]:
    """A point a rounding step away, whether the function curves up there as it does around it, and its curvature there.

    Derivatives may be wrong or missing at one point and right beside it, as those of ``|z|**2`` are where the complex ``z`` is
    zero. Where the function is flat indeed, as at ``x**4``, or on one side, as ``maximum(x, 0)**2``, its curvature there is not
    that farther away or on the other side of Newton's step.
    """
    eps = jnp.finfo(x.dtype).eps
    nudge = BESIDE * eps * jnp.maximum(jnp.abs(x), floor)
    beside = x + nudge
    grad = value_and_grad(beside)[1]
    bend = curvature(lambda vector: product_fn(beside, None, vector), beside, grad, mapped)
    beyond = 2 * bend.frame * (-bend.frame.T @ grad)[None, :]
    farther = jnp.broadcast_to(64 * nudge[:, None], beyond.shape)
    is_minimum = stays_curved(product_fn, beside, bend.frame, [beyond, farther], mapped) & ~bend.is_flat & ~bend.is_negative
    return beside, is_minimum, bend
