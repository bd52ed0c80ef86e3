"""Small symmetric matrices, very many at a time: by elimination and products, in plain array code.

LAPACK takes one matrix after the other, and on a CPU its batched calls may wait for the very threads they hold. What is done
here is the same for any number of rows and fuses with what surrounds it. All functions take matrices in the last two axes, scale
them by their diagonal first, and so answer alike whatever the units of the scores.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

UNROLLED = 8  # rows up to which elimination is written out
NOISE = 1e-4  # of the diagonal: an eigenvalue less negative than this is rounding
ITERATIONS = 40  # 1.5**-40 is below what float32 tells from 1


def solve(matrix: jax.Array, vector: jax.Array, *, ridge: float = 0.0) -> jax.Array:
    """``x`` in ``matrix x = vector`` for positive definite matrices (..., k, k) and vectors (..., k).

    Args:
        matrix: Symmetric and positive definite, or semi-definite with a ``ridge``.
        vector: The right-hand side.
        ridge: Added to the diagonal, in units of the diagonal.

    >>> solve(jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 3.0])).round(4).tolist()
    [1.0, 1.0]
    """
    scaled, size = _scaled(matrix)
    scaled = scaled + jnp.broadcast_to(ridge * jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    columns = jnp.concatenate([scaled, (vector / size)[..., None]], -1)
    _, columns = _eliminated(columns)
    return columns[..., -1] / size


def semidefinite(matrix: jax.Array) -> jax.Array:
    """The matrices (n, k, k) with their negative eigenvalues as 0, in units in which the diagonal is 1.

    Where none is negative, but for what rounding adds to curvatures of the usual size, they stay as they are.

    >>> semidefinite(jnp.array([[[0.0, 1.0], [1.0, 0.0]]])).round(4).tolist()
    [[[0.5, 0.5], [0.5, 0.5]]]
    """
    usual = jnp.abs(jnp.diagonal(matrix, axis1=-2, axis2=-1)).mean(0)
    pivots, _ = _eliminated(matrix + NOISE * jnp.diag(usual)[None])
    is_unused = (usual == 0)[None] & (matrix == 0).all(-1)  # a score without curvature of its own or with another
    is_sound = ((pivots > 0) | is_unused).all()
    return jax.lax.cond(is_sound, lambda matrix: matrix, _projected, matrix)


def _projected(matrix: jax.Array) -> jax.Array:
    scaled, size = _scaled(matrix)
    return (scaled + _absolute(scaled)) / 2 * size[:, :, None] * size[:, None, :]


def _scaled(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrices with 1, -1 or 0 on the diagonal, and the scores' units that make them so."""
    diagonal = jnp.abs(jnp.diagonal(matrix, axis1=-2, axis2=-1))
    size = jnp.where(diagonal > 0, jnp.sqrt(diagonal), 1)
    return matrix / size[..., :, None] / size[..., None, :], size


def _eliminated(columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gauss-Jordan elimination of (..., k, k + m) without exchange: the pivots (..., k), and what is left.

    A pivot that is not positive eliminates nothing, and its unknown is 0.
    """
    k = columns.shape[-2]

    def step(row, carry):
        pivots, columns = carry
        own = jax.lax.dynamic_index_in_dim(columns, row, -2)
        pivot = jax.lax.dynamic_index_in_dim(own, row, -1)
        own = jnp.where(pivot > 0, own / jnp.where(pivot > 0, pivot, 1), 0)
        rest = columns - jax.lax.dynamic_index_in_dim(columns, row, -1) * own
        pivots = jax.lax.dynamic_update_index_in_dim(pivots, pivot[..., 0], row, -1)
        return pivots, jax.lax.dynamic_update_index_in_dim(rest, own, row, -2)

    start = jnp.zeros(columns.shape[:-1], columns.dtype), columns
    return jax.lax.fori_loop(0, k, step, start, unroll=k <= UNROLLED)


def _absolute(matrix: jax.Array) -> jax.Array:
    """The matrices with the absolute values of their eigenvalues: ``S sign(S)``, the sign by Newton and Schulz's iteration."""
    norm = jnp.sqrt((matrix**2).sum((-2, -1), keepdims=True))
    first = jnp.moveaxis(matrix / jnp.where(norm > 0, norm, 1), (-2, -1), (0, 1))  # whole vectors of matrices side by side

    def halve(_, sign):
        square = jax.lax.optimization_barrier(_product(sign, sign))  # fused, it would be taken once for each of its uses
        return 1.5 * sign - 0.5 * _product(sign, square)

    absolute = _product(first, jax.lax.fori_loop(0, ITERATIONS, halve, first))
    absolute = jnp.moveaxis(absolute, (0, 1), (-2, -1)) * norm
    return (absolute + jnp.swapaxes(absolute, -2, -1)) / 2


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Of matrices in the first two axes."""
    return sum(left[:, j, None] * right[None, j] for j in range(len(left)))
