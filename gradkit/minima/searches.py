"""A function and a point flow in; a lower point from which steps have become small flows out, by a chain of transformations.

A search is ``(params, small, most_steps) -> Search``: until steps are relatively smaller than ``small``. Others are Newton's
(``newton``) and Levenberg-Marquardt (``least_squares``).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Search(NamedTuple):
    """Where a search stands: parameters, whether no step lowers the value, steps, evaluations, products of the Hessian."""

    params: Any
    is_stuck: jax.Array
    num_steps: jax.Array
    num_evaluations: jax.Array
    num_products: jax.Array


class _Point(NamedTuple):
    params: Any
    value: jax.Array
    grads: Any


def lbfgs() -> optax.GradientTransformationExtraArgs:
    """L-BFGS whose line search demands a decrease, and tries its own step first."""
    line_search = optax.scale_by_zoom_linesearch(max_linesearch_steps=30, approx_dec_rtol=None, initial_guess_strategy="one")
    return optax.lbfgs(linesearch=line_search)


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


def descend(value_fn: Callable, optimizer: Any, floor: Any) -> Callable:
    """A search by an optimizer.

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
        return (
            new,
            state,
            Search(new.params, is_bad, found.num_steps + 1, count, found.num_products),
            moved(at.params, params, floor),
        )

    def search(params, small, most_steps):
        def goes_on(carry):
            _, _, found, size = carry
            return ~found.is_stuck & (found.num_steps < most_steps) & (size > small)

        at = _Point(params, *value_and_grad(params))
        found = Search(params, ~jnp.isfinite(at.value), jnp.int32(0), jnp.int32(1), jnp.int32(0))
        return jax.lax.while_loop(goes_on, step, (at, optimizer.init(params), found, jnp.full_like(at.value, jnp.inf)))[2]

    return search
