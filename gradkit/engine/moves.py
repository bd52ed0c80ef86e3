"""Members move from chunk to chunk, with their states: survivors of a rung close up, a chunk that does not fit splits."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from gradkit.engine import chunk as chunks
from gradkit.engine import plan, segment
from gradkit.engine.chunk import Chunk
from gradkit.engine.runs import Run

Seat = tuple[Chunk, int]  # a lane of a chunk


def seating(old_lanes: Sequence[int], num_lanes: int) -> np.ndarray:
    """Seat survivors in as few chunks as hold them, each in the lane it had where one is free: bits depend on the lane.

    Args:
        old_lanes: The lane of each survivor so far.
        num_lanes: Lanes of the new chunks.

    Returns:
        Int array of shape (num_chunks, num_lanes): the survivor in each lane, -1 for none.

    >>> seating([1, 1, 0], 2).tolist()
    [[2, 0], [-1, 1]]
    """
    table = np.full((-(-len(old_lanes) // num_lanes), num_lanes), -1)
    waiting = []
    for survivor, lane in enumerate(old_lanes):
        free = np.flatnonzero(table[:, lane] < 0) if lane < num_lanes else ()
        if len(free):
            table[free[0], lane] = survivor
        else:
            waiting.append(survivor)
    for survivor, (row, lane) in zip(waiting, np.argwhere(table < 0)):
        table[row, lane] = survivor
    return table


def close_up(seats: Sequence[Seat], runs: Sequence[Run]) -> list[Chunk]:
    """Move survivors into full chunks.

    Args:
        seats: Where they are; all at the same step.
        runs: What the new chunks share, one per device that takes chunks of its own, in turn.
    """
    table = seating([lane for _, lane in seats], runs[0].num_lanes)
    return [_close_up(runs[turn % len(runs)], [seats[i] for i in row], row < 0) for turn, row in enumerate(table)]


def _close_up(run: Run, seats: Sequence[Seat], is_padding: np.ndarray) -> Chunk:
    """A chunk of those seats; padding copies the first that counts."""
    first = seats[int(np.argmin(is_padding))]
    return move(run, [first if is_empty else seat for seat, is_empty in zip(seats, is_padding)], is_padding)


def move(run: Run, seats: Sequence[Seat], is_padding: np.ndarray) -> Chunk:
    """A chunk whose lanes are those named, with their states."""
    sources = list({id(source): source for source, _ in seats}.values())
    old = sources[0]
    if len(sources) == 1 and _stays(old, run, [lane for _, lane in seats], is_padding):
        return old
    members, is_begun = np.array([source.members[lane] for source, lane in seats]), old.state is not None
    new = chunks.make(run, members, is_padding, step=old.step, is_begun=is_begun)
    if not is_begun:
        return new
    new.lanes = run.members.lanes(members, run.place)
    new.expected = np.stack([source.expected[lane] for source, lane in seats])
    new.start = None if old.start is None else np.stack([source.start[lane] for source, lane in seats])
    taken = None
    for source in sources:
        lanes = np.array([lane if own is source else 0 for own, lane in seats])
        whole = _on_device(source, run)
        taken = segment.gather(whole, lanes) if taken is None else segment.merge(
            taken, whole, lanes, np.array([own is source for own, _ in seats]))  # fmt: skip
    new.state, new.growths = taken[0], segment.swap(taken[1])
    if old.doubt is not None:  # at rungs nobody is in doubt: this is one chunk that splits
        lanes = np.array([lane for _, lane in seats])
        new.doubt = old.doubt._replace(state=segment.gather(old.doubt.state, lanes), lanes=old.doubt.lanes[lanes])
    return new


def _on_device(source: Chunk, run: Run):
    """State and growths, lanes leading, where the run wants them."""
    whole = (source.state, segment.swap(source.growths))
    if run.device == source.run.device:
        return whole
    return jax.device_put(whole, run.device or jax.local_devices()[0])


def _stays(source: Chunk, run: Run, lanes: list[int], is_padding: np.ndarray) -> bool:
    """Whether a chunk would only be copied."""
    is_same_program = source.run.program == run.program and source.run.device == run.device
    return is_same_program and lanes == list(range(run.num_lanes)) and bool((source.is_padding == is_padding).all())


def narrower(run: Run) -> Run:
    """The run at half the width."""
    return run._replace(program=run.program._replace(width=run.program.width // 2))


def split(chunk: Chunk) -> list[Chunk]:
    """The members of a chunk in chunks of half the width, with their states."""
    run = narrower(chunk.run)
    seats = [(chunk, lane) for lane in np.flatnonzero(~chunk.is_padding).tolist()]
    table = plan.lay_out(range(len(seats)), run.num_lanes)
    is_padding = np.arange(table.size).reshape(table.shape) >= len(seats)
    return [move(run, [seats[i] for i in row], empty) for row, empty in zip(table, is_padding)]
