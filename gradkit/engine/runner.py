"""The host loop: for each rung, for each chunk of members, for each segment of steps: one dispatch, several chunks in flight.

Arrays go chunk by chunk, each through all its segments on a thread of its own; a stream goes segment by segment with all
chunks inside. Between segments the host checks, evaluates, counts and looks for an interrupt; the batches of the next segment
are made while this one runs. A chunk that does not fit the memory splits in two and goes on.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from gradkit import settings
from gradkit.contracts import Status
from gradkit.engine import chunk as chunks
from gradkit.engine import memory, moves
from gradkit.engine.chunk import Chunk
from gradkit.engine.executables import Executables
from gradkit.engine.progress import Tally

NO_ROOM = "out of memory: a single member needs more than there is; those it befell stopped where they stood"


class Watch(NamedTuple):
    """What the threads of a run share: who counts, who may interrupt, and what is compiled."""

    tally: Tally
    is_interrupted: threading.Event
    executables: Executables


def watch(tally: Tally, is_interrupted: threading.Event) -> Watch:
    """The watch of a new run."""
    return Watch(tally, is_interrupted, Executables())


def drive(
    groups: Sequence[list[Chunk]], until: int, *, threads: int, is_last: bool, is_measured: bool, watch: Watch
) -> list[list[Chunk]]:
    """Take all chunks of all programs to a step, or to the end of the segment in which an interrupt arrives.

    Args:
        groups: The chunks of each program.
        until: The step.
        threads: Chunks in flight.
        is_last: Whether members come to rest there: then each chunk is brought to the host as soon as it arrives.
        is_measured: Whether metrics are wanted there, if it is not the last.
        watch: Of the run.

    Returns:
        The chunks of each program: others where memory made them split.
    """
    arrive = _end if is_last else _measure if is_measured else lambda chunk, watch: None
    with ThreadPoolExecutor(threads) as pool:
        submit = lambda function, *args: pool.submit(settings.carried(function), *args)  # noqa: E731
        if any(group and group[0].run.source.is_lockstep for group in groups):
            return [_together(group, until, submit, arrive, watch) for group in groups]
        tasks = [[submit(_through, chunk, until, arrive, watch) for chunk in group] for group in groups]
        _wait([task for group in tasks for task in group], watch)
        return [[part for task in group for part in task.result()] for group in tasks]


def _through(chunk: Chunk, until: int, arrive: Callable, watch: Watch) -> list[Chunk]:
    """One chunk through all its segments, and what is done on arrival; its halves, if it had to split."""

    def advance():
        if chunk.state is not None or not watch.is_interrupted.is_set():
            _make_steps(chunk, until, watch)
        arrive(chunk, watch)

    return _split_until_it_fits(chunk, advance, lambda half: _through(half, until, arrive, watch), watch)


def _make_steps(chunk: Chunk, until: int, watch: Watch):
    run = chunk.run
    watch.executables.make_ready(chunk)
    draw = lambda start: run.tickets(chunk.seeds, start) if start < until else None  # noqa: E731
    tickets = draw(chunk.step)
    while chunk.step < until and chunk.is_live.any() and not watch.is_interrupted.is_set():
        stop = run.next_stop(chunk.step, chunk.goals, until)
        tickets = _segment(chunk, tickets, stop, functools.partial(draw, stop), watch)


def _together(group: list[Chunk], until: int, submit, arrive: Callable, watch: Watch) -> list[Chunk]:
    """All chunks of a program segment by segment, over a stream that is read in this thread while they run."""
    if not group:
        return group
    if not watch.is_interrupted.is_set():
        tasks = [submit(_begun, chunk, watch) for chunk in group]
        _wait(tasks, watch)
        group = [part for task in tasks for part in task.result()]
    run, step = group[0].run, group[0].step

    def draw(step):
        if step >= until or watch.is_interrupted.is_set():
            return None, 0, False
        stop = run.next_stop(step, run.members.goals, until)
        tickets, count = run.drawn_tickets(step, stop)
        return tickets, count, step + count < stop

    tickets, count, has_ended = draw(step)
    while count and any(chunk.is_live.any() for chunk in group) and not watch.is_interrupted.is_set():
        step += count
        tasks = [submit(_one_segment, chunk, tickets, step, watch) for chunk in group]
        tickets, count, has_ended = (None, 0, True) if has_ended else draw(step)
        _wait(tasks, watch)
        group = [part for task in tasks for part in task.result()]
    tasks = [submit(_arrived, chunk, arrive, watch) for chunk in group]
    _wait(tasks, watch)
    return [part for task in tasks for part in task.result()]


def _arrived(chunk: Chunk, arrive: Callable, watch: Watch) -> list[Chunk]:
    again = lambda half: _arrived(half, arrive, watch)  # noqa: E731
    return _split_until_it_fits(chunk, lambda: arrive(chunk, watch), again, watch)


def _begun(chunk: Chunk, watch: Watch) -> list[Chunk]:
    return _split_until_it_fits(chunk, lambda: watch.executables.make_ready(chunk), lambda half: _begun(half, watch), watch)


def _one_segment(chunk: Chunk, tickets, stop: int, watch: Watch) -> list[Chunk]:
    def advance():
        if chunk.is_live.any() and chunk.step < stop:
            watch.executables.make_ready(chunk)
            _segment(chunk, tickets, stop, lambda: None, watch)

    return _split_until_it_fits(chunk, advance, lambda half: _one_segment(half, tickets, stop, watch), watch)


def _segment(chunk: Chunk, tickets, stop: int, draw: Callable, watch: Watch):
    """Make the steps up to ``stop``; meanwhile draw what comes next, which is returned."""
    with watch.executables.lend(chunk):
        started, num_steps = time.perf_counter(), stop - chunk.step
        flight = chunks.launch(chunk, tickets, num_steps)
        upcoming = draw()
        chunks.settle(chunk, flight, tickets, stop, watch.tally)
        chunk.run.pace.note(chunk.run.program.width, num_steps, started)
    return upcoming


def _split_until_it_fits(chunk: Chunk, advance: Callable[[], None], again: Callable[[Chunk], list[Chunk]], watch: Watch):
    """Advance a chunk; where memory runs out, its halves from where it stands, and so on down to one member."""
    try:
        advance()
        return [chunk]
    except RuntimeError as error:
        if not memory.is_exhausted(error):
            raise
    if chunk.step == 0:
        chunk.state = None  # it begins anew: the beginning may be what did not fit
    if chunk.run.program.width == 1:
        _note(chunk, NO_ROOM)
        with contextlib.suppress(RuntimeError):  # what it has done so far, if there is room for that
            _end(chunk, watch)
        chunk.state = chunk.growths = None
        return [chunk]
    _note(chunk, f"out of memory at width {chunk.run.program.width}: those it befell went on at half of it")
    halves = moves.split(chunk)
    chunk.state = chunk.growths = None
    return [part for half in halves for part in again(half)]


def _note(chunk: Chunk, note: str):
    if note not in chunk.run.ledger.notes:
        chunk.run.ledger.notes.append(note)


def _measure(chunk: Chunk, watch: Watch):
    """Take the metrics of those that run, where they were not taken yet."""
    evaluations = chunk.run.ledger.evaluations
    if chunk.state is not None and any(evaluations[member][-1][0] != chunk.step for member in chunk.members[chunk.is_live]):
        chunks.evaluate(chunk)


def _end(chunk: Chunk, watch: Watch):
    """Bring a chunk to the host for good; who has steps left was stopped."""
    real, ledger = ~chunk.is_padding, chunk.run.ledger
    ledger.status[chunk.members[chunk.is_live]] = Status.STOPPED
    chunks.settle_doubts(chunk)
    chunks.retire(chunk, real, watch.tally)
    chunk.state = chunk.growths = None


def _wait(tasks: Sequence[Future], watch: Watch):
    """Wait for all tasks; an error in one lets no other begin a segment."""
    if any(task.exception() for task in wait(tasks, return_when=FIRST_EXCEPTION).done):
        watch.is_interrupted.set()
    for task in tasks:
        task.result()
