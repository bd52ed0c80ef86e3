"""One member's result: from a lane of a record to a ``Fit``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradkit import trees
from gradkit.contracts import Status
from gradkit.engine.chunk import Record


@dataclass(frozen=True, repr=False, eq=False)
class Fit:
    """The result of one descent.

    Attributes:
        params: What the descent returns; for a diverged member, at its last finite state; ``None`` if it was never begun.
        state: The final state, from which a descent could go on; ``None`` for members of a sweep, whose ``replay`` has it.
        history: ``{"loss": array (steps,), ...}``: what each step reported, NaN for steps not made. The loss of a step is that of
            the parameters before its update, on its batch.
        evaluations: ``{"step": ..., "validation_loss": ..., ...}``: arrays over the evaluations, after so many steps.
        metrics: The last evaluation, ``{name: float}``.
        status: How the member ended.
        steps: Steps made.
        bad_leaf: The first leaf that was not finite, one step after the last good state; ``None`` if all went well.
        seconds: Wall time of the call, compilation included.
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

    @property
    def losses(self) -> np.ndarray:
        """The finite losses recorded, in order."""
        losses = np.asarray(self.history["loss"], float)
        return losses[np.isfinite(losses)]

    def __repr__(self) -> str:
        losses = self.losses
        course = f"loss {losses[0]:.4g} to {losses[-1]:.4g}" if len(losses) else "no finite loss"
        metrics = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items())
        where = f" (first bad: {self.bad_leaf} in step {self.steps + 1})" if self.bad_leaf else ""
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        return f"Fit {self.status.name}: {steps} in {self.seconds:.1f} s, {course}{metrics}{where}"


def from_lane(record: Record, lane: int, seconds: float) -> Fit:
    """The result of the member in one lane: views of the record's arrays."""
    history = {"loss": record.infos.loss[:, lane]}
    history |= {name: values[:, lane] for name, values in record.infos.metrics.items()}
    evaluations = {"step": np.asarray(record.evaluated_at, int)}
    evaluations |= {name: np.array([row[lane] for row in rows]) for name, rows in record.evaluations.items()}
    return Fit(
        params=None if record.params is None else trees.take_lane(record.params, lane),
        state=None if record.state is None else trees.take_lane(record.state, lane),
        history=history,
        evaluations=evaluations,
        metrics={name: float(values[lane]) for name, values in record.metrics.items()},
        status=record.status[lane],
        steps=int(record.steps[lane]),
        bad_leaf=record.bad_leaf[lane],
        seconds=seconds,
    )


def on_device(tree: Any) -> Any:
    """The tree with jax arrays for leaves."""
    return jax.tree.map(jnp.asarray, tree)
