"""Figures from data frames, drawn with matplotlib's object interface: no global state, nothing shown on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GRAY = "#2563a8", "#c23b22", "#8a8a8a"
MOST_CURVES = 64  # where values are more, evenly chosen ones are drawn
HEADROOM = 4.0  # values above the start by more than this factor are marked at the top instead of drawn to scale


def drawable(axes: list[str], over: str | None) -> list[str]:
    """The axes that a metric can be drawn against: all but seeds and what is averaged over."""
    return [name for name in axes if name not in ("seed", over)]


def draw_sweep(
    table: pd.DataFrame,
    losses: pd.DataFrame,
    axes: list[str],
    configurations: list[tuple[int, ...]],
    *,
    metric: str,
    goal: str,
    axis: str | None,
    replicate: str = "seed",
) -> Figure:
    """Two panels: the metric against an axis, and the loss over the steps for every value of the axis.

    Args:
        table: As from ``Sweep.table``.
        losses: The training loss, a row per step and a column per member.
        axes: Names of the hyper-parameters that it may be drawn against.
        configurations: The members of each.
        metric: A column of the table.
        goal: Whether it is wanted small (``"min"``) or large (``"max"``).
        axis: The axis to draw against; default: a numeric one before others, the one with the most values.
        replicate: What the members of a configuration differ by.
    """
    from matplotlib.figure import Figure

    columns = {name: _column(table[name]) for name in [*axes, "member"]}
    varied = [name for name in axes if columns[name].nunique() > 1]
    axis = axis or max(varied or axes, key=lambda name: (_is_numeric(table[name]), columns[name].nunique()), default="member")
    reads = table[axis].notna()  # members that do not read the axis have no place on it
    configurations = [members for members in configurations if reads.iloc[list(members)].all()]
    column = columns[axis]
    frame = _summed_up(table, configurations, column, metric, goal)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if axis == "member":
        left.set_visible(False)
    else:
        is_sample = len(varied) > 1 and frame.value.nunique() == len(frame)
        draw_against_axis(left, table, frame, column, metric, is_sample=is_sample, replicate=replicate)
    draw_curves(right, table, frame, column, losses)
    return figure


def draw_against_axis(ax: Axes, table, frame, column, metric: str, *, is_sample: bool, replicate: str) -> Axes:
    """For each value the best configuration that has it (mean over seeds, band from lowest to highest), others as faint dots.

    Diverged configurations are marked at the top, those cut short are faint. A random sample, where no value stands twice, gets
    no line.
    """
    place = _places(column)
    sound = frame[~frame.diverged & frame["mean"].notna()]
    is_best = sound.is_best & ~sound.is_cut
    best = sound[is_best].assign(value=sound.value.map(place)).sort_values("value")
    others = sound[~is_best]
    initial = "initial_loss" if metric in ("final_loss", "best_loss") else f"initial_{metric}"
    start = table[initial].median() if initial in table else np.nan
    top = HEADROOM * start if metric.endswith("loss") and start > 0 else np.inf
    inside, is_spread = best["mean"] <= top, (best.high > best.low).any() and not is_sample
    if is_spread:
        ax.fill_between(
            best.value, best.low, best.high, color=BLUE, alpha=0.2, linewidth=0, label=f"lowest to highest {replicate}"
        )
    label = "configurations" if is_sample else "best" if len(others) else f"mean over {replicate}s" if is_spread else metric
    ax.plot(best.value[inside], best["mean"][inside], "o" if is_sample else "o-", color=BLUE, markersize=3.5, label=label)
    others = others[others["mean"] <= top]
    if len(others):
        ax.plot(others.value.map(place), others["mean"], ".", color=GRAY, alpha=0.5, markersize=4, label="other configurations")
    if np.isfinite(start):
        ax.axhline(start, color=GRAY, linewidth=0.8, linestyle=":", label="at the start")
    _mark_at_top(ax, best.value[~inside], "^", BLUE, "above the chart")
    _mark_at_top(ax, frame.value[frame.diverged].map(place).unique(), "x", RED, "diverged")
    if _is_numeric(column):
        _scale(ax.set_xscale, column)
    else:
        ax.set_xticks(list(place.values()), list(place))
        ax.margins(x=0.2)
    _limit(ax, best.low[inside], top if np.isfinite(top) else None)
    ax.set_xlabel(column.name)
    ax.set_ylabel(metric)
    ax.legend(frameon=False, fontsize=8)
    return _clean(ax)


def draw_curves(ax: Axes, table: pd.DataFrame, frame, column, losses: pd.DataFrame) -> Axes:
    """The loss over the steps: for each value the best configuration that has it, averaged over its members.

    Each curve is smoothed over a fiftieth of the run; its color says the value; it is dashed if a member diverged.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    place, is_scaled = _places(column), _is_numeric(column)
    places = column.map(place)
    norm = (LogNorm if is_scaled and _is_wide(column) else Normalize)(places.min(), places.max() + (places.nunique() == 1))
    colors = matplotlib.colormaps["viridis"]
    start = table.initial_loss.median()
    lows = []
    rows = frame[frame.is_best].sort_values("value")
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, MOST_CURVES).astype(int))] if len(rows) > MOST_CURVES else rows
    for row in rows.itertuples():
        own = losses[list(row.members)].replace([np.inf, -np.inf], np.nan)
        curve = own.mean(axis=1).rolling(max(len(own) // 50, 1), min_periods=1).mean().where(own.notna().any(axis=1))
        style = "--" if row.diverged else "-"
        color = colors(norm(place[row.value]) * (1 if is_scaled else 0.9))
        ax.plot(curve.index, curve, style, color=color, linewidth=1, label=str(row.value))
        lows.append(curve.min())
    _limit(ax, np.array(lows), HEADROOM * start if start > 0 else None)
    ax.set_xlabel("step")
    ax.set_ylabel("training loss (dashed: diverged)")
    if is_scaled:
        ax.figure.colorbar(ScalarMappable(norm, colors), ax=ax, label=column.name)
    else:
        ax.legend(frameon=False, fontsize=8, title=column.name)
    return _clean(ax)


def _summed_up(table, configurations, column, metric, goal):
    """A row per configuration: its members and value, mean, lowest and highest of the metric, whether one diverged or was cut.

    ``is_best``: whether it is the best of those with its value; a diverged one only if all of them are.
    """
    import pandas as pd

    of_member = {member: place for place, members in enumerate(configurations) for member in members}
    place = table.member.map(of_member)
    own = table.assign(
        value=column, diverged=table.status.eq("DIVERGED"), is_cut=table.status.isin(["PRUNED", "STOPPED", "RUNNING"])
    ).groupby(place)
    scores = own[metric]
    frame = pd.DataFrame(
        {
            "members": pd.Series(configurations, dtype=object),
            "value": own["value"].first(),
            "mean": scores.mean(),
            "low": scores.min(),
            "high": scores.max(),
            "diverged": own["diverged"].any(),
            "is_cut": own["is_cut"].any(),
        }
    )
    order = frame.assign(rank=frame["mean"] * (1 if goal == "min" else -1)).sort_values(["diverged", "is_cut", "rank"])
    return frame.assign(is_best=frame.index.isin(order.groupby("value").head(1).index))


def _column(values):
    """Numbers as they are, others in words: ``False`` and ``0.0`` are two values."""
    return values if _is_numeric(values) else values.map(str, na_action="ignore")


def _places(column) -> dict:
    """Where each value stands on the axis: numbers where they are, words side by side."""
    by_size = None if _is_numeric(column) else lambda word: (not word.isdigit(), int(word) if word.isdigit() else 0, word)
    values = sorted(column.dropna().unique(), key=by_size)
    return {value: value if _is_numeric(column) else place for place, value in enumerate(values)}


def _is_numeric(column) -> bool:
    return column.dtype.kind in "iuf"


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
