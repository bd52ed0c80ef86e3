"""One chunk of members on its way: begin, advance by a segment, evaluate, retire. What they did goes to the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradkit import trees
from gradkit.contracts import Info, Status
from gradkit.engine import comparisons, explanations, failure, resting, segment
from gradkit.engine.explanations import Cause
from gradkit.engine.failure import Doubt, Rest
from gradkit.engine.ledger import Placement
from gradkit.engine.progress import Tally
from gradkit.engine.runs import Run
from gradkit.engine.segment import Lanes


@dataclass(eq=False)
class Chunk:
    """Members side by side on the device.

    Attributes:
        run: What they share.
        members: The member in each lane, shape (m,).
        is_padding: Which lanes only fill up the shape, with copies of members; nothing of them is kept.
        step: Steps made by the lanes that are not at rest.
        lanes: Their traced values and keys.
        state, growths: Where they stand; like the lanes ``None`` before :func:`begin`.
        expected: Which leaves of the state were finite at the start and must stay so, shape (m, leaves).
        start: Digests of the parameters at the start, shape (m, leaves), or ``None`` where steps add to them for ever (trees).
        doubt: What is kept of lanes that went bad since the last look, if there are any.
        copy: Which of the equal executables of a segment it calls.
        has_run: Whether it has made a segment, so that the program is compiled.
    """

    run: Run
    members: np.ndarray
    is_padding: np.ndarray
    step: int = 0
    lanes: Lanes | None = None
    state: Any = None
    growths: Any = None
    expected: np.ndarray | None = None
    start: np.ndarray | None = None
    doubt: Doubt | None = None
    copy: int = 0
    has_run: bool = False
    seeds: list[int | None] = field(init=False)

    def __post_init__(self):
        self.seeds = [self.run.members.seeds[member] for member in self.members]

    @property
    def goals(self) -> np.ndarray:
        """Steps each lane has to make."""
        return self.run.members.goals[self.members]

    @property
    def is_live(self) -> np.ndarray:
        """Which lanes have steps left to make."""
        return ~self.is_padding & (self.run.ledger.status[self.members] == Status.RUNNING)


def make(run: Run, members: np.ndarray, is_padding: np.ndarray, *, step: int = 0, is_begun: bool = False) -> Chunk:
    """A chunk of members, with its places in the ledger; nothing of it is on the device yet."""
    for lane in np.flatnonzero(~is_padding).tolist():
        path, here = run.ledger.path[members[lane]], Placement(step, run.program.width, int(lane))
        if not is_begun:
            path.clear()
            run.ledger.evaluations[members[lane]].clear()
        elif path[-1].step == step:
            path.pop()  # it made no step there
        if not path or path[-1][1:] != here[1:]:
            path.append(here)
    return Chunk(run, members, is_padding, step)


def begin(chunk: Chunk):
    """Give the chunk its first state, and evaluate it."""
    run = chunk.run
    chunk.lanes = run.members.lanes(chunk.members, run.place)
    state, finite = segment.compiled(run.program).begin(chunk.lanes, run.source.start, run.validation)
    blank = lambda leaf: jnp.zeros((run.num_steps, run.num_lanes, *leaf.shape), leaf.dtype)  # noqa: E731
    chunk.growths = jax.tree.map(blank, run.outline.growth)
    chunk.expected = np.asarray(finite)
    chunk.state, chunk.doubt = state, None
    if run.validation is not None:
        evaluate(chunk)


def launch(chunk: Chunk, tickets: Any, num_steps: int) -> tuple:
    """Send off a segment from the chunk's state, which is kept for failures; what comes back is for :func:`settle`."""
    chunk.has_run = True
    run = chunk.run
    return segment.compiled(run.program).advance(chunk.copy)(
        run.source.resident,
        chunk.lanes,
        chunk.state,
        run.blank(run.num_lanes),
        tickets,
        np.int32(0),
        np.int32(num_steps),
    )


