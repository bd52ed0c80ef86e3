"""Small dense systems in plain ``jnp``: matrices flow in, solutions flow out.

No LAPACK: its batched calls on a CPU wait for each other inside XLA's pool of threads, and under ``vmap`` a matrix of a few
columns is faster without. Beyond ``MOST_COLUMNS`` columns one LAPACK call is.
"""

import jax
import jax.numpy as jnp

MOST_COLUMNS = 64


def triangle(matrix: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``R`` and ``Q' right`` of the decomposition ``matrix = Q R``.

    Args:
        matrix: Shape ``(m, d)`` with ``m >= d``.
        right: Shape ``(m,)``.

    Returns:
        The upper triangle, shape ``(d, d)``, and what is left of the right-hand side, shape ``(d,)``.

    References:
        Golub and Van Loan (2013), Matrix Computations, section 5.2.
    """
    size = matrix.shape[1]
    if size > MOST_COLUMNS:
        q, r = jnp.linalg.qr(matrix)
        return r, q.T @ right
    rows = jnp.arange(matrix.shape[0])

    def reflect(column, both):
        below = jnp.where(rows >= column, both[:, column], 0)
        # scaled by its largest entry: squares of small columns would vanish
        scale = jnp.max(jnp.abs(below))
        below = below / jnp.where(scale > 0, scale, 1)
        length = jnp.sqrt(jnp.sum(below**2))
        head = below[column]
        mirror = below.at[column].add(jnp.where(head < 0, -length, length))
        square = jnp.sum(mirror**2)
        return both - jnp.outer(mirror, 2 / jnp.where(square > 0, square, 1) * (mirror @ both))

    both = jax.lax.fori_loop(0, size, reflect, jnp.concatenate([matrix, right[:, None]], axis=1))
    return jnp.triu(both[:size, :size]), both[:size, size]


def back_substitute(upper: jax.Array, right: jax.Array) -> jax.Array:
    """Solve ``upper @ x = right``; where the diagonal is zero, ``x`` is.

    Args:
        upper: Upper triangle, shape ``(d, d)``.
        right: Shape ``(d,)``.
    """

    def solve(index, x):
        row = upper.shape[0] - 1 - index
        pivot = upper[row, row]
        value = (right[row] - upper[row] @ x) / jnp.where(pivot == 0, 1, pivot)
        return x.at[row].set(jnp.where(pivot == 0, 0, value))

    return jax.lax.fori_loop(0, upper.shape[0], solve, jnp.zeros_like(right))


def forward_substitute(upper: jax.Array, right: jax.Array) -> jax.Array:
    """Solve ``upper.T @ x = right``; where the diagonal is zero, ``x`` is."""
    return back_substitute(upper.T[::-1, ::-1], right[::-1])[::-1]


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solve a square system, scaled so that units of rows and columns do not matter; shapes ``(d, d)`` and ``(d,)``."""
    scale = 1 / jnp.sqrt(jnp.maximum(jnp.max(jnp.abs(matrix), axis=1), jnp.finfo(matrix.dtype).tiny))
    upper, left = triangle(scale[:, None] * matrix * scale[None, :], scale * right)
    return scale * back_substitute(upper, left)
