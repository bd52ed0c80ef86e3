"""The host loop: chunks of members, segment by segment, several chunks in flight.

Arrays go chunk by chunk, each through all its segments on a thread of its own; a stream goes segment by segment with all
chunks inside. Between segments the host checks, evaluates, counts and looks for an interrupt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from gradkit import settings
from gradkit.engine import chunk as chunks
from gradkit.engine import segment
from gradkit.engine.chunk import Record
from gradkit.engine.progress import Tally
from gradkit.engine.runs import Run

Place = tuple[Run, Callable[[], tuple]]  # what the chunk shares, and its members, padding, seeds and lanes when asked for


def run_chunks(places: Sequence[Place], threads: int, tally: Tally, is_interrupted: threading.Event) -> list[Record]:
    """Run all chunks to their end, or to the end of the segment in which an interrupt arrives.

    Args:
        places: One per chunk.
        threads: Chunks in flight.
        tally: Is told what happens.
        is_interrupted: Is looked at between segments; a chunk not begun by then never begins.
    """
    for run, place in {id(run): (run, place) for run, place in places}.values():
        if not is_interrupted.is_set():
            _compile(run, *place())
    drive = _drive_together if places[0][0].source.is_lockstep else _drive_apart
    with ThreadPoolExecutor(threads) as pool:
        return drive(places, pool, tally, is_interrupted)


def _compile(run: Run, members, is_padding, seeds, lanes):
    """Compile every program by running it for no step, in one thread, so that no two threads compile the same."""
    chunk = chunks.begin(run, members, is_padding, seeds, lanes)
    tickets = run.no_tickets() if run.source.is_lockstep else run.tickets(seeds, 0, 0)[0]
    chunks.rerun_of(run, lanes, tickets)(segment.copy(chunk.state), 0, 0)
    segment.compiled(run.program).read(lanes, chunk.state, chunk.growths)


def _drive_apart(places, pool, tally, is_interrupted) -> list[Record]:
    def through(run, place):
        if is_interrupted.is_set():
            return chunks.never_begun(run, *place())
        chunk = chunks.begin(run, *place())
        for start, stop in run.segments():
            if is_interrupted.is_set() or chunk.is_resting.all():
                break
            tickets, _ = run.tickets(chunk.seeds, start, stop)
            chunks.advance(run, chunk, tickets, start, stop, tally)
        return chunks.finish(run, chunk, tally)

    return _results([pool.submit(settings.carried(through), *place) for place in places], is_interrupted)


def _drive_together(places, pool, tally, is_interrupted) -> list[Record]:
    if is_interrupted.is_set():
        return [chunks.never_begun(run, *place()) for run, place in places]
    ready = [(run, chunks.begin(run, *place())) for run, place in places]
    first, advance = places[0][0], settings.carried(chunks.advance)
    for start, stop in first.segments():
        if is_interrupted.is_set() or all(chunk.is_resting.all() for _, chunk in ready):
            break
        tickets, count = first.tickets([None], start, stop)
        tasks = [pool.submit(advance, *pair, tickets, start, start + count, tally) for pair in ready if count]
        _results(tasks, is_interrupted)
        if count < stop - start:
            break
    return [chunks.finish(run, chunk, tally) for run, chunk in ready]


def _results(tasks: Sequence[Future], is_interrupted: threading.Event) -> list:
    """The results of all tasks; an error in one lets no other begin a segment."""
    if any(task.exception() for task in wait(tasks, return_when=FIRST_EXCEPTION).done):
        is_interrupted.set()
    return [task.result() for task in tasks]
