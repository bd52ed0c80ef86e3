"""A function, a point and its gradient flow in; Newton's step there, what it promises, coordinates in which it is short, and the
direction that curves down most flow out. Products of the Hessian with vectors only: exact in up to 64 dimensions, on a Krylov
space of the gradient and of a random vector in more."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

NUM_DIRECTIONS = 64
MOST_NUMBERS = 2**24  # that the directions may hold together


class Curvature(NamedTuple):
    """How a function curves at a point.

    Attributes:
        step: ``-|H|^-1 g`` over the directions looked at, shape ``(d,)``: Newton's step where no curvature is negative.
        across: The part of the step along directions that curve ten times as much as the lowest one or more, shape ``(d,)``.
        decrease: ``g' |H|^-1 g / 2``, what the step promises, a scalar; along flat directions what a step as long as ``x`` does.
        lowest: The lowest eigenvalue of the Hessian in coordinates in which its diagonal is one, a scalar.
        downward: A direction of the lowest eigenvalue, shape ``(d,)``, as long as the function changes of its own.
        is_negative: Whether the lowest eigenvalue is below zero by more than rounding.
        is_flat: Whether an eigenvalue is within rounding of zero.
        frame: The directions looked at, each so long that the function curves by one along it, shape ``(d, k)``: in coordinates
            ``z`` of ``x + frame @ z`` Newton's step is minus the gradient. Shorter where that step would be longer than ``x``.
        bends: How the function curves along each direction, in coordinates in which its diagonal is one, shape ``(k,)``.
    """

    step: jax.Array
    across: jax.Array
    decrease: jax.Array
    lowest: jax.Array
    downward: jax.Array
    is_negative: jax.Array
    is_flat: jax.Array
    frame: jax.Array
    bends: jax.Array


def num_directions(size: int) -> int:
    """How many directions are looked at in ``size`` dimensions."""
    return min(size, NUM_DIRECTIONS, max(8, MOST_NUMBERS // size))


def curvature(product: Callable, x: jax.Array, grad: jax.Array, mapped: Callable = jax.vmap) -> Curvature:
    """Project the Hessian on some directions and take its eigenvalues, scaled so that its diagonal is one.

    The scaling makes the answer the same in whatever units each parameter is. Eigenvalues within rounding of zero are taken for
    zero: the function is flat there, and no step is made. How far the products are from symmetric says how they are rounded.

    Args:
        product: ``vector -> H vector``, shapes ``(d,)``.
        x: Where, shape ``(d,)``.
        grad: Shape ``(d,)``.
        mapped: ``jax.vmap``, or a loop where copies of the product must not run side by side.
    """
    size = grad.size
    count = num_directions(size)
    if count == size:
        basis = jnp.eye(size, dtype=grad.dtype)
        images = mapped(product)(basis)
    else:
        basis, images = krylov(product, grad, count)
    matrix = basis @ images.T
    is_spanned = jnp.all(basis == 0, axis=1)
    skewness = jnp.abs(matrix - matrix.T)
    matrix = (matrix + matrix.T) / 2 + jnp.diag(is_spanned.astype(grad.dtype))
    eps = jnp.finfo(grad.dtype).eps
    own, largest = jnp.abs(jnp.diag(matrix)), jnp.abs(matrix).max(axis=1)
    scale = jnp.where(own > eps * largest, own, largest)
    scale = 1 / jnp.sqrt(jnp.where(scale > 0, scale, 1))
    rounding = 100 * eps * count + jnp.max(scale[:, None] * skewness * scale[None, :])
    values, vectors = jnp.linalg.eigh(scale[:, None] * matrix * scale[None, :])
    slopes = vectors.T @ (scale * (basis @ grad))
    is_flat = jnp.abs(values) <= rounding
    steps = jnp.where(is_flat, 0, -slopes / jnp.where(is_flat, 1, jnp.abs(values)))
    length = jnp.linalg.norm(basis @ x / scale)
    length = jnp.where(length > 0, length, 1)
    decrease = jnp.sum(jnp.where(is_flat, jnp.abs(slopes) * length, -slopes * steps / 2))
    unscaled = basis.T @ (scale[:, None] * vectors)
    bends = jnp.maximum(jnp.maximum(jnp.abs(values), rounding), jnp.abs(slopes) / length)
    frame = unscaled / jnp.sqrt(bends)[None, :]
    return Curvature(
        step=unscaled @ steps,
        across=unscaled @ jnp.where(jnp.abs(values) >= 10 * jnp.abs(values[0]), steps, 0),
        decrease=decrease,
        lowest=values[0],
        downward=unscaled[:, 0],
        is_negative=values[0] < -rounding,
        is_flat=jnp.any(is_flat),
        frame=frame,
        bends=bends,
    )


def krylov(product: Callable, grad: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """An orthonormal basis of what the Hessian makes of the gradient, then of a fixed random vector, and its images.

    Args:
        product: ``vector -> H vector``.
        grad: Shape ``(d,)``.
        count: Directions, k.

    Returns:
        Basis and images, both of shape ``(k, d)``; a direction that the ones before it span is zero.
    """
    shuffled = jax.random.normal(jax.random.key(0), grad.shape, grad.dtype)

    def add(index, kept):
        basis, images = kept
        vector = jnp.where(index == 0, grad, jnp.where(index == count // 2, shuffled, images[index - 1]))
        vector = unit(vector)
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        is_new = jnp.linalg.norm(vector) > 100 * jnp.finfo(grad.dtype).eps
        vector = jnp.where(is_new, unit(vector), 0)
        return basis.at[index].set(vector), images.at[index].set(product(vector))

    empty = jnp.zeros((count, grad.size), grad.dtype)
    return jax.lax.fori_loop(0, count, add, (empty, empty))


def unit(vector: jax.Array) -> jax.Array:
    """The vector at length one; zero stays."""
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1)
