"""Residuals and a point flow in; a point where their sum of squares is lower flows out, by Levenberg-Marquardt."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gradkit.minima.searches import Search, relative
from gradkit.minima.solves import back_substitute, forward_substitute, triangle

FIRST_DAMPING = 1e-3  # of the squared scale of each parameter
MEMORY = 0.7  # of scales: forgotten at once, plateaus catch; kept for ever, a steep start makes all later steps short
MOST_BENDING = 0.75  # of a step's length: the path is straightened no further
LEAST_GAIN = 1e-4  # of the decrease that the linear model promises


class _Walk(NamedTuple):
    """Where the search stands.

    Attributes:
        x: Parameters, shape ``(d,)``.
        residuals: There, shape ``(m,)``.
        jacobian: There, shape ``(m, d)``.
        scale: The largest recent length of each column of the Jacobian, shape ``(d,)``.
        damping: Of squared scales, a scalar.
        growth: What the next refusal multiplies the damping by.
        size: The relative length of the last step that was made.
        is_stuck: Whether no step lowers the value any more.
        num_steps, num_evaluations: Steps tried, and evaluations of the residuals with a derivative.
    """

    x: jax.Array
    residuals: jax.Array
    jacobian: jax.Array
    scale: jax.Array
    damping: jax.Array
    growth: jax.Array
    size: jax.Array
    is_stuck: jax.Array
    num_steps: jax.Array
    num_evaluations: jax.Array


def least_squares(residual_fn: Callable, floor: Any) -> Callable:
    """A search by Levenberg-Marquardt, with Marquardt's scaling and steps that bend along curved valleys.

    A step ``v`` solves ``min |J v + r|^2 + damping |scale v|^2``. The residuals' second derivative along it bends the path,
    so the step is ``v + a / 2`` where ``a`` solves the same system with that derivative on the right. One that would bend
    too much is refused, as is one that lowers too little. Damping follows Nielsen's rule.

    Args:
        residual_fn: ``params -> residuals``, a pytree of real arrays.
        floor: Coordinates below it count as it where steps are measured.

    References:
        Nielsen (1999), Damping parameter in Marquardt's method. https://www2.imm.dtu.dk/documents/ftp/tr99/tr05_99.pdf
        Transtrum and Sethna (2012), geodesic acceleration. https://arxiv.org/abs/1201.5885
    """

    def search(params: Any, small: Any, most_steps: Any) -> Search:
        start, unravel = ravel_pytree(params)
        eps = jnp.finfo(start.dtype).eps

        def fn(x):
            return ravel_pytree(residual_fn(unravel(x)))[0].astype(start.dtype)

        def with_jacobian(x):
            return fn(x), jax.jacfwd(fn)(x)

        def bend(x, v):
            along = lambda at: jax.jvp(fn, (at,), (v,))[1]  # noqa: E731
            return jax.jvp(along, (x,), (v,))[1]

        def step(walk: _Walk) -> _Walk:
            damped = jnp.diag(jnp.sqrt(walk.damping) * walk.scale)
            rows = jnp.concatenate([walk.jacobian, damped])
            upper, left = triangle(rows, jnp.concatenate([-walk.residuals, jnp.zeros_like(walk.x)]))
            v = back_substitute(upper, left)
            curve = -walk.jacobian.T @ bend(walk.x, v)
            a = back_substitute(upper, forward_substitute(upper, curve))
            length = jnp.linalg.norm(walk.scale * v)
            # a path that bends more than that is not known as far as the step goes: refused, and tried shorter
            bends_little = jnp.linalg.norm(walk.scale * a) <= MOST_BENDING * length
            moved = v + a / 2

            residuals = fn(walk.x + moved)
            value, lower = jnp.sum(walk.residuals**2) / 2, jnp.sum(residuals**2) / 2
            promised = jnp.sum((walk.jacobian @ v) ** 2) / 2 + walk.damping * length**2
            gain = (value - lower) / jnp.where(promised > 0, promised, 1)
            is_made = (gain > LEAST_GAIN) & bends_little & jnp.isfinite(lower)
            way = relative(moved, walk.x, floor)
            x = jnp.where(is_made, walk.x + moved, walk.x)
            kept = (walk.residuals, walk.jacobian)
            residuals, jacobian = jax.lax.cond(is_made, lambda: with_jacobian(x), lambda: kept)
            eased = walk.damping * jnp.maximum(1 / 3, 1 - (2 * jnp.minimum(gain, 1) - 1) ** 3)
            return _Walk(
                x=x,
                residuals=residuals,
                jacobian=jacobian,
                scale=jnp.maximum(MEMORY * walk.scale, jnp.linalg.norm(jacobian, axis=0)),
                damping=jnp.where(is_made, jnp.maximum(eased, eps**2), walk.damping * walk.growth),
                growth=jnp.where(is_made, 2.0, walk.growth * 2).astype(start.dtype),
                size=jnp.where(is_made, way, walk.size),
                is_stuck=~is_made & ~(way > eps),
                num_steps=walk.num_steps + 1,
                num_evaluations=walk.num_evaluations + 1 + is_made,
            )

        def goes_on(walk: _Walk):
            return ~walk.is_stuck & (walk.num_steps < most_steps) & (walk.size > small)

        residuals, jacobian = with_jacobian(start)
        number = lambda value: jnp.asarray(value, start.dtype)  # noqa: E731
        walk = _Walk(
            x=start,
            residuals=residuals,
            jacobian=jacobian,
            scale=jnp.linalg.norm(jacobian, axis=0),
            damping=number(FIRST_DAMPING),
            growth=number(2.0),
            size=number(jnp.inf),
            is_stuck=~jnp.all(jnp.isfinite(residuals)),
            num_steps=jnp.int32(0),
            num_evaluations=jnp.int32(1),
        )
        walk = jax.lax.while_loop(goes_on, step, walk)
        return Search(unravel(walk.x), walk.is_stuck, walk.num_steps, walk.num_evaluations, jnp.int32(0))

    return search
