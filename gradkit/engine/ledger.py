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
        start_loss, end_loss: The loss that the first step saw, and what the same step would see at the end: on the same batch, by
            the same program. NaN where there was none. Shape (m,).
        infos: ``Info`` of arrays (rows, m): every ``every``-th step; NaN for steps not made. ``None`` before
            :func:`open_histories`.
        every: Steps from one row to the next.
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
    start_loss: np.ndarray
    end_loss: np.ndarray
    infos: Info | None
    every: int
    evaluations: list[list[tuple[int, dict[str, float]]]]
    params: list[Any]
    state: list[Any]
    path: list[list[Placement]]
    notes: list[str]

    def write(self, infos: Info, start: int, members: np.ndarray):
        """Enter the infos ``[t, lanes]`` of the steps from ``start`` on."""
        first = -start % self.every
        row = (start + first) // self.every

        def enter(history, leaf):
            kept = leaf[first :: self.every]
            history[row : row + len(kept), members] = kept

        jax.tree.map(enter, self.infos, infos)

    def cut(self, member: int, made: int):
        """Blank what a member recorded after its first bad step, whose own loss stays to be seen."""

        def blank(history):
            history[made // self.every + 1 :, member] = np.nan

        jax.tree.map(blank, self.infos)

    def recent(self, members: np.ndarray, name: str = "loss") -> np.ndarray:
        """The mean over the last twentieth of the steps made, per member, of the loss or of another thing that steps report.

        All members have made equally many.
        """
        values = self.infos.loss if name == "loss" else self.infos.metrics[name]
        rows = -(-int(self.steps[members[0]]) // self.every)
        return values[rows - max(rows // 20, 1) : rows, members].astype(float).mean(0)

    def lowest(self, members: np.ndarray) -> np.ndarray:
        """The lowest loss so far, per member. All have made equally many steps."""
        rows = -(-int(self.steps[members[0]]) // self.every)
        return self.infos.loss[:rows, members].astype(float).min(0)


def open_histories(ledger: Ledger, info: Info, num_steps: int):
    """Make room for so many steps, right before a run. ``info``: shapes of what a step reports."""

    def history(leaf):
        shape = (-(-num_steps // ledger.every), len(ledger.status))
        return np.full(shape, np.nan, leaf.dtype if trees.is_inexact(leaf) else float)

    ledger.infos = jax.tree.map(history, info)


def blank(num_members: int, every: int) -> Ledger:
    """The ledger of members that have not begun, without histories yet."""
    return Ledger(
        status=np.full(num_members, int(Status.RUNNING)),
        steps=np.zeros(num_members, int),
        rung=np.zeros(num_members, int),
        bad_leaf=[None] * num_members,
        start_loss=np.full(num_members, np.nan),
        end_loss=np.full(num_members, np.nan),
        infos=None,
        every=every,
        evaluations=[[] for _ in range(num_members)],
        params=[None] * num_members,
        state=[None] * num_members,
        path=[[] for _ in range(num_members)],
        notes=[],
    )
