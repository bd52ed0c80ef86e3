"""A whole run: from rung to rung, with what halving drops on the way; without halving, the end is the only rung."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from gradkit.contracts import Status
from gradkit.engine import chunk as chunks
from gradkit.engine import halving as rules
from gradkit.engine import moves, runner
from gradkit.engine import outline as outlines
from gradkit.engine.chunk import Chunk
from gradkit.engine.halving import Configuration, Halving
from gradkit.engine.ledger import Ledger
from gradkit.engine.progress import Tally
from gradkit.engine.runs import Run
from gradkit.questions import BEST_LOSS, Reported


class Rung(NamedTuple):
    """What happened at a rung.

    Attributes:
        rung: Counted from 1.
        steps: Steps made by those that came to it.
        members, configurations: That were in play.
        diverged, pruned, converged: Members that left: those that diverged (or found no memory) since the rung before, and those
            that this one stopped.
        kept: Members that go on.
        best: The best mean score of a configuration; NaN if there is none.
        widths: Lanes per device from here on, a program each.
    """

    rung: int
    steps: int
    members: int
    configurations: int
    diverged: int
    pruned: int
    converged: int
    kept: int
    best: float
    widths: tuple[int, ...]


def climb(
    groups: Sequence[list[Chunk]],
    runs_after: Callable[[int], Sequence[Sequence[Run]]],
    halving: Halving | None,
    configurations: Sequence[Configuration],
    *,
    threads: int,
    tally: Tally,
    is_interrupted: Event,
) -> list[Rung]:
    """Run all chunks from rung to rung and to the end.

    Args:
        groups: The chunks of each program.
        runs_after: ``rung -> runs`` of each program after that rung, one per device that takes chunks of its own.
        halving: The rules, with the sweep's question in them, or ``None``.
        configurations: The members of each, by their positions in the sweep.
        threads, tally, is_interrupted: See :mod:`~gradkit.engine.runner`.
    """
    num_steps = max(chunk.run.num_steps for group in groups for chunk in group)
    ends = [*(rules.rung_steps(halving, num_steps) if halving else ()), num_steps]
    watch, told, previous, in_play = runner.watch(tally, is_interrupted), [], None, list(configurations)
    reported = outlines.reported([group[0].run.outline for group in groups])
    is_measured = halving is not None and halving.metric in reported.evaluation_columns.values()
    drive = functools.partial(runner.drive, threads=threads, is_measured=is_measured, watch=watch)
    for rung, end in enumerate(ends):
        is_last = rung == len(ends) - 1
        groups = drive(groups, end, is_last=is_last)
        if is_last:
            break
        if is_interrupted.is_set() or any(chunk.is_live.any() and chunk.step < end for group in groups for chunk in group):
            drive(groups, end, is_last=True)
            break
        scores, is_running = _scores(groups, halving.metric, reported, 1 + max(map(max, configurations)))
        verdict = rules.judge(
            halving, rung, scores, is_running=is_running, configurations=in_play, num_configurations=len(configurations),
            previous=previous,
        )  # fmt: skip
        _leave(groups, verdict, rung + 1, tally)
        runs = runs_after(rung + 1)
        told.append(_tell(rung + 1, end, scores, is_running, in_play, verdict, halving, runs))
        groups = [_close_up(group, own) for group, own in zip(groups, runs)]
        gone = {*verdict.pruned, *verdict.converged, *np.flatnonzero(~is_running)}
        in_play, previous = [each for each in in_play if not gone.intersection(each)], scores
    return told


def _close_up(group: list[Chunk], runs: Sequence[Run]) -> list[Chunk]:
    seats = [(chunk, lane) for chunk in group for lane in np.flatnonzero(chunk.is_live).tolist()]
    return moves.close_up(seats, runs) if seats else []


def _scores(groups, metric: str, reported: Reported, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """The metric of each member that came to the rung, NaN for the others, and which came."""
    scores, is_running = np.full(num_positions, np.nan), np.zeros(num_positions, bool)
    for chunk in (chunk for group in groups for chunk in group if chunk.is_live.any()):
        members = chunk.members[chunk.is_live]
        positions = chunk.run.members.positions[members]
        is_running[positions] = True
        scores[positions] = _metric(chunk.run.ledger, members, metric, reported)
    return scores, is_running


def _metric(ledger: Ledger, members: np.ndarray, metric: str, reported: Reported) -> Any:
    """A column of the table, for members that all stand at the rung."""
    for name, column in reported.evaluation_columns.items():
        if column == metric:
            return [ledger.evaluations[member][-1][1][name] for member in members]
    if metric == BEST_LOSS:
        return ledger.lowest[members]
    names = {column: name for name, column in reported.step_columns.items()}
    name = names.get(metric, "loss")
    return ledger.recent(members, name, is_whole=name in reported.whole)


def _leave(groups, verdict: rules.Verdict, rung: int, tally: Tally):
    """Enter the verdict into the ledgers and bring those who leave to the host."""
    for chunk in (chunk for group in groups for chunk in group):
        ledger, positions = chunk.run.ledger, chunk.run.members.positions[chunk.members]
        is_live = chunk.is_live
        ledger.status[chunk.members[is_live & np.isin(positions, verdict.pruned)]] = Status.PRUNED
        ledger.status[chunk.members[is_live & np.isin(positions, verdict.converged)]] = Status.CONVERGED
        leaving = ~chunk.is_padding & ~chunk.is_live
        ledger.rung[chunk.members[leaving]] = rung
        chunks.retire(chunk, leaving, tally)


def _tell(rung, steps, scores, is_running, in_play, verdict, halving, runs) -> Rung:
    sign = -1 if halving.goal == "max" else 1
    means = [sign * scores[list(each)].mean() for each in in_play if np.isfinite(scores[list(each)]).all()]
    members = sum(map(len, in_play))
    return Rung(
        rung=rung,
        steps=steps,
        members=members,
        configurations=len(in_play),
        diverged=members - int(is_running.sum()),
        pruned=len(verdict.pruned),
        converged=len(verdict.converged),
        kept=int(is_running.sum()) - len(verdict.pruned) - len(verdict.converged),
        best=sign * min(means, default=np.nan),
        widths=tuple(own[0].program.width for own in runs),
    )
