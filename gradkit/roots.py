"""Square roots and norms to the bit of jax's, with derivatives that stay finite at zero.

The root of a mean of squares has a kink where all of them are zero: its slope is infinite, that of the squares zero, and their
product NaN. Here the slope at zero is 0, the mean of both sides, so that what passes through an optimizer whose gradient is zero
has the derivative that it has: of ``g / (sqrt(g**2) + eps)`` at 0 that is ``1 / eps``.
"""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_jvp
def sqrt(x: Any) -> jax.Array:
    """The square root, with the slope 0 at 0.

    >>> print(jax.grad(lambda g: g / (sqrt(g**2) + 0.5))(0.0))
    2.0
    """
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals, tangents):
    root = sqrt(*primals)
    is_zero = root == 0
    slope = jnp.where(is_zero, 0, 0.5 / jnp.where(is_zero, 1, root))
    return root, slope * tangents[0]


def norm(x: jax.Array, order: float | None = None) -> jax.Array:
    """:func:`jax.numpy.linalg.norm` of a vector, or the Frobenius norm of a matrix, with the gradient 0 at 0.

    >>> print(jax.grad(norm)(jnp.zeros(2)), norm(jnp.array([3.0, 4.0]), 1))
    [0. 0.] 7.0
    """
    return _norm(x, order)


def _plain_norm(x, order):
    return jnp.linalg.norm(x, order)


_norm = jax.custom_jvp(_plain_norm, nondiff_argnums=(1,))


@_norm.defjvp
def _norm_jvp(order, primals, tangents):
    (x,), (direction,) = primals, tangents
    value = _norm(x, order)
    away = jnp.where(value == 0, jnp.ones_like(x), x)
    slope = jax.jvp(lambda x: _plain_norm(x, order), (away,), (direction,))[1]
    return value, jnp.where(value == 0, 0, slope)
