"""A rate that falls when the loss no longer does."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import nonnegative, require, whole_number


class PlateauState(NamedTuple):
    """State of :func:`reduce_on_plateau`.

    Attributes:
        scale: What updates are multiplied by.
        best: The lowest mean loss so far.
        num_bad: Means since then that were no better, an int32 scalar.
        sum: Of the finite losses since the last mean.
        num_finite: How many these are, an int32 scalar.
        num_seen: How many losses there were, an int32 scalar.
    """

    scale: jax.Array
    best: jax.Array
    num_bad: jax.Array
    sum: jax.Array
    num_finite: jax.Array
    num_seen: jax.Array


def reduce_on_plateau(
    factor: Any = 0.1, patience: Any = 10, *, every: Any = 1, threshold: Any = 1e-4, min_scale: Any = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Multiply the updates by a scale that falls by ``factor`` whenever the loss has not improved ``patience`` times.

    The losses told as ``value`` are averaged over ``every`` steps; such a mean is an improvement if::

        best - mean > threshold * abs(best)

    Put it behind the optimizer. The loss of single batches is noisy: let ``every`` be about an epoch. Losses that are not
    finite are left out; a mean of none is no improvement. ``optax.contrib.reduce_on_plateau`` compares to
    ``(1 - threshold) * best``, by which every loss improves on a negative one.

    Args:
        factor: At least 0 and below 1.
        patience: Means without improvement that bring the scale down.
        every: Steps to a mean.
        threshold: Least improvement, relative to the best.
        min_scale: The scale stops here, at most 1.

        Each may be traced.

    Raises:
        ValueError: One of them is out of its range, or ``update`` is not told ``value``.

    >>> plateau = reduce_on_plateau(0.5, 2)
    >>> state = plateau.init(None)
    >>> for value in [-1.0, -2.0, -2.0, -2.0, -3.0]:
    ...     updates, state = plateau.update(jnp.ones(()), state, value=value)
    ...     print(updates, end=" ")
    1.0 1.0 1.0 0.5 0.5
    """
    nonnegative("factor", factor, below=1.0)
    nonnegative("threshold", threshold)
    nonnegative("min_scale", min_scale)
    is_below = isinstance(min_scale, jax.core.Tracer) or min_scale <= 1
    require(is_below, "min_scale", "be at most 1", min_scale, "The scale begins at 1, and falls.")
    for name, value in {"patience": patience, "every": every}.items():
        if not isinstance(value, jax.core.Tracer):
            whole_number(name, value, at_least=1, remedy="Count steps.")

    def init(params):
        del params
        number, counts = jnp.result_type(float), [jnp.zeros((), jnp.int32) for _ in range(3)]
        best, total = jnp.full((), jnp.inf, number), jnp.zeros((), number)
        return PlateauState(jnp.ones((), number), best, counts[0], total, *counts[1:])

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        require(value is not None, "value", "be given to `update`", None, "Call update(grads, state, params, value=loss).")
        state = _judge(_listen(state, value))
        return jax.tree.map(lambda leaf: leaf * state.scale.astype(jnp.result_type(leaf)), updates), state

    def _listen(state, value):
        is_finite = jnp.isfinite(value)
        total = state.sum + jnp.where(is_finite, value, 0).astype(state.sum.dtype)
        return state._replace(sum=total, num_finite=state.num_finite + is_finite, num_seen=state.num_seen + 1)

    def _judge(state):
        is_due = state.num_seen >= every
        mean = jnp.where(state.num_finite > 0, state.sum / jnp.maximum(state.num_finite, 1), jnp.inf)
        margin = threshold * jnp.where(jnp.isfinite(state.best), jnp.abs(state.best), 0)
        is_better = is_due & (mean < state.best - margin)
        num_bad = jnp.where(is_better, 0, state.num_bad + is_due)
        is_plateau = num_bad >= patience
        scale = jnp.where(is_plateau, jnp.maximum(state.scale * factor, min_scale), state.scale)
        fresh = state._replace(sum=0.0, num_finite=0, num_seen=0)
        heard = jax.tree.map(lambda new, old: jnp.where(is_due, new, old), fresh, state)
        best, num_bad = jnp.where(is_better, mean, state.best), jnp.where(is_plateau, 0, num_bad)
        return heard._replace(scale=scale.astype(state.scale.dtype), best=best.astype(state.best.dtype), num_bad=num_bad)

    return optax.GradientTransformationExtraArgs(init, update)
