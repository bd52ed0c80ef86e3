"""Failure is a value: bring members that met a non-finite number back to their last finite state.

A segment runs bare. When its end shows a bad loss or a bad state, the chunk runs again from the kept start state, by the same
program with other step counts, so that each prefix repeats to the bit; the failed lanes are taken from there. The others keep
what the bare run gave them. A leaf that no loss depends on is judged at the ends of segments alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradkit.engine import segment


class Rest(NamedTuple):
    """Where failed lanes come to rest.

    Attributes:
        state: A state of all lanes; only those of ``steps`` count.
        steps: ``{lane: steps made in this segment}``.
        leaves: ``{lane: index of the first leaf that was not finite one step later}``; ``None`` if only the loss was not.
    """

    state: Any
    steps: dict[int, int]
    leaves: dict[int, int | None]


def find(losses: np.ndarray, finite: np.ndarray, expected: np.ndarray, running: np.ndarray) -> dict[int, int]:
    """For each lane that failed, the first step whose loss is not finite, or the number of steps if only the end state is bad.

    Args:
        losses: Shape (t, m).
        finite: Which leaves of the end state are finite, shape (m, leaves).
        expected: Which were at the start of the run and must stay so, shape (m, leaves).
        running: Which lanes were still making steps, shape (m,).
    """
    bad = ~np.isfinite(losses)
    first = np.where(bad.any(0), bad.argmax(0), len(losses))
    has_failed = running & (bad.any(0) | (expected & ~finite).any(1))
    return {int(lane): int(first[lane]) for lane in np.flatnonzero(has_failed)}


def bring_to_rest(rerun: Callable, start: Any, failures: dict[int, int], expected: np.ndarray, num_steps: int) -> Rest:
    """Find each failed lane's last finite state.

    The loss of a step is that of the state before it: a state that went bad shows in the next loss. So the last good state lies
    right before the first bad loss or one step earlier; only leaves that no loss depends on need the bisection.

    Args:
        rerun: ``(state, first, last) -> (state, finite [m, leaves])``: the segment's own program on its own tickets.
        start: The state at the segment's start, sound in every failed lane.
        failures: ``{lane: first bad step}`` from :func:`find`.
        expected: As for :func:`find`.
        num_steps: Steps of this segment; one more than it is never asked for.
    """

    def is_sound(finite, lane):
        return bool(np.all(finite[lane] | ~expected[lane]))

    def bad_leaf(finite, lane):
        bad = np.flatnonzero(~finite[lane] & expected[lane])
        return int(bad[0]) if len(bad) else None

    def take(rest, lanes, state, made, finite_later):
        steps.update(dict.fromkeys(lanes, made))
        leaves.update({lane: bad_leaf(finite_later, lane) for lane in lanes})
        return segment.select(np.isin(np.arange(len(expected)), lanes), state, rest) if lanes else rest

    rest, steps, leaves = start, {}, {}
    cursor, at = start, 0
    for bad in sorted(set(failures.values())):
        before = max(bad - 1, 0)
        cursor, finite_before = rerun(cursor, at, before)
        at = before
        reached, finite_reached = rerun(cursor, before, bad)
        _, finite_after = rerun(reached, bad, min(bad + 1, num_steps))
        lanes = [lane for lane, step in failures.items() if step == bad]
        sound = [lane for lane in lanes if is_sound(finite_reached, lane)]
        earlier = [lane for lane in lanes if lane not in sound and is_sound(finite_before, lane)]
        rest = take(rest, sound, reached, bad, finite_after)
        rest = take(rest, earlier, cursor, before, finite_reached)
        for lane in set(lanes).difference(sound, earlier):
            rest = take(rest, [lane], *_bisect(rerun, start, lane, before, is_sound))
    return Rest(rest, steps, leaves)


def _bisect(rerun, start, lane, bad, is_sound):
    """The last sound state of one lane, whose state after ``bad`` steps is known not to be; its steps; what came next."""
    good = 0
    while bad - good > 1:
        middle = (good + bad) // 2
        _, finite = rerun(start, 0, middle)
        good, bad = (middle, bad) if is_sound(finite, lane) else (good, middle)
    state, _ = rerun(start, 0, good)
    _, finite = rerun(state, good, bad)
    return state, good, finite
