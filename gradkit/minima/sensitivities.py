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
from gradkit.minima.solves import MOST_COLUMNS, solve
from gradkit.minima.walks import Manner, objective, one_at_a_time, walk_down


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
    """``H^-1 right``, from products with ``H``, which is symmetric and at a minimum positive."""
    if right.size > MOST_COLUMNS:
        most = 10 * right.size

        def invert(product, right):
            return jax.scipy.sparse.linalg.cg(product, right, tol=1e-10, maxiter=most)[0]

        return jax.lax.custom_linear_solve(product, right, invert, symmetric=True)
    basis = jnp.eye(right.size, dtype=right.dtype)
    matrix = (one_at_a_time(product) if manner.one_by_one else jax.vmap(product))(basis)

    def invert_matrix(_, right):
        return solve(jax.lax.stop_gradient(matrix), right)

    return jax.lax.custom_linear_solve(lambda vector: matrix @ vector, right, invert_matrix, symmetric=True)


def _zero(leaf: jax.Array) -> Any:
    """The tangent of what does not move."""
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)
