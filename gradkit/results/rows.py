"""A row of a sweep's table: a member's result flows in, a number for each column flows out."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradkit.questions import Reported
from gradkit.results.fit import Fit


def names(reported: Reported) -> list[str]:
    """The columns of what members reported: losses, metrics, and the start of these."""
    starts = (f"initial_{column}" for column in reported.columns)
    return ["initial_loss", "final_loss", "best_loss", *reported.columns, *starts]


def metrics_of(fit: Fit, reported: Reported) -> dict[str, Any]:
    """What a member reported, at its end and at its start; NaN for what was never taken."""
    losses = fit.losses if len(fit.losses) else np.array([np.nan])
    is_made = np.isfinite(fit.history["loss"].astype(float))
    evaluated, of_steps = reported.evaluation_columns, reported.step_columns
    rows = {name: _wide(values[is_made]) for name, values in fit.history.items() if is_made.any()}
    told = {column: rows[name] for name, column in of_steps.items() if name in rows}
    taken = {column: fit.evaluations[name] for name, column in evaluated.items() if name in fit.evaluations}
    starts = {name: values[0] for name, values in (taken | told).items()}
    return {
        "initial_loss": losses[0],
        "final_loss": _at_the_end(losses),
        "best_loss": losses.min(),
        **{column: fit.metrics.get(name, np.nan) for name, column in evaluated.items()},
        **{column: _ending(name, told.get(column)) for name, column in of_steps.items()},
        **{f"initial_{column}": starts.get(column, np.nan) for column in reported.columns},
    }


def _wide(values: np.ndarray) -> np.ndarray:
    """The values in double precision: means of bfloat16, say, would be rounded to three digits."""
    return values.astype(complex if values.dtype.kind == "c" else float)


def _ending(name: str, values: np.ndarray | None) -> Any:
    """What a thing that steps report came to: of a count the last, else the mean over the last twentieth."""
    if values is None:
        return np.nan
    return values[-1] if _is_count(name, values) else _at_the_end(values)


def _at_the_end(values: np.ndarray) -> Any:
    """The mean over the last twentieth."""
    return values[-max(len(values) // 20, 1) :].mean()


def _is_count(name: str, values: np.ndarray) -> bool:
    """Whether values add up by themselves, so that a mean of them says nothing."""
    if values.dtype.kind == "c":
        return False
    is_whole = (values == np.floor(values)).all()
    return name == "skipped_in_a_row" or bool(is_whole and (values[1:] >= values[:-1]).all())


def readable(value: Any) -> Any:
    """A hyper-parameter as a cell of the table."""
    return value if isinstance(value, (int, float, str, bool, type(None))) else getattr(value, "__name__", repr(value))
