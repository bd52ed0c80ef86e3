"""Chunks at rest: where the failed lanes of a chunk come to rest, and what a chunk keeps of lanes that are in doubt.

A chunk and what its segment showed flow in, the :class:`~gradkit.engine.failure.Rest` of its failed lanes flows out. Steps are
those of the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from gradkit.engine import failure, segment
from gradkit.engine.failure import Doubt, Rest, Stretch

if TYPE_CHECKING:
    from gradkit.engine.chunk import Chunk


def rerun_of(chunk: Chunk, tickets: Any) -> Callable:
    """The segment's program on its own tickets, from any state and for any steps: what failures are located with."""
    run = chunk.run
    # On the device once: a walk calls the program for every step.
    blank, tickets = jax.device_put((run.blank(run.num_lanes), tickets), run.device)

    def rerun(state, first, last):
        state, _, finite = segment.compiled(run.program).advance(chunk.copy)(
            run.source.resident, chunk.lanes, state, blank, tickets, np.int32(first), np.int32(last)
        )
        return state, np.asarray(finite)

    return rerun


def rest_of_failed(chunk: Chunk, failures: dict[int, int], tickets: Any, num_steps: int) -> Rest:
    """Where lanes rest that failed in the segment that the chunk has just made; see :func:`gradkit.engine.failure.find`."""

    def walk(ends: dict[int, int]) -> Rest:
        last = max(ends.values())
        here = (Stretch(chunk.step, last, tickets),) if last else ()
        found = _walk(chunk, (*_stretches(chunk), *here), {lane: chunk.step + end for lane, end in ends.items()}, tickets)
        return found._replace(steps={lane: step - chunk.step for lane, step in found.steps.items()})

    rest = failure.bring_to_rest(rerun_of(chunk, tickets), chunk.state, failures, chunk.expected, walk)
    return rest._replace(steps={lane: chunk.step + step for lane, step in rest.steps.items()})


def rest_of_doubtful(chunk: Chunk, lanes: np.ndarray) -> Rest:
    """Where lanes rest whose run ends while they are in doubt."""
    return _walk(chunk, _stretches(chunk), dict.fromkeys(np.flatnonzero(lanes).tolist(), chunk.step), None)


def doubt_after(chunk: Chunk, lanes: np.ndarray, tickets: Any, num_steps: int) -> Doubt | None:
    """What to keep after a segment at whose end these lanes are not sound and are not looked at."""
    if not lanes.any():
        return None
    # Arrays give their tickets again. A stream does not, so its batches are kept; the next look is near where they are large.
    kept = jax.tree.map(lambda leaf: np.array(leaf[:num_steps]), tickets) if chunk.run.source.is_lockstep else None
    start = chunk.state if chunk.doubt is None else chunk.doubt.state
    return Doubt(start, (*_stretches(chunk), Stretch(chunk.step, num_steps, kept)), lanes)


def _stretches(chunk: Chunk) -> tuple[Stretch, ...]:
    return () if chunk.doubt is None else chunk.doubt.stretches


def _walk(chunk: Chunk, stretches: Sequence[Stretch], ends: dict[int, int], tickets: Any) -> Rest:
    start = chunk.state if chunk.doubt is None else chunk.doubt.state
    return failure.walk(_states(chunk, start, stretches, tickets), start, chunk.expected, ends)


def _states(chunk: Chunk, state: Any, stretches: Sequence[Stretch], tickets: Any) -> Iterator[tuple[int, Any, np.ndarray]]:
    """Step by step ``(steps made, state, finite)``; ``tickets`` are those of the stretch that the chunk stands before."""
    for start, num_steps, kept in stretches:
        own = tickets if start == chunk.step else chunk.run.tickets_again(chunk.seeds, start, kept)
        rerun = rerun_of(chunk, own)
        for index in range(num_steps):
            state, finite = rerun(state, index, index + 1)
            yield start + index + 1, state, finite
