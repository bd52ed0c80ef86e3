"""Failure is a value: bring members that met a non-finite number back to their last finite state.

A member fails at the first step whose loss is not finite, or where its state is looked at and is not: at looks, whose places the
arguments fix (:meth:`gradkit.engine.runs.Run.next_look`), and at its end. It then rests in the last state before that place in
which every leaf is finite that was so at the start. None of this depends on where segments end, which the clock decides.

A segment runs bare. When its end shows a bad loss or a bad state, the chunk runs again from a kept state, by the same program
with other step counts, so that each prefix repeats to the bit; the failed lanes are taken from there. The others keep what the
bare run gave them. A leaf that no loss depends on may be bad where a segment ends and no look is due: then the member is in
doubt. It goes on, and what is needed to find its last finite state is kept until the next look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from gradkit.engine import segment


class Stretch(NamedTuple):
    """Steps to make once more: the first, how many, and the tickets of a stream; of other sources they are drawn again."""

    start: int
    num_steps: int
    tickets: Any


class Doubt(NamedTuple):
    """What is kept where a segment ended in states that are not finite, and no look was due.

    Attributes:
        state: The last state at the end of a segment in which no lane was in doubt.
        stretches: From there to where the chunk stands.
        lanes: Which lanes are in doubt, shape (m,).
    """

    state: Any
    stretches: tuple[Stretch, ...]
    lanes: np.ndarray


class Rest(NamedTuple):
    """Where failed lanes come to rest.

    Attributes:
        state: A state of all lanes; only those of ``steps`` count.
        steps: ``{lane: steps made}``, counted as the caller counts.
        leaves: ``{lane: index of the first leaf that was not finite one step later}``; ``None`` if only the loss was not.
    """

    state: Any
    steps: dict[int, int]
    leaves: dict[int, int | None]


def are_sound(finite: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """In which lanes all leaves are finite that must be, shape (m,)."""
    return np.all(finite | ~expected, axis=1)


def find(losses: np.ndarray, is_sound: np.ndarray, running: np.ndarray, is_looked_at: np.ndarray) -> dict[int, int]:
    """For each lane that failed, the first step whose loss is not finite, or the number of steps if only the end state is bad.

    Args:
        losses: Shape (t, m).
        is_sound: In which lanes the state is sound at the end, shape (m,).
        running: Which lanes were still making steps, shape (m,).
        is_looked_at: Which lanes are judged by their state here, shape (m,).
    """
    bad = ~np.isfinite(losses)
    first = np.where(bad.any(0), bad.argmax(0), len(losses))
    has_failed = running & (bad.any(0) | (is_looked_at & ~is_sound))
    return {int(lane): int(first[lane]) for lane in np.flatnonzero(has_failed)}


def bring_to_rest(
    rerun: Callable, start: Any, failures: dict[int, int], expected: np.ndarray, walk: Callable[[dict[int, int]], Rest]
) -> Rest:
    """Find each failed lane's last sound state.

    The loss of a step is that of the state before it: a state that went bad shows in the next loss. So the last sound state
    nearly always lies right before the first bad loss or one step earlier. Only leaves that no loss depends on need the walk.

    Args:
        rerun: ``(state, first, last) -> (state, finite [m, leaves])``: the segment's own program on its own tickets.
        start: The state at the segment's start.
        failures: ``{lane: first bad step}`` from :func:`find`.
        expected: Which leaves were finite at the start of the run and must stay so, shape (m, leaves).
        walk: ``{lane: step} -> Rest``: the last sound state before a step at which the lane is not sound; see :func:`walk`.
    """

    def take(rest, lanes, state, made, leaves_of):
        steps.update(dict.fromkeys(lanes, made))
        leaves.update({lane: leaves_of(lane) for lane in lanes})
        return segment.select(np.isin(np.arange(len(expected)), lanes), state, rest) if lanes else rest

    rest, steps, leaves, lost = start, {}, {}, {}
    cursor, at = start, 0
    for bad in sorted(set(failures.values())):
        before = max(bad - 1, 0)
        cursor, finite_before = rerun(cursor, at, before)
        at = before
        reached, finite_reached = rerun(cursor, before, bad)
        lanes = [lane for lane, step in failures.items() if step == bad]
        is_sound, was_sound = are_sound(finite_reached, expected), are_sound(finite_before, expected)
        rest = take(rest, [lane for lane in lanes if is_sound[lane]], reached, bad, lambda lane: None)
        earlier = [lane for lane in lanes if not is_sound[lane] and was_sound[lane]]
        rest = take(rest, earlier, cursor, before, lambda lane, finite=finite_reached: _bad_leaf(finite, expected, lane))
        lost |= {lane: before for lane in lanes if not (is_sound[lane] or was_sound[lane])}
    if lost:
        found = walk(lost)
        rest = segment.select(np.isin(np.arange(len(expected)), list(lost)), found.state, rest)
        steps, leaves = steps | found.steps, leaves | found.leaves
    return Rest(rest, steps, leaves)


def walk(states: Iterable[tuple[int, Any, np.ndarray]], start: Any, expected: np.ndarray, ends: dict[int, int]) -> Rest:
    """Find the last sound state of lanes step by step: a leaf may have been bad and recovered many times.

    Args:
        states: ``(step, state, finite)`` after each step.
        start: The state before, in which these lanes are sound.
        expected: As for :func:`bring_to_rest`.
        ends: ``{lane: step}`` after which the state of a lane does not count; there it is not sound.
    """
    lanes, last = np.arange(len(expected)), max(ends.values())
    wanted = np.array([ends.get(lane, -1) for lane in lanes.tolist()])
    rest, steps, leaves = start, {}, {}
    before, was_sound = start, np.ones(len(expected), bool)
    for step, state, finite in states:
        is_sound = are_sound(finite, expected)
        fell = was_sound & ~is_sound & (step <= wanted)
        if fell.any():
            rest = segment.select(fell, before, rest)
            steps |= dict.fromkeys(np.flatnonzero(fell).tolist(), step - 1)
            leaves |= {lane: _bad_leaf(finite, expected, lane) for lane in np.flatnonzero(fell).tolist()}
        before, was_sound = state, is_sound
        if step >= last:
            break
    return Rest(rest, steps, leaves)


def _bad_leaf(finite: np.ndarray, expected: np.ndarray, lane: int) -> int:
    return int(np.flatnonzero(~finite[lane] & expected[lane])[0])
