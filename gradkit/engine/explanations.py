"""Why a member failed, in a few words: the parts of the one step that it could not make, looked at once more.

Failed lanes, the state in which they rest and the tickets of the step after it flow in; a name for each flows out. Nothing here
runs while all goes well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradkit import transforms, trees
from gradkit.data.faults import target_fault
from gradkit.engine import segment
from gradkit.engine.failure import Rest

if TYPE_CHECKING:
    from gradkit.engine.chunk import Chunk


class Cause(NamedTuple):
    """What was not finite first, by name; what is wrong with the targets of that step's batch, and which wrapper of optax's would
    have left the step out, in words or ``""``."""

    leaf: str
    targets: str
    skipper: str


def first_not_finite(chunk: Chunk, rest: Rest, tickets: Any) -> dict[int, Cause]:
    """For each failed lane the first thing that was not finite, in the order in which a step makes things.

    A leaf of the first state; else a leaf of the batch, the loss, a leaf of the gradients, updates or parameters, as far as the
    descent tells its parts; else what was seen from outside: a leaf of the next state, or the loss.

    Args:
        rest: Where they rest; nothing of it is in the chunk yet.
        tickets: Of the segment that the chunk has just made, or ``None``.
    """
    names = trees.leaf_names(chunk.run.outline.state, root="state")
    own = {lane: _ticket(chunk, lane, step, tickets) for lane, step in rest.steps.items()}
    any_ticket = next(iter(own.values()))  # for lanes about which nobody asks
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(own.get(lane, any_ticket) for lane in range(len(chunk.members))))
    explain = segment.compiled(chunk.run.program).explain
    finite, _ = jax.device_get(explain(chunk.lanes, rest.state, chunk.run.source.resident, stacked))
    told, skipper = {}, transforms.skipping_wrapper(rest.state)
    for lane, leaf in rest.leaves.items():
        at_start = next(_nan_leaves(rest.state, lane), None) if rest.steps[lane] == 0 else None
        seen = "loss" if leaf is None else names[leaf]
        named = next(_flagged(finite, lane, False), seen) if at_start is None else f"{names[at_start]} at the start"
        told[lane] = Cause(named, _wrong_targets(chunk, own[lane]), skipper if at_start is None else "")
    return told


def zero_gradients(chunk: Chunk, lanes: np.ndarray) -> dict[int, tuple[str, ...]]:
    """For lanes in a mask, the leaves whose gradient is exactly zero where they stand, on the batch of their first step."""
    ordered = chunk.run.program.is_ordered
    tickets = jax.tree.map(lambda leaf: leaf[0], chunk.run.first_tickets(chunk.seeds))
    if not ordered:
        tickets = jax.tree.map(lambda leaf: np.stack([leaf] * len(chunk.members)), tickets)
    explain = segment.compiled(chunk.run.program).explain
    _, zero = jax.device_get(explain(chunk.lanes, chunk.state, chunk.run.source.resident, tickets))
    own = {"": zero["gradients"]} if "gradients" in zero else {}
    return {lane: tuple(_flagged(own, lane, True)) for lane in np.flatnonzero(lanes).tolist()}


def _wrong_targets(chunk: Chunk, ticket: Any) -> str:
    """What is wrong with the targets of a batch that came from outside; arrays were looked at before the run."""
    run = chunk.run
    if run.outline.rule is None or jax.tree.leaves(run.source.resident):
        return ""
    fault = target_fault("batch", run.program.traced.batch((), ticket), run.outline.rule)
    return "" if fault is None else str(fault)


def _flagged(parts: dict[str, Any], lane: int, flag: bool) -> Iterator[str]:
    """The leaves of parts whose flag ``[m]`` is such, in words: ``loss``, ``gradients of hidden.bias``, ``batch[1]``."""
    for name, tree in parts.items():
        for leaf, flags in zip(trees.leaf_names(tree), jax.tree.leaves(tree)):
            if flags[lane] == flag:
                yield f"{name}{leaf}" if leaf[:1] in ("", "[") or not name else f"{name} of {leaf}"


def _ticket(chunk: Chunk, lane: int, step: int, tickets: Any) -> Any:
    """The ticket of a step that a lane has made since the last look, or has just tried to make."""
    source = chunk.run.source
    if not source.is_lockstep:
        seed = chunk.seeds[lane] if chunk.run.program.is_ordered else None
        return jax.tree.map(lambda leaf: leaf[0], source.tickets(seed, step, 1))
    kept = [] if chunk.doubt is None else chunk.doubt.stretches
    earlier = (stretch for stretch in kept if stretch.start <= step < stretch.start + stretch.num_steps)
    start, _, kept_tickets = next(earlier, (chunk.step, None, tickets))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[step - start], kept_tickets)


def _nan_leaves(state: Any, lane: int) -> Iterator[int]:
    """The leaves of a first state that hold a NaN; an infinity there may be meant (the lowest loss so far)."""
    for index, leaf in enumerate(jax.tree.leaves(state)):
        if trees.is_inexact(leaf) and jnp.isnan(leaf[lane]).any():
            yield index
