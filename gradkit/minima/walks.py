"""A function, a manner and a start flow in; the checked end of the walk down flows out.

A search goes down until its steps are small, the curvature there says whether that is a minimum; if not yet, Newton's step is
tried and the search goes on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradkit.engine.programs import Keyed
from gradkit.gradients import hvp
from gradkit.minima.curvatures import curvature, num_directions
from gradkit.minima.least_squares import least_squares
from gradkit.minima.newton import newton
from gradkit.minima.outcomes import Minimum, MinimumStatus
from gradkit.minima.searches import descend, lbfgs, relative
from gradkit.minima.verdicts import leads_nearer, see_beside, stays_curved

LADDER = np.outer([1, -1], 4.0 ** -np.arange(12)).ravel()  # lengths, both ways, to leave a saddle


class Manner(NamedTuple):
    """How to go down; all of it is static.

    Attributes:
        residuals: Whether the function returns residuals, whose squares are summed.
        escape_saddles: Whether to go on at a saddle.
        max_steps: Of the search.
        one_by_one: Whether copies of the function mapped by ``vmap`` may wait for each other: then nothing is mapped.
    """

    residuals: bool
    escape_saddles: bool
    max_steps: int
    one_by_one: bool


def objective(fn: Callable, residuals: bool, dtype: Any) -> Callable:
    """The scalar that is minimized, ``(x, args) -> value``: of residuals half the sum of their squared absolute values."""

    def value_fn(x, args):
        leaves = jax.tree.leaves(fn(x, *args))
        if not residuals:
            return leaves[0].astype(dtype)
        return sum(jnp.sum(leaf**2) for leaf in map(partial(real, dtype=dtype), leaves)) / 2

    return value_fn


def real(leaf: jax.Array, dtype: Any) -> jax.Array:
    """An array of real numbers; a complex one becomes its real and its imaginary part."""
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag])
    return leaf.astype(dtype)


def one_at_a_time(fn: Callable) -> Callable:
    """As ``jax.vmap`` over all leading axes, in a loop."""
    return lambda xs: jax.lax.map(fn, xs)


class _Walk(NamedTuple):
    minimum: Minimum
    small: jax.Array
    start: jax.Array
    was_stuck: jax.Array
    least_error: jax.Array
    frame: jax.Array
    newton: jax.Array


@partial(jax.jit, static_argnums=(0, 1))
def walk_down(key: Keyed, manner: Manner, x0: Any, args: tuple, tolerance: jax.Array) -> Minimum:
    """Go down from ``x0`` and look at the curvature before saying how it ended; see :func:`gradkit.minimize`.

    The key holds the function and a gradient transformation, or ``None`` for the search that fits.
    """
    fn, optimizer = key.functions
    residuals, escape_saddles, max_steps, one_by_one = manner
    flat0, unravel = ravel_pytree(x0)
    eps = jnp.finfo(flat0.dtype).eps
    mapped = one_at_a_time if one_by_one else jax.vmap
    of_both = objective(fn, residuals, flat0.dtype)

    def value_fn(x):
        return of_both(x, args)

    def residual_fn(x):
        return jax.tree.map(partial(real, dtype=flat0.dtype), fn(x, *args))

    tolerance = jnp.maximum(tolerance.astype(flat0.dtype), eps**0.5)
    floor = tolerance
    num_seen = num_directions(flat0.size)
    is_whole = not residuals and optimizer is None and num_seen == flat0.size
    # in a curved valley the steps of these two are short long before its end
    first = tolerance**1.5 if residuals or is_whole else tolerance**0.5
    if residuals:
        search = least_squares(residual_fn, floor)
    elif is_whole:
        search = newton(value_fn, floor, mapped)
    else:
        search = descend(value_fn, optimizer or lbfgs(), floor)
    value_and_grad = jax.value_and_grad(lambda flat: value_fn(unravel(flat)))
    product_fn = hvp(lambda flat, _: value_fn(unravel(flat)))

    def look(walk: _Walk) -> _Walk:
        last = walk.minimum
        found = search(last.params, walk.small, max_steps - last.num_steps)
        flat = ravel_pytree(found.params)[0]
        value, grad = value_and_grad(flat)
        bend = curvature(lambda vector: product_fn(flat, None, vector), flat, grad, mapped)
        is_finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(grad)) & jnp.all(jnp.isfinite(bend.step))
        trifle = tolerance**2 * (jnp.abs(value) + jnp.abs(walk.start - value))
        error = relative(bend.step, flat, floor)
        is_still = (error <= tolerance) & (bend.decrease <= trifle)
        # a little beside a curved valley its floor seems to curve down; the step across ends that, but no saddle's curvature
        remaining = bend.downward @ product_fn(flat + bend.across, None, bend.downward)
        is_saddle = is_still & bend.is_negative & (remaining < bend.lowest / 2)
        is_flat = bend.is_flat | (bend.is_negative & ~is_saddle)

        newton = -bend.frame.T @ grad
        moved = flat + bend.frame @ newton
        if escape_saddles:
            longest = jnp.sqrt(jnp.maximum(tolerance**-1.5 * trifle, eps))
            tries = flat[None, :] + longest * jnp.outer(LADDER.astype(flat.dtype), bend.downward)
            moved = jnp.where(is_saddle, tries[jnp.argmin(mapped(lambda x: value_fn(unravel(x)))(tries))], moved)
        lower = value_fn(unravel(moved))
        is_lower = lower <= value - 0.05 * jnp.sum(newton**2) + trifle
        num_steps = last.num_steps + found.num_steps
        is_escaping = is_saddle & is_lower & (lower < value) & (num_steps < max_steps) & escape_saddles
        # values may be rounded by more than their last digit: what is gained must be more than a trifle, or Newton's step shorter
        is_stuck = (last.value - jnp.where(is_lower, lower, value) <= trifle) & (error > 0.9 * walk.least_error)
        Status = MinimumStatus
        status = jnp.select(
            [
                ~is_finite, is_escaping, is_saddle, is_still & is_flat, is_still,
                num_steps >= max_steps, is_stuck & walk.was_stuck,
            ],
            [
                Status.NOT_FINITE, Status.RUNNING, Status.SADDLE, Status.FLAT, Status.CONVERGED,
                Status.LIMIT, Status.LINE_SEARCH_FAILED,
            ],
            Status.RUNNING,
        )  # fmt: skip
        goes_on = is_lower & ((status == Status.RUNNING) | (status == Status.CONVERGED))
        new = Minimum(
            params=unravel(jnp.where(goes_on, moved, flat)),
            value=jnp.where(goes_on, lower, value),
            status=status.astype(jnp.int32),
            error=jnp.where(bend.is_flat, jnp.inf, error),  # along a flat direction it may be any
            curvature=bend.lowest,
            num_steps=num_steps + goes_on,
            num_evaluations=last.num_evaluations + found.num_evaluations + 2,
            num_products=last.num_products + found.num_products + num_seen + 1,
        )
        small = jnp.where(is_escaping, first, jnp.maximum(walk.small / 10, 1e-4 * first))
        return _Walk(new, small, walk.start, is_stuck, jnp.minimum(walk.least_error, error), bend.frame, newton)

    start = value_fn(x0)
    zero = jnp.zeros((), jnp.int32)
    infinite = jnp.asarray(jnp.inf, flat0.dtype)
    minimum = Minimum(x0, start, zero + int(MinimumStatus.RUNNING), infinite, -infinite, zero, zero + 1, zero)
    nothing = jnp.zeros((flat0.size, num_seen), flat0.dtype)
    walk = _Walk(minimum, first, start, jnp.asarray(False), infinite, nothing, nothing[0])
    walk = jax.lax.while_loop(lambda walk: walk.minimum.status == MinimumStatus.RUNNING, look, walk)
    end = walk.minimum
    flat, ways = ravel_pytree(end.params)[0], walk.frame * walk.newton[None, :]
    is_kept = stays_curved(product_fn, flat, walk.frame, [ways, jnp.zeros_like(ways)], mapped)
    # far from the end Newton's step says nothing of how far that is: at the next step it would be as long again
    is_near = is_kept & leads_nearer(value_and_grad, flat, walk.frame, walk.newton, floor)
    is_known = is_near & (num_seen == flat0.size)  # along what was not looked at it may be far
    is_open = (end.status == MinimumStatus.LIMIT) | (end.status == MinimumStatus.LINE_SEARCH_FAILED)
    is_flat = (end.status == MinimumStatus.CONVERGED) & ~is_kept
    end = end._replace(
        status=jnp.where(is_flat, int(MinimumStatus.FLAT), end.status).astype(jnp.int32),
        error=jnp.where(is_flat | (is_open & ~is_known), jnp.inf, end.error),
        num_evaluations=end.num_evaluations + 1,
        num_products=end.num_products + 2 * num_seen,
    )

    def look_beside(end: Minimum) -> Minimum:
        """The end a rounding step away if a minimum is seen from there: at zero, abs(z)**2 of a complex z is said to be flat."""
        beside, is_minimum, bend = see_beside(value_and_grad, product_fn, ravel_pytree(end.params)[0], floor, mapped)
        value = value_fn(unravel(beside))
        error = relative(bend.step, beside, floor)
        is_minimum &= jnp.isfinite(value) & (error <= tolerance)
        seen = end._replace(
            params=unravel(beside),
            value=value,
            status=jnp.int32(int(MinimumStatus.CONVERGED)),
            error=error,
            curvature=bend.lowest,
        )
        end = jax.tree.map(partial(jnp.where, is_minimum), seen, end)
        return end._replace(num_evaluations=end.num_evaluations + 2, num_products=end.num_products + 3 * num_seen)

    is_unclear = (end.status == MinimumStatus.FLAT) | ((end.status == MinimumStatus.NOT_FINITE) & jnp.isfinite(end.value))
    return jax.lax.cond(is_unclear, look_beside, lambda end: end, end)
