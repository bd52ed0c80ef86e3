"""Figures from data frames, drawn with matplotlib's object interface: no global state, nothing shown on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GRAY = "#2563a8", "#c23b22", "#8a8a8a"
HEADROOM = 4.0  # values above the start by more than this factor are marked at the top instead of drawn to scale


def drawable(table: pd.DataFrame, axes: list[str]) -> list[str]:
    """The axes that a metric can be drawn against: numeric ones, a ``seed`` axis apart."""
    return [name for name in axes if name != "seed" and table[name].dtype.kind in "iuf" and table[name].notna().all()]


def draw_sweep(table: pd.DataFrame, losses: pd.DataFrame, axes: list[str], *, metric: str, axis: str | None) -> Figure:
    """Two panels: the metric against an axis, and the loss over the steps for every value of the axis.

    Args:
        table: As from ``Sweep.table``.
        losses: The training loss, a row per step and a column per member.
        axes: Names of the hyper-parameters.
        metric: A column of the table.
        axis: The axis to draw against; default: the numeric one with the most values, a ``seed`` axis apart.
    """
    from matplotlib.figure import Figure

    axis = axis or max(drawable(table, axes), key=lambda name: table[name].nunique(), default=None)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if axis is None:
        left.set_visible(False)
    else:
        draw_against_axis(left, table, axis, metric)
    draw_curves(right, table, losses, axis)
    return figure


def draw_against_axis(ax: Axes, table: pd.DataFrame, axis: str, metric: str) -> Axes:
    """The metric's mean over members with the same value, a band from lowest to highest, a mark where any diverged."""
    diverged = table.groupby(axis).status.agg(lambda status: status.eq("DIVERGED").any())
    sound = table[table.status != "DIVERGED"].groupby(axis)[metric]
    middle, low, high = sound.mean(), sound.min(), sound.max()
    initial = "initial_loss" if metric in ("final_loss", "best_loss") else f"initial_{metric}"
    start = table[initial].median() if initial in table else np.nan
    top = HEADROOM * start if metric.endswith("loss") and start > 0 else np.inf
    inside = middle <= top
    ax.fill_between(middle.index, low, high, color=BLUE, alpha=0.2, linewidth=0, label="lowest to highest")
    ax.plot(middle.index[inside], middle[inside], "o-", color=BLUE, markersize=3.5, label="mean")
    if np.isfinite(start):
        ax.axhline(start, color=GRAY, linewidth=0.8, linestyle=":", label="at the start")
    _mark_at_top(ax, middle.index[~inside], "^", BLUE, "above the chart")
    _mark_at_top(ax, diverged.index[diverged], "x", RED, "diverged")
    _scale(ax.set_xscale, table[axis])
    _limit(ax, low[inside], top if np.isfinite(top) else None)
    ax.set_xlabel(axis)
    ax.set_ylabel(metric)
    ax.legend(frameon=False, fontsize=8)
    return _clean(ax)


def draw_curves(ax: Axes, table: pd.DataFrame, losses: pd.DataFrame, axis: str | None) -> Axes:
    """The loss over the steps, averaged over the members with the same value of the axis, dashed where any of them diverged.

    Each curve is smoothed over a fiftieth of the run; its color says the value.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    values = table[axis] if axis else table.member
    norm = (LogNorm if _is_wide(values) else Normalize)(values.min(), values.max() + (values.min() == values.max()))
    colors = matplotlib.colormaps["viridis"]
    start = table.initial_loss.median()
    lows = []
    for value, members in values.groupby(values):
        own = losses[members.index].replace([np.inf, -np.inf], np.nan)
        curve = own.mean(axis=1).rolling(max(len(own) // 50, 1), min_periods=1).mean().where(own.notna().any(axis=1))
        has_diverged = table.status[members.index].eq("DIVERGED").any()
        ax.plot(curve.index, curve, "--" if has_diverged else "-", color=colors(norm(value)), linewidth=1)
        lows.append(curve.min())
    _limit(ax, np.array(lows), HEADROOM * start if start > 0 else None)
    ax.set_xlabel("step")
    ax.set_ylabel("training loss (dashed: diverged)")
    if axis:
        ax.figure.colorbar(ScalarMappable(norm, colors), ax=ax, label=axis)
    return _clean(ax)


def _mark_at_top(ax, positions, marker, color, label):
    if len(positions):
        tops = np.ones(len(positions))
        ax.plot(positions, tops, marker, color=color, transform=ax.get_xaxis_transform(), clip_on=False, label=label)


def _limit(ax, lows, top):
    """Room for what matters: from the lowest value to the top, on a log scale (five decades at most) where values allow it."""
    lows = np.asarray(lows, float)
    lows = lows[np.isfinite(lows)]
    if top is None or not len(lows):
        return
    bottom = max(lows.min() / 1.5, top * 1e-5)
    if lows.min() >= 0 and top / bottom > 20:
        ax.set_yscale("log")
        ax.set_ylim(bottom, top)
    else:
        ax.set_ylim(min(lows.min(), 0.0), top)


def _is_wide(values) -> bool:
    """Whether values are positive and span more than a factor of 20, so that a log scale shows them better."""
    return bool(values.min() > 0 and values.max() / values.min() > 20)


def _scale(set_scale, values):
    if _is_wide(values):
        set_scale("log")


def _clean(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2)
    return ax
