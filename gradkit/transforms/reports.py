"""What the transformations of a chain have to tell about a step, read off their states by type."""

from typing import Any

import jax.numpy as jnp

from gradkit.checks import Described, require
from gradkit.contracts import Info, Status
from gradkit.transforms.guarding import GuardState, Kept, found
from gradkit.transforms.observation import ObserveState
from gradkit.transforms.skips import Skips, select
from gradkit.transforms.wrapping import copied


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
    for observer in found(optimizer_state, ObserveState):
        metrics = _joined(metrics, observer.metrics)
    skips = list(found(optimizer_state, Skips))
    if skips:
        in_a_row = jnp.stack([skip.in_a_row for skip in skips]).max()
        metrics = _joined(metrics, {"skipped": sum(skip.total for skip in skips), "skipped_in_a_row": in_a_row})
        last = jnp.minimum(skips[0].loss, jnp.finfo(loss.dtype).max).astype(loss.dtype)
        loss = jnp.where(jnp.isfinite(loss), loss, last)
    for state in found(optimizer_state, GuardState):
        loss = jnp.where(state.status == Status.DIVERGED, jnp.nan, loss)
    return Info(loss, metrics)


def kept_beside(start: Any, optimizer_state: Any) -> Any:
    """What a descent keeps of what else its steps change (batch statistics): a copy, if its guard goes back to a good point."""
    return () if _good_point(optimizer_state) is None else copied(start)


def unless_skipped(new: Any, old: Any, kept: Any, optimizer_state: Any) -> tuple[Any, Any]:
    """What else a step changes, as the outermost guard took the step, and what is kept of it at the last good point.

    The new; or, where the step has just been left out, the old, or under ``"restore"`` the kept.
    """
    skips, point = next(found(optimizer_state, Skips), None), _good_point(optimizer_state)
    if skips is None:
        return new, kept
    is_good = skips.in_a_row == 0
    if point is None:
        return select(is_good, new, old), kept
    return select(is_good, new, kept), select(is_good & (point.age == 1), old, kept)


def _good_point(optimizer_state: Any) -> Kept | None:
    """The last good point, if what leaves steps out in a chain is first of all a guard under ``"restore"``."""
    outermost = next(found(optimizer_state, (GuardState, Skips)), None)
    return outermost.kept if isinstance(outermost, GuardState) and isinstance(outermost.kept, Kept) else None


def _joined(metrics: dict, figures: dict) -> dict:
    both = [name for name in figures if name in metrics]
    require(not both, "metrics", "have names of their own", Described(f"twice {', '.join(both)}"),
            "Rename the loss's metric, or give one of two observers a prefix.")  # fmt: skip
    return {**metrics, **figures}
