"""One member's result: from a column of the ledger to a ``Fit``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradkit.contracts import Status
from gradkit.engine.ledger import Ledger, last_twentieth
from gradkit.transforms.skips import NO_LOSS_YET


@dataclass(frozen=True, repr=False, eq=False)
class Fit:
    """The result of one descent.

    Attributes:
        params: What the descent returns; for a diverged member, at its last finite state; ``None`` if it was never begun.
        state: The final state, from which a descent could go on; ``None`` for members of a sweep, whose ``replay`` has it.
        history: ``{"loss": array (steps,), ...}``: what each step reported, NaN for steps not made. The loss of a step is that of
            the parameters before its update, on its batch.
        every: Steps from one row of the history to the next.
        tail: Likewise of the last twentieth of the steps made, and more, each step; where ``every`` is one, the history itself.
        lowest_loss: Of any step; NaN if none was finite.
        evaluations: ``{"step": ..., "validation_loss": ..., ...}``: arrays over the evaluations, after so many steps.
        metrics: The last evaluation, ``{name: float}``.
        status: How the member ended.
        steps: Steps made.
        bad_leaf: What was not finite first in the step after the last finite state, in the order in which a step makes things:
            ``"batch[0]"``, ``"loss"``, ``"gradients of hidden.bias"``, ``"updates of ..."``, ``"params of ..."``, else a leaf of
            the state. ``None`` if all went well.
        seconds: Wall time of the call, compilation included.
        rung: The rung of a halving, counted from 1, at which the member left: pruned, converged, or found diverged; else 0.
        start_loss, end_loss: The loss in training mode before the first step and after the last, both on the batch of the first
            step, so that they tell progress from the luck of a batch. A loss that draws random numbers draws others. NaN where
            there was none.
    """

    params: Any
    state: Any
    history: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    metrics: dict[str, float]
    status: Status
    steps: int
    bad_leaf: str | None
    seconds: float
    every: int = 1
    tail: dict[str, np.ndarray] = field(default_factory=dict)
    lowest_loss: float = np.nan
    rung: int = 0
    start_loss: float = np.nan
    end_loss: float = np.nan

    @property
    def curve(self) -> np.ndarray:
        """The loss of each step recorded; NaN where there was none: not made, or left out by a guard before the first."""
        return _without_stand_ins(self.history["loss"], self.history["loss"].dtype)

    @property
    def last_losses(self) -> np.ndarray:
        """The finite losses of the last twentieth of the steps made, of all of them even if the history has gaps."""
        losses = _without_stand_ins(self.tail["loss"], self.tail["loss"].dtype)
        losses = losses[np.isfinite(losses)]
        num_steps = len(losses) if self.every == 1 else self.steps
        return losses[-last_twentieth(num_steps) :] if len(losses) else self.losses[-1:]

    @property
    def losses(self) -> np.ndarray:
        """The finite losses recorded, in order."""
        return self.curve[np.isfinite(self.curve)]

    def __repr__(self) -> str:
        losses = self.losses
        course = f"loss {losses[0]:.4g} to {losses[-1]:.4g}" if len(losses) else "no finite loss"
        metrics = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items())
        where = f"; not finite: {self._bad_place}" if self.bad_leaf else ""
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        return f"Fit {self.status.name}: {steps} in {self.seconds:.1f} s, {course}{metrics}{where}"

    @property
    def _bad_place(self) -> str:
        return self.bad_leaf if self.bad_leaf.endswith("at the start") else f"{self.bad_leaf} in step {self.steps + 1}"


def _without_stand_ins(losses: Any, dtype: Any) -> np.ndarray:
    """The losses as floats; NaN where a guard had none to tell yet."""
    stand_in = min(NO_LOSS_YET, float(jnp.finfo(dtype).max))
    losses = np.asarray(losses, float)
    return np.where(losses == stand_in, np.nan, losses)


def from_ledger(ledger: Ledger, member: int, seconds: float) -> Fit:
    """The result of one member: views of the ledger's arrays."""
    rows, last_rows = jax.tree.map(lambda values: values[:, member], ledger.infos), ledger.last_rows(member)
    history = {"loss": rows.loss, **rows.metrics}
    lowest = _without_stand_ins([ledger.lowest[member]], ledger.infos.loss.dtype)[0]
    entries = ledger.evaluations[member]
    names = entries[0][1] if entries else ()
    evaluations = {"step": np.array([step for step, _ in entries], int)}
    evaluations |= {name: np.array([values[name] for _, values in entries]) for name in names}
    ends = _without_stand_ins([ledger.start_loss[member], ledger.end_loss[member]], ledger.infos.loss.dtype)
    return Fit(
        params=ledger.params[member],
        state=ledger.state[member],
        history=history,
        evaluations=evaluations,
        metrics=dict(entries[-1][1]) if entries else {},
        status=Status(ledger.status[member]),
        steps=int(ledger.steps[member]),
        bad_leaf=ledger.bad_leaf[member],
        seconds=seconds,
        every=ledger.every,
        tail=history if ledger.every == 1 else {"loss": last_rows.loss, **last_rows.metrics},
        lowest_loss=float(lowest) if np.isfinite(lowest) else np.nan,
        rung=int(ledger.rung[member]),
        start_loss=float(ends[0]),
        end_loss=float(ends[1]),
    )


def on_device(tree: Any) -> Any:
    """The tree with jax arrays for leaves."""
    return jax.device_put(tree)
