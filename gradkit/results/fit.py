"""One member's result: from a column of the ledger to a ``Fit``."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradkit import boosting, trees
from gradkit.contracts import Info, Status
from gradkit.engine.ledger import Ledger, last_twentieth
from gradkit.transforms.skips import NO_LOSS_YET

FEWEST_LOSSES = 10  # that tell how noisy they are
SPELLED_OUT = 3  # leaves named in a line
NOISES = 2  # of the losses compared, above which an end lies worse than its start
NOISES_AGAINST_HISTORY = 8  # where the losses of the steps fell meanwhile
ROUNDINGS = 16  # by which a mean over a batch may be off, in units of the last place


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
        start_loss, end_loss: The mean loss in training mode before the first step and after the last, both on the same first
            batches, so that they tell progress from the luck of a batch. A loss that draws numbers draws others. The second
            is infinite where the loss is not a number, and NaN where it was not taken: where steps grow trees, one more is dear,
            and the remarks go by the loss that the last step told.
        num_compared: How many batches these are: as many as hold 64 examples, at most one for 200 steps; the first of a stream.
        has_moved: Whether any parameter differs from its start.
        zero_gradients: The leaves whose gradient, taken at the end on the batch of the first step, is exactly zero. They are only
            looked for where a leaf of the parameters never moved, and as far as the descent tells its parts.
        reason: What is wrong with the batch at which the descent failed, such as targets outside the classes; else ``""``.
        skipper: The wrapper of optax's, in the optimizer of a descent that failed, that leaves bad updates out: such a step does
            not reach the parameters, but its loss ends the descent. ``""`` if there is none.
        notes: What the reader must know of a lone fit: why a stream ended early, how weights count. A sweep has its own.
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
    num_compared: int = 1
    notes: tuple[str, ...] = ()
    has_moved: bool = True
    zero_gradients: tuple[str, ...] = ()
    reason: str = ""
    skipper: str = ""

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

    @property
    def noise(self) -> float:
        """How far the loss of one batch lies from that of the next, at the end: from step to step over the last twentieth of the
        steps, at least ten, as a standard deviation; NaN if fewer than three were recorded."""
        last = self.last_losses if len(self.last_losses) >= FEWEST_LOSSES else self.losses[-FEWEST_LOSSES:]
        return float(np.diff(last).std() / np.sqrt(2)) if len(last) > 2 else np.nan

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the status does not say: that it ended worse than it began, did not move, grew no tree with a split, or has
        gradients that are zero."""
        if self.status == Status.DIVERGED or self.steps == 0:
            return ()
        grown = boosting.describe_growth(self.params) if isinstance(self.params, boosting.Ensemble) else ""
        return tuple(remark for remark in (self._progress(), grown, self._zeros()) if remark)

    def _progress(self) -> str:
        if not self.has_moved:
            return "the parameters did not move"
        if np.isfinite(self.start_loss) and np.isinf(self.end_loss):
            return "the loss is not finite where it ended"
        end, noise = self.end_loss, 0.0 if np.isnan(self.noise) else self.noise / np.sqrt(self.num_compared)
        if self._keeps_all_trees() and len(self.last_losses):
            end, noise = self.last_losses[-1], 0.0  # a step that grows a tree tells the loss of all examples
        rounding = ROUNDINGS * float(jnp.finfo(self.history["loss"].dtype).eps) * abs(self.start_loss)
        # the examples compared may be few, on which a good end can lie above the start by luck
        least = NOISES_AGAINST_HISTORY if self._has_fallen() else NOISES
        return "it ended worse than it began" if end > self.start_loss + least * noise + rounding else ""

    def _has_fallen(self) -> bool:
        """Whether the losses that its steps saw are lower at the end than they were at the start."""
        last = self.last_losses
        return len(last) > 0 and bool(last.mean() < self.losses[: len(last)].mean())

    def _keeps_all_trees(self) -> bool:
        return isinstance(self.params, boosting.Ensemble) and bool((np.asarray(self.params.coefficient) > 0).all())

    def _zeros(self) -> str:
        few = self.zero_gradients[:SPELLED_OUT]
        more = f" and {len(self.zero_gradients) - len(few)} more" * (len(self.zero_gradients) > len(few))
        where = f" in {', '.join(few)}{more}" if any(few) else ""
        return f"gradient is zero{where}" if few else ""

    def __copy__(self) -> Fit:
        return replace(self)

    def __deepcopy__(self, memo) -> Fit:
        return replace(self, **{each.name: copy.deepcopy(getattr(self, each.name), memo) for each in fields(self)})

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: arrays arrive on the host, as a device may not be there or may have other types."""
        return self.__dict__ | {"params": trees.to_host(self.params), "state": trees.to_host(self.state)}

    def __repr__(self) -> str:
        metrics = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items())
        where = f"; not finite: {self._bad_place}" if self.bad_leaf else ""
        remarks = "".join(f"; {remark}" for remark in self.remarks)
        where += f": {self.reason}" if self.reason else ""
        where += f"; {self.skipper} leaves out updates only: use gk.transforms.guard(optimizer)" if self.skipper else ""
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        notes = "".join(f"\nnote: {note}" for note in self.notes)
        return f"Fit {self.status.name}: {steps} in {self.seconds:.1f} s, {self._course()}{metrics}{where}{remarks}{notes}"

    def _course(self) -> str:
        """The loss at start and end, on the same batches; of a fit that failed, the first and the last that it saw."""
        losses = self.losses
        if self.status != Status.DIVERGED and np.isfinite([self.start_loss, self.end_loss]).all():
            steps = "step" if self.num_compared == 1 else f"{self.num_compared} steps"
            batches = "batch" if self.num_compared == 1 else "batches"
            return f"loss {self.start_loss:.4g} to {self.end_loss:.4g} on the {batches} of its first {steps}"
        return f"loss {losses[0]:.4g} to {losses[-1]:.4g}" if len(losses) else "no finite loss"

    @property
    def _bad_place(self) -> str:
        return self.bad_leaf if self.bad_leaf.endswith("at the start") else f"{self.bad_leaf} in step {self.steps + 1}"


def _without_stand_ins(losses: Any, dtype: Any) -> np.ndarray:
    """The losses as floats; NaN where a guard had none to tell yet."""
    stand_in = min(NO_LOSS_YET, float(jnp.finfo(dtype).max))
    losses = np.asarray(losses, float)
    return np.where(losses == stand_in, np.nan, losses)


def _by_name(rows: Info) -> dict[str, np.ndarray]:
    return {"loss": rows.loss, **rows.metrics}


def from_ledger(ledger: Ledger, member: int, seconds: float) -> Fit:
    """The result of one member: views of the ledger's arrays."""
    rows = jax.tree.map(lambda values: values[:, member], ledger.infos)
    history = _by_name(rows)
    tail = history if ledger.tail is None else _by_name(ledger.last_rows(member))
    losses = [ledger.lowest[member], ledger.start_loss[member], ledger.end_loss[member]]
    lowest, start, end = _without_stand_ins(losses, rows.loss.dtype).tolist()
    entries = ledger.evaluations[member]
    names = entries[0][1] if entries else ()
    evaluations = {"step": np.array([step for step, _ in entries], int)}
    evaluations |= {name: np.array([values[name] for _, values in entries]) for name in names}
    return Fit(
        params=ledger.params[member],
        state=ledger.state[member],
        history=history,
        evaluations=evaluations,
        metrics=dict(entries[-1][1]) if entries else {},
        status=Status(ledger.status[member]),
        steps=int(ledger.steps[member]),
        bad_leaf=ledger.bad_leaf[member],
        reason=ledger.reason[member],
        skipper=ledger.skipper[member],
        seconds=seconds,
        every=ledger.every,
        tail=tail,
        lowest_loss=lowest if np.isfinite(lowest) else np.nan,
        rung=int(ledger.rung[member]),
        start_loss=start,
        end_loss=end,
        num_compared=ledger.num_compared,
        has_moved=bool(ledger.has_moved[member]),
        zero_gradients=ledger.zero_gradients[member],
    )


def on_device(tree: Any) -> Any:
    """The tree with jax arrays for leaves."""
    return jax.device_put(tree)
