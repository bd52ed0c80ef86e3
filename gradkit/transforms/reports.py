"""What the transformations of a chain have to tell about a step, read off their states by type."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from gradkit.checks import Described, require
from gradkit.contracts import Info, Status
from gradkit.transforms.guarding import GuardState, Kept
from gradkit.transforms.observation import ObserveState
from gradkit.transforms.skips import Skips


def reported(info: Info, optimizer_state: Any) -> Info:
    """Add to what a step tells what the optimizer's state does, after its update.

    The figures of :func:`observe` join the metrics; so do ``skipped`` and ``skipped_in_a_row`` where the chain has a
    :func:`guard` or :func:`accumulate`, and the last finite loss stands in for one that is not: to these it is no failure. A
    guard that says ``Status.DIVERGED`` makes the loss NaN, which is how a step says so. Otherwise nothing changes.

    Raises:
        ValueError: Two figures, or a figure and a metric of the loss, have the same name.

    >>> import optax
    >>> from gradkit.transforms import guard
    >>> optimizer, grad = guard(optax.sgd(0.1)), jnp.array(jnp.nan)
    >>> state = optimizer.init(jnp.ones(()))
    >>> for value in (3.0, jnp.nan):
    ...     _, state = optimizer.update(grad, state, jnp.ones(()), value=value)
    >>> told = reported(Info(jnp.array(jnp.nan), {}), state)
    >>> print(told.loss, told.metrics["skipped"])
    3.0 2
    """
    loss, metrics = info
    for observer in _found(optimizer_state, ObserveState):
        metrics = _joined(metrics, observer.metrics)
    skips = list(_found(optimizer_state, Skips))
    if skips:
        in_a_row = jnp.stack([skip.in_a_row for skip in skips]).max()
        metrics = _joined(metrics, {"skipped": sum(skip.total for skip in skips), "skipped_in_a_row": in_a_row})
        last = jnp.minimum(skips[0].loss, jnp.finfo(loss.dtype).max).astype(loss.dtype)
        loss = jnp.where(jnp.isfinite(loss), loss, last)
    for state in _found(optimizer_state, GuardState):
        loss = jnp.where(state.status == Status.DIVERGED, jnp.nan, loss)
    return Info(loss, metrics)


def unless_skipped(new: Any, old: Any, optimizer_state: Any) -> Any:
    """What else a step changes (batch statistics): the new, or the old where the outermost guard has just left the step out."""
    skips = next(_found(optimizer_state, Skips), None)
    return new if skips is None else jax.tree.map(lambda a, b: jnp.where(skips.in_a_row == 0, a, b), new, old)


def _found(state: Any, kind: type) -> Iterator[Any]:
    """All states of a kind in the state of a chain, outer ones first; not those that a guard keeps to go back to."""
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, (kind, Kept))):
        if isinstance(node, kind):
            yield node
            yield from _found(tuple(node), kind)


def _joined(metrics: dict, figures: dict) -> dict:
    both = [name for name in figures if name in metrics]
    require(not both, "metrics", "have names of their own", Described(f"twice {', '.join(both)}"),
            "Rename the loss's metric; one observer is enough for a chain.")  # fmt: skip
    return {**metrics, **figures}
