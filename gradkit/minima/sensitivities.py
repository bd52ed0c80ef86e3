"""A walk down, and how its end moves when what the function was given moves: the implicit function theorem at the minimum.

At a minimum the gradient vanishes for every value of the arguments, so

    d params / d args = -H^-1  d gradient / d args
    d value / d args  = the function's own derivative, as the gradient in the parameters is zero.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradkit.engine.programs import Keyed
from gradkit.minima.outcomes import Minimum, MinimumStatus
from gradkit.minima.solves import MOST_COLUMNS, back_substitute, forward_substitute, solve
from gradkit.minima.walks import Manner, objective, one_at_a_time, walk_down

MOST_WRITTEN = 1000  # parameters: of more, the Hessian is known from products only


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def found(key: Keyed, manner: Manner, x0: Any, args: tuple, tolerance: jax.Array) -> Minimum:
    """The end of the walk from ``x0``, differentiable in ``args``; the start and the tolerance have no say in where it is."""
    if not manner.one_by_one:
        return walk_down(key, manner, x0, args, tolerance)

    @jax.custom_batching.sequential_vmap
    def alone(x0, args, tolerance):
        return walk_down(key, manner, x0, args, tolerance)

    return alone(x0, args, tolerance)


@found.defjvp
def _move(key: Keyed, manner: Manner, primals: tuple, tangents: tuple) -> tuple[Minimum, Minimum]:
    x0, args, tolerance = primals
    end = found(key, manner, x0, args, tolerance)
    flat, unravel = ravel_pytree(end.params)
    value_fn = objective(key.functions[0], manner.residuals, flat.dtype)

    def gradient(x, args):
        return jax.grad(lambda x: value_fn(unravel(x), args))(x)

    value_way = jax.jvp(lambda args: value_fn(end.params, args), (args,), (tangents[1],))[1]
    gradient_way = jax.jvp(lambda args: gradient(flat, args), (args,), (tangents[1],))[1]
    product = lambda vector: jax.jvp(lambda x: gradient(x, args), (flat,), (vector,))[1]  # noqa: E731
    way = -_solve(product, gradient_way, manner)
    # elsewhere than at a minimum the theorem says nothing; a factor, as a constant would be lost on the way back
    known = jnp.where(end.status == MinimumStatus.CONVERGED, 1, jnp.nan).astype(flat.dtype)
    still = jax.tree.map(_zero, end)
    return end, still._replace(params=unravel(known * way), value=known * value_way)


def _solve(product: Callable, right: jax.Array, manner: Manner) -> jax.Array:
    """``H^-1 right``, from products with ``H``, which is symmetric and at a minimum positive; NaN where that is not found."""
    size = right.size
    if size > MOST_WRITTEN:

        def search(product, right):
            most = max(1e-10, float(jnp.finfo(right.dtype).eps))
            return _unless_missed(
                lambda right: jax.scipy.sparse.linalg.cg(product, right, tol=most, maxiter=10 * size)[0], product, right
            )

        return jax.lax.custom_linear_solve(product, right, search, symmetric=True)
    # some columns at a time: the function's own arrays are as many times as large
    mapped = one_at_a_time(product) if manner.one_by_one else partial(jax.lax.map, product, batch_size=MOST_COLUMNS)
    matrix = mapped(jnp.eye(size, dtype=right.dtype))
    known = jax.lax.stop_gradient(matrix)
    invert = partial(solve, known) if size <= MOST_COLUMNS else _inverse(known)
    return jax.lax.custom_linear_solve(lambda vector: matrix @ vector, right, lambda _, right: invert(right), symmetric=True)


def _inverse(matrix: jax.Array) -> Callable:
    """``right -> matrix^-1 right`` of a positive matrix, decomposed once, in coordinates in which units do not matter."""
    scale = 1 / jnp.sqrt(jnp.diagonal(matrix))
    scaled = scale[:, None] * matrix * scale[None, :]
    # batched calls of LAPACK may wait for each other for ever
    upper = jax.custom_batching.sequential_vmap(jnp.linalg.cholesky)(scaled).T

    def substitute(right):
        return back_substitute(upper, forward_substitute(upper, right))

    return lambda right: scale * _unless_missed(substitute, lambda x: scaled @ x, scale * right)


def _unless_missed(invert: Callable, product: Callable, right: jax.Array) -> jax.Array:
    """``invert(right)``, or NaN where the product with it is not about ``right``."""
    largest = jnp.max(jnp.abs(right))
    largest = jnp.where(largest > 0, largest, 1)  # squares of small numbers would vanish
    right = right / largest
    x = invert(right)
    is_met = jnp.linalg.norm(product(x) - right) <= jnp.finfo(x.dtype).eps ** 0.5 * jnp.linalg.norm(right)
    return jnp.where(is_met, largest * x, jnp.nan)


def _zero(leaf: jax.Array) -> Any:
    """The tangent of what does not move."""
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)
