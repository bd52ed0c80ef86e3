"""A function and a point flow in; a lower point from which steps have become small flows out, by damped Newton steps.

For so few parameters that the whole Hessian is at hand: each step knows how the function curves along every direction, in
coordinates in which units do not matter, and how that changes along the step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gradkit.gradients import hvp
from gradkit.minima.curvatures import Curvature, curvature, num_directions
from gradkit.minima.searches import Search, relative

FIRST_DAMPING = 1.0  # of curvatures that are about one: the first step is short
MOST_BENDING = 0.75  # of a step's length: the path is straightened no further
LEAST_GAIN = 1e-4  # of the decrease that the quadratic model promises


class _Walk(NamedTuple):
    """Where the search stands.

    Attributes:
        x: Parameters, shape ``(d,)``.
        value, grad, bend: The function there, its gradient ``(d,)`` and its curvature.
        damping: Added to all curvatures, a scalar.
        growth: What the next refusal multiplies the damping by.
        size: The relative length of the last step that was made.
        is_stuck: Whether no step lowers the value any more.
        num_steps, num_made: Steps tried, and steps made.
    """

    x: jax.Array
    value: jax.Array
    grad: jax.Array
    bend: Curvature
    damping: jax.Array
    growth: jax.Array
    size: jax.Array
    is_stuck: jax.Array
    num_steps: jax.Array
    num_made: jax.Array


def newton(value_fn: Callable, floor: Any, mapped: Callable) -> Callable:
    """A search by Newton's steps, damped, with absolute curvatures, that bend along curved valleys.

        v = -(|H| + damping)^-1 grad,  a = -(|H| + damping)^-1 (second derivative of grad along v),  step = v + a / 2

    Args:
        value_fn: ``params -> scalar``.
        floor: Coordinates below it count as it where steps are measured.
        mapped: ``jax.vmap``, or a loop where copies of the function must not run side by side.

    References:
        Dauphin et al. (2014), absolute curvatures. https://arxiv.org/abs/1406.2572
        Transtrum and Sethna (2012), bent steps, for least squares. https://arxiv.org/abs/1201.5885
        Nielsen (1999), the damping. https://www2.imm.dtu.dk/documents/ftp/tr99/tr05_99.pdf
    """

    def search(params: Any, small: Any, most_steps: Any) -> Search:
        start, unravel = ravel_pytree(params)
        eps = jnp.finfo(start.dtype).eps
        number = lambda value: jnp.asarray(value, start.dtype)  # noqa: E731
        gradient = jax.grad(lambda x: value_fn(unravel(x)))
        product = hvp(lambda x, _: value_fn(unravel(x)))

        def look(x):
            value, grad = jax.value_and_grad(lambda x: value_fn(unravel(x)))(x)
            return value, grad, curvature(lambda vector: product(x, None, vector), x, grad, mapped)

        def second_derivative(x, v):
            along = lambda at: jax.jvp(gradient, (at,), (v,))[1]  # noqa: E731
            return jax.jvp(along, (x,), (v,))[1]

        def step(walk: _Walk) -> _Walk:
            bends, frame = walk.bend.bends, walk.bend.frame
            damped = bends / (bends + walk.damping)

            def solve(right):
                return frame @ (damped * (frame.T @ right))

            v = solve(-walk.grad)
            third = second_derivative(walk.x, v)
            a = solve(-third)
            promised = -walk.grad @ v / 2
            # both lengths as the damped curvatures measure them; how a path that bends more goes on is not known
            bends_little = -third @ a <= MOST_BENDING**2 * 2 * promised
            moved = v + jnp.where(bends_little, a / 2, 0)

            new_value = value_fn(unravel(walk.x + moved))
            gain = (walk.value - new_value) / jnp.where(promised > 0, promised, 1)
            is_made = (gain > LEAST_GAIN) & jnp.isfinite(new_value)
            way = relative(moved, walk.x, floor)
            x = jnp.where(is_made, walk.x + moved, walk.x)
            kept = (walk.value, walk.grad, walk.bend)
            value, grad, bend = jax.lax.cond(is_made, lambda: look(x), lambda: kept)
            eased = walk.damping * jnp.maximum(1 / 3, 1 - (2 * jnp.minimum(gain, 1) - 1) ** 3)
            return _Walk(
                x=x,
                value=value,
                grad=grad,
                bend=bend,
                damping=jnp.where(is_made, jnp.maximum(eased, eps**2), walk.damping * walk.growth),
                growth=jnp.where(is_made, number(2), walk.growth * 2),
                size=jnp.where(is_made, way, walk.size),
                is_stuck=~is_made & ~(way > eps),
                num_steps=walk.num_steps + 1,
                num_made=walk.num_made + is_made,
            )

        def goes_on(walk: _Walk):
            return ~walk.is_stuck & (walk.num_steps < most_steps) & (walk.size > small)

        value, grad, bend = look(start)
        walk = _Walk(
            x=start,
            value=value,
            grad=grad,
            bend=bend,
            damping=number(FIRST_DAMPING),
            growth=number(2),
            size=number(jnp.inf),
            is_stuck=~jnp.isfinite(value),
            num_steps=jnp.int32(0),
            num_made=jnp.int32(0),
        )
        walk = jax.lax.while_loop(goes_on, step, walk)
        # a trial, and the second derivative along the step, each count as an evaluation, as does the gradient of a step made
        num_evaluations = 1 + 2 * walk.num_steps + walk.num_made
        num_products = (1 + walk.num_made) * num_directions(start.size)
        return Search(unravel(walk.x), walk.is_stuck, walk.num_steps, num_evaluations, num_products)

    return search
