"""Square roots and norms to the bit of jax's (norms of jax 0.7: to a unit), with derivatives that stay finite at zero.

The root of a mean of squares has a kink where all of them are zero: its slope is infinite, that of the squares zero, and their
product NaN. Here the slope at zero is 0, the mean of both sides, so that what passes through an optimizer whose gradient is zero
has the derivative that it has: of ``g / (sqrt(g**2) + eps)`` at 0 that is ``1 / eps``.

Plain functions, without rules of their own: inside a scan jax forgets such a rule between a first gradient and a second.
"""

from typing import Any

import jax
import jax.numpy as jnp


def sqrt(x: Any) -> jax.Array:
    """The square root, with the slope 0 at 0.

    >>> print(jax.grad(lambda g: g / (sqrt(g**2) + 0.5))(0.0))
    2.0
    """
    is_zero = x == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, x)))


def norm(x: jax.Array, order: Any = 2) -> jax.Array:
    """:func:`jax.numpy.linalg.norm` of a vector, or the Frobenius norm of an array, with a finite gradient at 0.

    >>> print(jax.grad(norm)(jnp.zeros(2)), norm(jnp.array([3.0, 4.0]), 1))
    [0. 0.] 7.0
    """
    if order == 2:
        return sqrt(jnp.sum(jnp.real(x * jnp.conj(x))))
    is_zero = x == 0
    sizes = jnp.where(is_zero, 0, jnp.abs(jnp.where(is_zero, 1, x)))  # the slope of jax's own at 0 is 1
    if order in (0, 1, jnp.inf, -jnp.inf):  # without a root
        return jnp.linalg.norm(sizes, order)
    total = jnp.sum(sizes ** jnp.asarray(order, x.dtype))
    is_nothing = total == 0
    return jnp.where(is_nothing, 0, jnp.power(jnp.where(is_nothing, 1, total), 1 / jnp.asarray(order, x.dtype)))
