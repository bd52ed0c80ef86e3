"""The paths of all methods on every surface, and what theory says of contraction and escape: runs flow in, a figure flows out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments import momentum_claims as claims
from experiments import momentum_landscapes as lands
from experiments import momentum_laws as laws
from gradkit.report.plots import BLUE, GRAY, RED

COLORS = {"plain": GRAY, "momentum": BLUE, "Nesterov": "#2a8c55", "RMSprop": RED, "Adam": "#d98c1f"}
SHOWN = {"ravine": 7, "turned ravine": 7, "saddle": 1, "monkey saddle": -1, "noisy bowl": 1}  # the start


def draw(runs: lands.Runs, table: pd.DataFrame, escapes: pd.DataFrame, condition: float):
    """Eight panels: the paths on six landscapes, the factors in the ravine, the steps to leave the saddles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 10), layout="constrained")
    panels = figure.subplots(2, 4).ravel()
    for ax, (name, own) in zip(panels, table.groupby("landscape", sort=False)):
        draw_paths(ax, runs, name, own.set_index("method"))
    draw_factors(panels[6], runs, condition)
    draw_escapes(panels[7], escapes)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_paths(ax, runs: lands.Runs, name: str, own: pd.DataFrame):
    """Contours and, for each method at its best rate, the path from one start until it has arrived."""
    landscape, courses = runs.landscapes[name], {}
    for method, row in own.iterrows():
        rates, paths = runs.paths(method, name)
        best = int(np.argmin(np.abs(rates - row.best_rate)))
        courses[method] = paths[best], lands.count_to_arrive(landscape, paths[best : best + 1])[0]
    start = SHOWN.get(name, choose_start(courses))
    drawn = {method: path[start, : int(min(count[start], path.shape[1])) + 1] for method, (path, count) in courses.items()}
    for method, path in drawn.items():
        row = own.loc[method]
        label = f"{method}, {row.best_rate:.2g}: {row.share:.0%}, {row.steps:.0f}"
        ax.plot(*path.T, ".-", color=COLORS[method], linewidth=1, markersize=3, label=label, zorder=2)
        ax.plot(*path[-1], "o", color=COLORS[method], markersize=6, markeredgecolor="white", zorder=3)
    places = np.concatenate([*drawn.values()])
    ax.plot(*places[0], "s", color="black", markersize=6, zorder=4)
    draw_contours(ax, landscape, places)
    ax.set(title=name, xlabel="x", ylabel="y")
    ax.legend(fontsize=8, title="best rate: share that arrives, mean steps", title_fontsize=8, frameon=False, ncols=2,
              loc="upper center", bbox_to_anchor=(0.5, -0.14))  # fmt: skip


def choose_start(courses: dict) -> int:
    """The farthest start from which momentum finds what plain descent does not, or the first of all."""
    (paths, plain), (_, momentum) = courses["plain"], courses["momentum"]
    return int(np.argmax(np.linalg.norm(paths[:, 0], axis=1) * (np.isfinite(momentum) & ~np.isfinite(plain))))


def draw_contours(ax, landscape: lands.Landscape, places: np.ndarray):
    """Contours around the places, closer together where it is low."""
    low, high = places.min(axis=0), places.max(axis=0)
    low, high = low - 0.1 * (high - low) - 0.05, high + 0.1 * (high - low) + 0.05
    x, y = np.meshgrid(*np.linspace(low, high, 100).T)
    heights = lands.measure_heights(landscape, np.stack([x, y], axis=-1))
    ax.contourf(x, y, np.sqrt(heights - heights.min()), levels=18, cmap="Greys", alpha=0.45, zorder=0)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def draw_factors(ax, runs: lands.Runs, condition: float):
    """Contraction per step in the ravine against the rate, for some of the momenta tried."""
    table = claims.compare_factors(runs, condition)
    table = table[(table.method == "momentum") & (table.radius < 1)]
    for momentum, own in list(table.groupby("momentum"))[::4]:
        (line,) = ax.plot(own.rate, own.radius, "-", linewidth=0.8)
        ax.plot(own.rate, own.factor, ".", color=line.get_color(), label=f"momentum {momentum:.2f}")
    rate, momentum, factor = laws.best_momentum(1 / condition, 1)
    ax.plot(rate, factor, "*", color=BLUE, markersize=12, label=f"best: {momentum:.2f}, rate {rate:.2f}")
    ax.plot(*laws.best_plain(1 / condition, 1), "*", color=GRAY, markersize=12, label="best without momentum")
    ax.set(title="ravine: factor per step (lines: theory)", xlabel="rate", ylabel="factor")
    ax.legend(fontsize=8)


def draw_escapes(ax, escapes: pd.DataFrame):
    """Steps to leave each saddle against the distance of the start, at the rate nearest 0.1."""
    rate = min(escapes.rate.unique(), key=lambda rate: abs(np.log(rate / claims.TOLD)))
    for (name, method), own in escapes[escapes.rate == rate].groupby(["saddle", "method"], sort=False):
        marker = {"saddle": "o-", "monkey saddle": "^--"}[name]
        ax.plot(own.distance, own.steps, marker, color=COLORS[method], markersize=4, linewidth=1,
                label=method if name == "saddle" else None)  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=f"distance of the start (rate {rate:.2g})", ylabel="steps",
           title="steps to leave: saddle (o), monkey saddle (^)")  # fmt: skip
    ax.legend(fontsize=8)
