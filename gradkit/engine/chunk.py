"""One chunk of members on its way: begin, advance by a segment, evaluate, finish with a record on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradkit import trees
from gradkit.contracts import Info, Status
from gradkit.engine import failure, segment
from gradkit.engine.progress import Tally
from gradkit.engine.runs import Run
from gradkit.engine.segment import Lanes


@dataclass
class Record:
    """What the members of one chunk did, on the host; lanes lead in the status and the trees, time leads in the histories.

    Attributes:
        members: The member in each lane, shape (m,); padding repeats the last one.
        status: ``Status`` per lane.
        steps: Steps made, per lane.
        bad_leaf: Name of the first leaf that was not finite, ``"loss"`` if only the loss was not, ``None`` for a sound lane.
        infos: ``Info`` of floating arrays (t, m); NaN after a lane's first bad step.
        evaluated_at: Steps after which the metrics were taken.
        evaluations: ``{name: [array (m,) per entry of evaluated_at]}``; NaN where a lane did not get so far.
        metrics: ``{name: array (m,)}`` at the end; for a diverged lane at its last finite state.
        params: What the descents return.
        state: The final states, if kept.
    """

    members: np.ndarray
    status: list[Status]
    steps: np.ndarray
    bad_leaf: list[str | None]
    infos: Info | None = None
    evaluated_at: list[int] = field(default_factory=list)
    evaluations: dict[str, list[np.ndarray]] = field(default_factory=dict)
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    params: Any = None
    state: Any = None


@dataclass
class Chunk:
    """A chunk on its way: its lanes and states on the device, and the record it is filling."""

    lanes: Lanes
    seeds: Sequence[int | None]
    is_padding: np.ndarray
    record: Record
    state: Any
    growths: Any
    expected: np.ndarray
    blocks: list[Info] = field(default_factory=list)

    @property
    def is_resting(self) -> np.ndarray:
        """Which lanes make no more steps."""
        return np.array([status != Status.RUNNING for status in self.record.status])


def begin(run: Run, members, is_padding, seeds, lanes) -> Chunk:
    """The chunk before its first step."""
    state = segment.compiled(run.program).begin(lanes, run.source.start, run.validation)
    num_lanes = len(members)
    blank = lambda leaf: jnp.zeros((run.num_steps, num_lanes, *leaf.shape), leaf.dtype)  # noqa: E731
    growths = jax.tree.map(blank, run.outline.growth)
    record = Record(np.asarray(members), [Status.RUNNING] * num_lanes, np.zeros(num_lanes, int), [None] * num_lanes)
    expected = np.asarray(trees.finite_leaves(state, lane_axes=1))
    chunk = Chunk(lanes, seeds, np.asarray(is_padding), record, state, growths, expected)
    if run.validation is not None:
        _evaluate(run, chunk, 0)
    return chunk


def rerun_of(run: Run, lanes: Lanes, tickets) -> Callable:
    """The segment's program on its own tickets, from any state and for any steps: what failures are located with."""
    blank = run.blank(len(lanes.key))

    def rerun(state, first, last):
        state, _, finite = segment.compiled(run.program).advance(
            run.source.resident, lanes, state, blank, tickets, np.int32(first), np.int32(last)
        )
        return state, np.asarray(finite)

    return rerun


def advance(run: Run, chunk: Chunk, tickets, start: int, stop: int, tally: Tally):
    """Make the steps of one segment and bring what failed to rest."""
    was_resting, num_steps = chunk.is_resting, stop - start
    state, blocks, finite = segment.compiled(run.program).advance(
        run.source.resident,
        chunk.lanes,
        segment.copy(chunk.state),
        run.blank(len(was_resting)),
        tickets,
        np.int32(0),
        np.int32(num_steps),
    )
    infos = jax.tree.map(lambda leaf: np.array(leaf[:num_steps]), blocks.infos)
    if was_resting.any():
        state = segment.select(was_resting, chunk.state, state)
    failures = failure.find(infos.loss, np.asarray(finite), chunk.expected, ~was_resting)
    made = np.where(was_resting, chunk.record.steps, stop)
    if failures:
        rest = failure.bring_to_rest(rerun_of(run, chunk.lanes, tickets), chunk.state, failures, chunk.expected, num_steps)
        state = segment.select(np.isin(np.arange(len(made)), list(failures)), rest.state, state)
        made[list(failures)] = [start + rest.steps[lane] for lane in failures]
        _mark_diverged(run, chunk, rest.leaves, made)
    chunk.state, chunk.record.steps = state, made
    chunk.blocks.append(_without_rows_after(infos, made - start))
    if jax.tree.leaves(chunk.growths):
        chunk.growths = segment.append(chunk.growths, blocks.growths, made.astype(np.int32), np.int32(start))
    if run.is_evaluated(stop) and stop < run.num_steps:
        _evaluate(run, chunk, stop)
    _count(run, chunk, failures, infos.loss, start, tally)