def settle(chunk: Chunk, flight: tuple, tickets: Any, stop: int, tally: Tally):
    """Take in a segment that ended at ``stop``, bring what failed to rest, and enter what members did into the ledger."""
    state, blocks, finite = flight
    run, ledger, members, start = chunk.run, chunk.run.ledger, chunk.members, chunk.step
    is_live, num_steps = chunk.is_live, stop - start
    infos = jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[:num_steps]), blocks.infos)
    if not (is_live | chunk.is_padding).all():
        state = segment.select(is_live, state, chunk.state)
    is_sound = failure.are_sound(np.asarray(finite), chunk.expected)
    failures = failure.find(infos.loss, is_sound, is_live, run.is_looked_at(stop) | (chunk.goals == stop))
    rest, reasons = None, {}
    if failures:
        rest = resting.rest_of_failed(chunk, failures, tickets, num_steps)
        reasons = explanations.first_not_finite(chunk, rest, tickets)
    made = np.where(is_live, stop, ledger.steps[members])
    if rest is not None:
        made[list(rest.steps)] = list(rest.steps.values())
    if jax.tree.leaves(chunk.growths):
        chunk.growths = segment.append(chunk.growths, blocks.growths, made.astype(np.int32), np.int32(start))
    ledger.steps[members[is_live]] = made[is_live]
    if start == 0 and (ledger.num_compared == 1 or jax.tree.leaves(chunk.growths)):
        ledger.start_loss[members[is_live]] = infos.loss[0, is_live].astype(float)
    ledger.write(_taken(_without_rows_after(infos, made - start), is_live), start, members[is_live])
    if rest is not None:
        state = _lay_to_rest(chunk, rest, reasons, state)
    chunk.doubt = resting.doubt_after(chunk, chunk.is_live & ~is_sound, tickets, num_steps)
    chunk.state, chunk.step = state, stop
    ledger.status[members[chunk.is_live & (chunk.goals == stop)]] = Status.FINISHED
    if run.is_evaluated(stop):
        evaluate(chunk)
    _count(chunk, is_live, infos.loss, made - start, tally)


def settle_doubts(chunk: Chunk):
    """Bring to rest what is in doubt where a run ends before its last step."""
    if chunk.doubt is None or chunk.state is None:
        return
    rest = resting.rest_of_doubtful(chunk, chunk.doubt.lanes & ~chunk.is_padding)
    reasons = explanations.first_not_finite(chunk, rest, None)
    chunk.state, chunk.doubt = _lay_to_rest(chunk, rest, reasons, chunk.state), None


def _lay_to_rest(chunk: Chunk, rest: Rest, reasons: dict[int, Cause], state: Any) -> Any:
    """Enter where failed lanes rest and why, and return the state with theirs in it."""
    ledger, lanes = chunk.run.ledger, list(rest.steps)
    ledger.steps[chunk.members[lanes]] = list(rest.steps.values())
    early = [lane for lane in lanes if rest.steps[lane] < chunk.step]
    for lane in early:
        ledger.cut(int(chunk.members[lane]), rest.steps[lane])
    if early and jax.tree.leaves(chunk.growths):
        chunk.growths = segment.cut(chunk.growths, ledger.steps[chunk.members].astype(np.int32))
    for lane, reason in reasons.items():
        ledger.status[chunk.members[lane]] = Status.DIVERGED
        ledger.bad_leaf[chunk.members[lane]] = reason.leaf
        ledger.reason[chunk.members[lane]] = reason.targets
        ledger.skipper[chunk.members[lane]] = reason.skipper
    return segment.select(np.isin(np.arange(len(chunk.members)), lanes), rest.state, state)


def _taken(infos: Info, lanes: np.ndarray) -> Info:
    return jax.tree.map(lambda leaf: leaf[:, lanes], infos)


