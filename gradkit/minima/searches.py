"""A function and a point flow in; a lower point from which steps have become small flows out. Three ways: any chain of gradient
transformations, L-BFGS in coordinates in which the function curves alike, and Levenberg-Marquardt for sums of squares.

A search is ``(params, frame, small, most_steps) -> Search``: until steps are relatively smaller than ``small``. Only L-BFGS looks
at the frame, see :class:`gradkit.minima.curvatures.Curvature`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

LONGEST = 4.0  # times Newton's step: on a plateau a line search would go on for ever


class Search(NamedTuple):
    """Where a search stands: parameters, whether no step lowers the value, steps made, evaluations."""

    params: Any
    is_stuck: jax.Array
    num_steps: jax.Array
    num_evaluations: jax.Array


class _Point(NamedTuple):
    params: Any
    value: jax.Array
    grads: Any


def lbfgs(longest: float | None = None, **settings: Any) -> optax.GradientTransformationExtraArgs:
    """L-BFGS whose line search demands a decrease, and tries its own step first."""
    line_search = optax.scale_by_zoom_linesearch(
        max_linesearch_steps=30, max_learning_rate=longest, approx_dec_rtol=None, initial_guess_strategy="one"
    )
    return optax.lbfgs(linesearch=line_search, **settings)


def relative(step: jax.Array, x: jax.Array, floor: Any) -> jax.Array:
    """The largest relative length of a step in any coordinate; coordinates below ``floor`` count as ``floor``."""
    return jnp.max(jnp.abs(step) / jnp.maximum(jnp.abs(x), floor), initial=0)


def moved(before: Any, after: Any, floor: Any) -> jax.Array:
    """The largest relative way that a coordinate went, over all leaves."""
    ways = jax.tree.map(lambda old, new: relative(new - old, new, floor), before, after)
    return jnp.max(jnp.stack(jax.tree.leaves(ways)))


def _zoom_of(state: Any) -> Any:
    """The state of a zoom line search, which knows value and gradient where it ended; None without one."""
    is_zoom = lambda node: isinstance(node, optax.ScaleByZoomLinesearchState)  # noqa: E731
    return next(filter(is_zoom, jax.tree.leaves(state, is_leaf=is_zoom)), None)


def descend(value_fn: Callable, optimizer: Any, floor: Any, place: Callable = lambda params: params) -> Callable:
    """A search by an optimizer; steps are measured where ``place`` puts the parameters.

    One with a zoom line search is stuck where its step does not lower the value, any other where the value is not finite; neither
    step is made. Trials of a zoom line search are counted, and its last one is not made again; any other step counts as one.
    """
    value_and_grad = jax.value_and_grad(value_fn)

    def step(carry):
        at, state, found, _ = carry
        updates, state = optimizer.update(at.grads, state, at.params, value=at.value, grad=at.grads, value_fn=value_fn)
        params = optax.apply_updates(at.params, updates)
        line_search = _zoom_of(state)
        if line_search is None:
            new, trials = _Point(params, *value_and_grad(params)), 1
            is_bad = ~jnp.isfinite(new.value)
        else:
            new, trials = _Point(params, line_search.value, line_search.grad), line_search.info.num_linesearch_steps
            is_bad = ~(new.value < at.value)
        new = jax.tree.map(lambda a, b: jnp.where(is_bad, a, b), at, new)
        count = found.num_evaluations + jnp.int32(trials)
        return new, state, Search(new.params, is_bad, found.num_steps + 1, count), moved(place(at.params), place(params), floor)

    def search(params, frame, small, most_steps):
        del frame

        def goes_on(carry):
            _, _, found, size = carry
            return ~found.is_stuck & (found.num_steps < most_steps) & (size > small)

        at = _Point(params, *value_and_grad(params))
        found = Search(params, ~jnp.isfinite(at.value), jnp.int32(0), jnp.int32(1))
        return jax.lax.while_loop(goes_on, step, (at, optimizer.init(params), found, jnp.full_like(at.value, jnp.inf)))[2]

    return search


def quasi_newton(value_fn: Callable, floor: Any, num_steps: int) -> Callable:
    """A search by L-BFGS in the coordinates of the frame, of at most ``num_steps`` steps: the first is Newton's, bounded."""

    def search(params, frame, small, most_steps):
        flat, unravel = ravel_pytree(params)
        place = lambda z: unravel(flat + frame @ z)  # noqa: E731
        walk = descend(lambda z: value_fn(place(z)), lbfgs(LONGEST, scale_init_precond=False), floor, place)
        found = walk(jnp.zeros_like(flat), frame, small, jnp.minimum(most_steps, num_steps))
        return found._replace(params=place(found.params))

    return search


def least_squares(residual_fn: Callable, floor: Any, max_steps: int) -> Callable:
    """A search by Levenberg-Marquardt, which heeds ``max_steps`` only."""
    import optimistix

    def search(params, frame, small, most_steps):
        del frame, most_steps
        solver = optimistix.LevenbergMarquardt(rtol=small, atol=small * floor)
        solution = optimistix.least_squares(
            lambda params, _: residual_fn(params), solver, params, max_steps=max_steps, throw=False,
        )  # fmt: skip
        count = solution.stats["num_steps"].astype(jnp.int32)
        return Search(solution.value, solution.result != optimistix.RESULTS.successful, count, count + 1)

    return search