def _mark_diverged(run: Run, chunk: Chunk, leaves: dict[int, int | None], made: np.ndarray):
    names = trees.leaf_names(run.outline.state, root="state")
    for lane, leaf in leaves.items():
        if made[lane] == 0:
            leaf = next(_nan_leaves(chunk.state, lane), leaf)
        chunk.record.status[lane] = Status.DIVERGED
        chunk.record.bad_leaf[lane] = "loss" if leaf is None else names[leaf]


def _nan_leaves(state, lane: int) -> Iterator[int]:
    """The leaves of a first state that hold a NaN; an infinity there may be meant (the lowest loss so far)."""
    for index, leaf in enumerate(jax.tree.leaves(state)):
        if trees.is_inexact(leaf) and jnp.isnan(leaf[lane]).any():
            yield index


def _without_rows_after(infos: Info, made: np.ndarray) -> Info:
    """Blank what lanes recorded after their first bad step, whose own loss stays to be seen."""

    def blank(leaf):
        beyond = np.arange(len(leaf))[:, None] > made[None, :]
        leaf = leaf if trees.is_inexact(leaf) else leaf.astype(float)
        return np.where(beyond, np.asarray(np.nan, leaf.dtype), leaf)

    return jax.tree.map(blank, infos)


def _count(run: Run, chunk: Chunk, failures, losses, start, tally: Tally):
    real = ~chunk.is_padding
    made = np.clip(chunk.record.steps - start, 0, None)[real]
    losses = losses.mean(0) if run.validation is None else chunk.record.metrics["validation_loss"]
    losses = losses[real & ~chunk.is_resting]
    tally.add(
        member_steps=int(made.sum()),
        diverged=sum(bool(real[lane]) for lane in failures),
        best=float(np.min(losses[np.isfinite(losses)], initial=np.inf)),
    )


def _evaluate(run: Run, chunk: Chunk, step: int):
    metrics = segment.compiled(run.program).evaluate(chunk.lanes, chunk.state, chunk.growths, run.validation)
    record = chunk.record
    record.metrics = jax.tree.map(lambda leaf: np.asarray(leaf, float), metrics)
    if step in record.evaluated_at:
        return
    record.evaluated_at.append(step)
    for name, values in record.metrics.items():
        record.evaluations.setdefault(name, []).append(np.where(record.steps == step, values, np.nan))


def never_begun(run: Run, members, is_padding, seeds, lanes) -> Record:
    """The record of members that an interrupt kept from starting: no parameters, no metrics, a history of NaN."""
    num_lanes = len(members)
    record = Record(np.asarray(members), [Status.STOPPED] * num_lanes, np.zeros(num_lanes, int), [None] * num_lanes)
    record.infos = _joined(run, num_lanes, [])
    return record


def finish(run: Run, chunk: Chunk, tally: Tally) -> Record:
    """Evaluate for the last time and bring everything to the host."""
    record = chunk.record
    for lane, status in enumerate(record.status):
        if status == Status.RUNNING:
            record.status[lane] = Status.FINISHED if record.steps[lane] == run.num_steps else Status.STOPPED
    if run.validation is not None and record.steps.any():
        _evaluate(run, chunk, int(record.steps.max()))
    record.params = trees.to_host(segment.compiled(run.program).read(chunk.lanes, chunk.state, chunk.growths))
    if run.keeps_state:
        record.state = trees.to_host(chunk.state)
    record.infos = _joined(run, len(record.members), chunk.blocks)
    chunk.state = chunk.growths = None
    real = ~chunk.is_padding
    tally.add(members=int(real.sum()), skipped_member_steps=int((run.num_steps - record.steps[real]).sum()))
    return record


def _joined(run: Run, num_lanes: int, blocks: Sequence[Info]) -> Info:
    """The histories of all segments, NaN for steps never made."""

    def join(shape, *leaves):
        history = np.full((run.num_steps, num_lanes), np.nan, shape.dtype if trees.is_inexact(shape) else float)
        rows = np.concatenate(leaves) if leaves else history[:0]
        history[: len(rows)] = rows
        return history

    return jax.tree.map(join, run.outline.info, *blocks)
