"""What the members of one program did, on the host: a column per member, filled in by the chunks they travel in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit import trees
from gradkit.contracts import Info, Status


class Placement(NamedTuple):
    """Where a member ran from a step on: bits depend on the width and the lane.

    Attributes:
        step: Steps made before.
        width: Lanes per device.
        lane: The lane in its chunk.
    """

    step: int
    width: int
    lane: int


@dataclass
class Ledger:
    """The results of all members (m); threads write to the columns of their own members only.

    Attributes:
        status: ``Status`` as int, shape (m,).
        steps: Steps made, shape (m,).
        rung: The rung, counted from 1, at which a member left: pruned, converged, or found diverged; 0 for the others. Shape
            (m,).
        bad_leaf: What was not finite first, in words: ``"loss"``, ``"gradients of hidden[0]"``, ``"state.optimizer[1]"``;
            ``None`` for a sound member.
        reason: What is wrong with the batch at which a member failed, in words, or ``""``.
        skipper: The wrapper in a failed member's optimizer that leaves bad updates out, though not their losses, or ``""``.
        num_compared: The first batches on which start and end are compared.
        start_loss, end_loss: The loss before the first step and after the last, both on the same first batches (their mean), by
            the same program. The second is infinite where it is not a number, and NaN where it was not taken. Shape (m,).
        has_moved: Whether any parameter differs from its start; True where that is not known. Shape (m,).
        zero_gradients: Per member, the leaves whose gradient is exactly zero where it ended, on the batch of the first step; only
            looked for where a parameter did not move.
        infos: ``Info`` of arrays (rows, m): every ``every``-th step; NaN for steps not made. ``None`` before
            :func:`open_histories`.
        every: Steps from one row to the next.
        tail: Where ``every`` is more than one, the last twentieth of the steps made, and more, each step: a ring of arrays
            (rows, m), in which step t stands in row ``t % rows``. Else ``None``.
        lowest: The lowest finite loss of any step; infinite if there was none. Shape (m,).
        evaluations: Per member, ``(steps made, {name: value})`` in order.
        params: Per member, what its descent returns; ``None`` until it is at rest.
        state: Per member, its final state, if kept.
        path: Per member, where it ran.
        notes: What the reader must know.
    """

    status: np.ndarray
    steps: np.ndarray
    rung: np.ndarray
    bad_leaf: list[str | None]
    reason: list[str]
    skipper: list[str]
    num_compared: int
    start_loss: np.ndarray
    end_loss: np.ndarray
    has_moved: np.ndarray
    zero_gradients: list[tuple[str, ...]]
    infos: Info | None
    every: int
    tail: Info | None
    lowest: np.ndarray
    evaluations: list[list[tuple[int, dict[str, float]]]]
    params: list[Any]
    state: list[Any]
    path: list[list[Placement]]
    notes: list[str]

    def write(self, infos: Info, start: int, members: np.ndarray):
        """Enter the infos ``[t, lanes]`` of the steps from ``start`` on, of members whose steps made are known."""
        first = -start % self.every
        row = (start + first) // self.every

        def enter(history, leaf):
            kept = leaf[first :: self.every]
            history[row : row + len(kept), members] = kept

        jax.tree.map(enter, self.infos, infos)
        losses = infos.loss.astype(float)
        lowest = np.where(np.isfinite(losses), losses, np.inf).min(0, initial=np.inf)
        self.lowest[members] = np.minimum(self.lowest[members], lowest)
        if self.tail is not None:
            self._write_tail(infos, start, members)

    def cut(self, member: int, made: int):
        """Blank what a member recorded after its first bad step, whose own loss stays to be seen."""

        def blank(history):
            history[made // self.every + 1 :, member] = np.nan

        jax.tree.map(blank, self.infos)
        if self.tail is not None:  # its last steps have displaced those that count: the history has what is left
            jax.tree.map(lambda tail: tail[:, member].fill(np.nan), self.tail)
        losses = self.infos.loss[:, member].astype(float)
        self.lowest[member] = losses[np.isfinite(losses)].min(initial=np.inf)

    def _write_tail(self, infos: Info, start: int, members: np.ndarray):
        """What lanes did after a step that failed must not displace what they did before."""
        num_rows, made = len(self.tail.loss), self.steps[members]
        steps = start + np.arange(len(infos.loss))
        is_wanted = (steps[:, None] <= made[None, :]) & (steps[:, None] > made[None, :] - num_rows)
        row, lane = np.nonzero(is_wanted)

        def enter(tail, leaf):
            tail[steps[row] % num_rows, members[lane]] = leaf[row, lane]

        jax.tree.map(enter, self.tail, infos)

    def last_rows(self, member: int) -> Info:
        """What the tail has of a member: the last twentieth of its steps, and more, in order; also the one that failed."""
        num_rows, made = len(self.tail.loss), int(self.steps[member])
        has_failed = self.bad_leaf[member] is not None
        rows = np.arange(max(made + 1 - num_rows, 0), made + has_failed) % num_rows
        return jax.tree.map(lambda tail: tail[rows, member], self.tail)

    def recent(self, members: np.ndarray, name: str = "loss", *, is_whole: bool = False) -> np.ndarray:
        """What the loss, or another thing that steps report, came to, per member; see :func:`ending`.

        All members have made equally many steps.
        """
        history, steps = _named(self.infos, name), int(self.steps[members[0]])
        last = np.arange(steps - last_twentieth(steps), steps)
        tail = history if self.tail is None else _named(self.tail, name)
        window = tail[last[:, None] % len(tail), members[None, :]]
        return ending(history[: -(-steps // self.every), members], window, name, is_whole=is_whole)


def _named(infos: Info, name: str) -> np.ndarray:
    return infos.loss if name == "loss" else infos.metrics[name]


def last_twentieth(steps: int) -> int:
    """How many of the last steps tell where a member stands: one batch alone is noise."""
    return max(steps // 20, 1)


def ending(rows: np.ndarray, window: np.ndarray, name: str, *, is_whole: bool) -> Any:
    """What a thing came to: the mean over a window of the last steps; of a count the last.

    A mean of counts says nothing; counts are ``skipped_in_a_row``, and whole numbers that never fall.

    Args:
        rows: Its values over the whole run, shape (t, ...).
        window: Those of the last steps, shape (w, ...).
        name: What it is called.
        is_whole: Whether it is a whole number by type.
    """
    mean = wide(window).mean(0)
    if name == "skipped_in_a_row":
        return wide(window)[-1]
    if not is_whole:
        return mean
    return np.where((np.diff(rows, axis=0) < 0).any(0), mean, window[-1])


def wide(values: np.ndarray) -> np.ndarray:
    """In double precision: means of bfloat16, say, would be rounded to three digits."""
    return values.astype(complex if values.dtype.kind == "c" else float)


def open_histories(ledger: Ledger, info: Info, num_steps: int):
    """Make room for so many steps, right before a run. ``info``: shapes of what a step reports."""

    def history(num_rows):
        shape = (num_rows, len(ledger.status))
        return lambda leaf: np.full(shape, np.nan, leaf.dtype if trees.is_inexact(leaf) else float)

    ledger.infos = jax.tree.map(history(-(-num_steps // ledger.every)), info)
    if ledger.every > 1:  # one row more than the longest window, for the step that fails
        ledger.tail = jax.tree.map(history(last_twentieth(num_steps) + 1), info)


def blank(num_members: int, every: int, num_compared: int = 1) -> Ledger:
    """The ledger of members that have not begun, without histories yet."""
    return Ledger(
        status=np.full(num_members, int(Status.RUNNING)),
        steps=np.zeros(num_members, int),
        rung=np.zeros(num_members, int),
        bad_leaf=[None] * num_members,
        reason=[""] * num_members,
        skipper=[""] * num_members,
        num_compared=num_compared,
        start_loss=np.full(num_members, np.nan),
        end_loss=np.full(num_members, np.nan),
        has_moved=np.ones(num_members, bool),
        zero_gradients=[()] * num_members,
        infos=None,
        every=every,
        tail=None,
        lowest=np.full(num_members, np.inf),
        evaluations=[[] for _ in range(num_members)],
        params=[None] * num_members,
        state=[None] * num_members,
        path=[[] for _ in range(num_members)],
        notes=[],
    )
