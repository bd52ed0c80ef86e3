"""A traced function flows in; whether it decomposes matrices flows out.

On a CPU each decomposition is a call of LAPACK. A batch of large ones is spread over XLA's pool of threads, and the thread that
called waits. Two calls at a time on a machine of two cores then wait for each other for ever, so what is mapped over members or
starts must know before.
"""

from collections.abc import Iterator
from typing import Any

import jax

NAMES = frozenset(
    {
        "cholesky",
        "cholesky_update",
        "eig",
        "eigh",
        "geqp3",
        "geqrf",
        "hessenberg",
        "householder_product",
        "lu",
        "ormqr",
        "qr",
        "schur",
        "svd",
        "triangular_solve",
        "tridiagonal",
        "tridiagonal_solve",
    }
)


def uses_decompositions(jaxpr: Any) -> bool:
    """Whether a jaxpr, open or closed, or one inside it decomposes a matrix or solves a triangle.

    >>> import jax.numpy as jnp
    >>> uses_decompositions(jax.make_jaxpr(jnp.linalg.cholesky)(jnp.eye(2)))
    True
    >>> uses_decompositions(jax.make_jaxpr(jnp.sum)(jnp.eye(2)))
    False
    """
    equations = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return any(
        equation.primitive.name in NAMES or any(map(uses_decompositions, _inner(equation.params))) for equation in equations
    )


def may_wait_for_each_other(jaxpr: Any) -> bool:
    """Whether copies of a function mapped by ``vmap`` may wait for each other for ever: see the module."""
    return jax.default_backend() == "cpu" and uses_decompositions(jaxpr)


def _inner(value: Any) -> Iterator[Any]:
    """The jaxprs in the parameters of an equation."""
    if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _inner(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _inner(each)
