"""A row of a sweep's table: a member's result flows in, a number for each column flows out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradkit.engine.ledger import ending, last_twentieth, wide
from gradkit.questions import Reported
from gradkit.results.fit import Fit

if TYPE_CHECKING:
    import pandas as pd


def names(reported: Reported) -> list[str]:
    """The columns of what members reported: losses, metrics, and the start of these."""
    starts = (f"initial_{column}" for column in reported.columns)
    return ["initial_loss", "final_loss", "best_loss", *reported.columns, *starts]


def metrics_of(fit: Fit, reported: Reported) -> dict[str, Any]:
    """What a member reported, at its end and at its start; NaN for what was never taken."""
    losses, last_losses = fit.losses, fit.last_losses
    told = {column: _ending(fit, name, is_whole=name in reported.whole) for name, column in reported.step_columns.items()}
    starts = {column: _first(fit, name) for name, column in reported.step_columns.items()}
    for name, column in reported.evaluation_columns.items():
        values = fit.evaluations.get(name, ())
        starts[column] = values[0] if len(values) else np.nan
    return {
        "initial_loss": losses[0] if len(losses) else np.nan,
        "final_loss": last_losses.mean() if len(last_losses) else np.nan,
        "best_loss": fit.lowest_loss,
        **{column: fit.metrics.get(name, np.nan) for name, column in reported.evaluation_columns.items()},
        **told,
        **{f"initial_{column}": starts[column] for column in reported.columns},
    }


def _made(rows: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The values of the steps made: those that saw a finite loss. Empty if the member's program reports no such thing."""
    return rows[name][np.isfinite(rows["loss"].astype(float))] if name in rows else np.empty(0)


def _first(fit: Fit, name: str) -> Any:
    values = _made(fit.history, name)
    return wide(values[:1])[0] if len(values) else np.nan


def _ending(fit: Fit, name: str, *, is_whole: bool) -> Any:
    """What a thing that steps report came to."""
    values = _made(fit.tail, name)
    if not len(values):
        return np.nan
    num_steps = len(values) if fit.every == 1 else fit.steps
    window = values[-last_twentieth(num_steps) :]
    return ending(_made(fit.history, name), window, name, is_whole=is_whole).item()


def curve_of(fit: Fit, reported: Reported) -> pd.DataFrame:
    """A row per number of steps made: the loss there, what the step reported and, where taken, the evaluation."""
    import pandas as pd

    recorded = np.arange(len(fit.history["loss"])) * fit.every
    last = recorded[-1] + 1 if fit.every == 1 else max(fit.steps, recorded[-1])
    steps = np.union1d(np.append(recorded, last), fit.evaluations["step"])
    told = {reported.step_columns.get(name, name): values for name, values in fit.history.items()}
    taken = {reported.evaluation_columns.get(name, name): values for name, values in fit.evaluations.items()}
    history = pd.DataFrame(told, index=recorded).reindex(steps)
    evaluations = pd.DataFrame(taken).set_index("step").reindex(steps)
    return history.join(evaluations).rename_axis("step").reset_index()
