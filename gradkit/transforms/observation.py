"""What a chain does, in figures of fixed structure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import nonnegative, require
from gradkit.transforms.clipping import norm
from gradkit.transforms.guarding import found
from gradkit.transforms.rules import RuleState
from gradkit.transforms.schedule_free import ScheduleFreeState
from gradkit.transforms.scheduling import values_at
from gradkit.transforms.skips import all_finite, are_equal
from gradkit.transforms.wrapping import require_params, wrapped

RATED = (optax.ScaleByScheduleState, RuleState, ScheduleFreeState)  # states of what a rate stands in


class ObserveState(NamedTuple):
    """State of :func:`observe`.

    Attributes:
        metrics: The figures of the last update, ``{name: scalar}``; infinite before the first.
        clip: State of the clip.
        inner: State of the optimizer.
    """

    metrics: dict[str, jax.Array]
    clip: Any
    inner: Any


def observe(
    optimizer: Any, *, clip: Any = None, learning_rate: Any = None, prefix: str = ""
) -> optax.GradientTransformationExtraArgs:
    """Follow ``optax.chain(clip, optimizer)``, and keep figures of each update in the state::

        grad_norm           norm of the gradients that come in
        clipped_grad_norm   norm of what the clip makes of them; only with ``clip``
        is_clipped          whether the clip changed any of them; only with ``clip``
        update_ratio        norm of the updates over norm of the parameters; 0 while all of these are zero
        is_finite           whether loss (where ``value`` is told), gradients and updates are finite
        used_rate           rate of this update; only with ``learning_rate``

    Norms are over all leaves. In a fit or sweep of :func:`gradkit.descent` the figures are in the history by themselves.
    Put it around :func:`guard` to see the steps that are undone: a guard around it takes their figures back as well.
    ``optax.monitor`` changes the structure of its state after the first step, which ``lax.scan`` refuses.

    Args:
        optimizer: Any optax transformation.
        clip: The transformation before it that clips.
        learning_rate: The rate that the optimizer was made with, to be reported: a number, a traced value or a schedule,
            which is asked for the updates made, as the optimizer counts them: by the first count of a learning rate in its
            state (of ``optax.scale_by_schedule``, :func:`by_rule` or :func:`schedule_free_adamw`), else by the first count of
            any transformation. Inside :func:`accumulate` and :func:`guard` these are the updates really made. Nothing
            compares it to the optimizer's own.
        prefix: Stands before the name of each figure, for two observers in a chain or in the groups of ``optax.partition``.

    Raises:
        ValueError: The rate is negative, not finite or has a shape; or at ``init``, it is a schedule and the optimizer's
            state has no count.
        TypeError: An argument is not what it should be; or while tracing, if ``update`` is not told the parameters.

    >>> optimizer = observe(optax.sgd(0.5), clip=optax.clip_by_global_norm(1.0), learning_rate=0.5)
    >>> params = jnp.array([0.0, 2.0])
    >>> _, state = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(params), params)
    >>> for name, figure in sorted(state.metrics.items()):
    ...     print(name, figure)
    clipped_grad_norm 1.0
    grad_norm 5.0
    is_clipped True
    is_finite True
    update_ratio 0.25
    used_rate 0.5
    """
    optimizer = wrapped(optimizer)
    clipping = wrapped(optax.identity() if clip is None else clip, "clip", "gk.transforms.clip_by_global_norm(1.0)")
    require(isinstance(prefix, str), "prefix", "be a string", prefix, "Name the group: prefix='head_'.", error=TypeError)
    rate_at = None if learning_rate is None else values_at({"learning_rate": nonnegative("learning_rate", learning_rate)})

    def measure(grads, clipped, updates, params, inner, value):
        size = norm(params)
        ratio = norm(updates) / jnp.where(size > 0, size, 1)
        metrics = {"grad_norm": norm(grads)}
        if clip is not None:
            metrics |= {"clipped_grad_norm": norm(clipped), "is_clipped": ~are_equal(clipped, grads)}
        metrics |= {"update_ratio": jnp.where(size > 0, jnp.minimum(ratio, jnp.finfo(ratio.dtype).max), 0)}
        metrics |= {"is_finite": all_finite(value, grads, updates)}
        if rate_at is not None:
            count = _count(inner, learning_rate) if callable(learning_rate) else None
            metrics |= {"used_rate": jnp.asarray(rate_at(count)["learning_rate"])}
        return {prefix + name: figure if figure.dtype == bool else figure.astype(float) for name, figure in metrics.items()}

    def init(params):
        inner = optimizer.init(params)
        shapes = jax.eval_shape(lambda: measure(params, params, params, params, inner, None))
        # Infinite, so that a figure may be so later: a fit judges the leaves of a state that were finite at the start.
        blank = {name: jnp.asarray(0.0 if leaf.dtype == bool else jnp.inf, leaf.dtype) for name, leaf in shapes.items()}
        return ObserveState(blank, clipping.init(params), inner)

    def update(updates, state, params=None, **extra_args):
        require_params(params)
        clipped, clip_state = clipping.update(updates, state.clip, params, **extra_args)
        new_updates, inner = optimizer.update(clipped, state.inner, params, **extra_args)
        metrics = measure(updates, clipped, new_updates, params, state.inner, extra_args.get("value"))
        return new_updates, ObserveState(metrics, clip_state, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _count(state, schedule) -> jax.Array:
    """The updates made, as the optimizer that owns the rate counts them; a parameter of that name is no count."""

    def has_count(node):
        return "count" in getattr(node, "_fields", ()) and jnp.issubdtype(getattr(node.count, "dtype", float), jnp.integer)

    counts = [node.count for node in (*found(state, RATED), *filter(has_count, found(state, tuple)))]
    require(counts, "learning_rate", "be a number, as the optimizer's state has no count of updates", schedule,
            "Make the optimizer with the same schedule.")  # fmt: skip
    return counts[0]