def _without_rows_after(infos: Info, made: np.ndarray) -> Info:
    """Blank what lanes recorded after their first bad step, whose own loss stays to be seen."""

    def blank(leaf):
        beyond = np.arange(len(leaf))[:, None] > made[None, :]
        leaf = leaf if trees.is_inexact(leaf) else leaf.astype(float)
        return np.where(beyond, np.asarray(np.nan, leaf.dtype), leaf)

    return jax.tree.map(blank, infos)


def _count(chunk: Chunk, was_live, losses, made, tally: Tally):
    """Tell the tally of the steps made and of the lowest loss at the end of the segment."""
    status = chunk.run.ledger.status[chunk.members]
    ends = losses.mean(0, dtype=np.float64)[was_live & (status != Status.DIVERGED)]
    if chunk.run.validation is not None:
        evaluations = (chunk.run.ledger.evaluations[member] for member in chunk.members[was_live])
        ends = np.array([entries[-1][1]["validation_loss"] for entries in evaluations])
    tally.add(
        member_steps=int(made[was_live].sum()),
        diverged=int((was_live & (status == Status.DIVERGED)).sum()),
        best=float(np.min(ends[np.isfinite(ends)], initial=np.inf)),
    )


def evaluate(chunk: Chunk, only: np.ndarray | None = None):
    """Take the metrics where the lanes stand; enter those that are new (of the lanes in the mask ``only``)."""
    ledger = chunk.run.ledger
    program = segment.compiled(chunk.run.program)
    metrics = program.evaluate(chunk.lanes, chunk.state, chunk.growths, chunk.run.validation)
    metrics = {name: np.asarray(values) for name, values in metrics.items()}
    for lane in np.flatnonzero(~chunk.is_padding if only is None else only).tolist():
        member = chunk.members[lane]
        entries, step = ledger.evaluations[member], int(ledger.steps[member])
        if not entries or entries[-1][0] != step:
            entries.append((step, {name: _number(values[lane]) for name, values in metrics.items()}))


def _number(value: Any) -> float | complex:
    return complex(value) if np.iscomplexobj(value) else float(value)


def retire(chunk: Chunk, leaving: np.ndarray, tally: Tally):
    """Bring the lanes in a mask to the host for good: their last evaluation, parameters and, if kept, states."""
    run, ledger = chunk.run, chunk.run.ledger
    if chunk.state is None or not leaving.any():
        return
    if run.validation is not None:
        is_new = [ledger.evaluations[member][-1][0] != ledger.steps[member] for member in chunk.members]
        if (leaving & is_new).any():
            evaluate(chunk, leaving)
    params = comparisons.params_of(chunk)
    state = trees.to_host(chunk.state) if run.keeps_state else None
    for lane in np.flatnonzero(leaving).tolist():
        member = chunk.members[lane]
        ledger.params[member] = trees.take_lane(params, lane)
        ledger.state[member] = None if state is None else trees.take_lane(state, lane)
    comparisons.look_at_end(chunk, leaving, params)  # last: where there is no room for it, the parameters are safe
    skipped = chunk.goals[leaving] - ledger.steps[chunk.members[leaving]]
    tally.add(members=int(leaving.sum()), skipped_member_steps=int(skipped.sum()))


def compile(chunk: Chunk):
    """Compile what the chunk will call besides :func:`begin`, without running it."""
    segment.compiled(chunk.run.program).read.lower(chunk.lanes, chunk.state, chunk.growths).compile()
    compile_segment(chunk)


def compile_segment(chunk: Chunk) -> Any:
    """The compiled segment of a chunk, without running it."""
    run = chunk.run
    tickets = run.no_tickets() if run.source.is_lockstep else run.tickets(chunk.seeds, 0)
    args = (run.source.resident, chunk.lanes, chunk.state, run.blank(run.num_lanes), tickets, np.int32(0), np.int32(0))
    return segment.compiled(run.program).advance(chunk.copy).lower(*args).compile()
