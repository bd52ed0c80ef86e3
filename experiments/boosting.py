"""Do gradkit's trees predict as well as XGBoost's, LightGBM's and scikit-learn's?"""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np
import pandas as pd

from experiments import boosting_sets, stories
from experiments.boosting_libraries import GRADKIT, Task, libraries
from experiments.boosting_sets import CLASSES, NUMBERS, Examples, Set
from gradkit import checks
from gradkit.report.plots import BLUE, GRAY, RED

METRICS = {CLASSES: "log loss", NUMBERS: "RMSE"}
COLORS = {GRADKIT: RED, "xgboost": BLUE, "lightgbm": "#2a8c55", "sklearn": GRAY}
STANDARD_ERRORS = 1.0
REMEDY = "See --help for what it counts."


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fit boosted trees with equal settings by every library on real and generated sets, and compare what they predict.

    Log loss for classes, root of the mean squared error for numbers, on a fresh test part per seed. All have complete trees, an
    L2 of 1, at least 1 of curvature in a leaf and 255 bins, and none stops early; category features are split by each library's
    own rules. On each set gradkit must be no worse than the worst peer: its mean may exceed that peer's by at most one standard
    error of the paired differences, which share split and seed. That is strict: splits of one set share examples, so the true
    error is larger, and libraries that are equally good exceed even that on one of six sets where there is but one peer.
    Peers that are not installed are left out, and so are the example sets of LightGBM (binary, multiclass, regression) where
    there is no folder of them. Writes a table with the mean and the spread over seeds and the seconds of a fit, and a figure.

    Examples:
      python -m experiments.boosting
      python -m experiments.boosting --sets digits friedman --seeds 10 --trees 300 --learning-rate 0.03
    """

    sets: tuple[str, ...] = boosting_sets.NAMES
    """Which sets, by name."""
    seeds: int = 5
    """Splits of each set, or draws of the generated ones."""
    trees: int = 100
    """Trees of a model, or per class where a library grows a tree for each."""
    depth: int = 6
    """Levels of splits."""
    learning_rate: float = 0.1
    """The share of each tree."""
    data_dir: str | None = None
    """The folder that holds lightgbm-examples/; GRADKIT_REAL_DATA names it otherwise."""
    output: str = "results/boosting"
    """Where the tables and the figure are written."""


def measure(predicted: np.ndarray, targets: np.ndarray, kind: str) -> float:
    """Log loss of probabilities (n, k), or the root of the mean squared error of numbers (n,)."""
    if kind == NUMBERS:
        return float(np.sqrt(np.mean((predicted - targets) ** 2)))
    chosen = predicted[np.arange(len(targets)), targets].astype(float)
    return float(-np.log(np.clip(chosen, 1e-7, 1)).mean())


def compare(own: Set, settings: Settings) -> pd.DataFrame:
    """A row per seed and library: the metric on the test part, and the seconds of the fit."""
    rows = []
    for seed in range(settings.seeds):
        train, test = own.draw(seed)
        task = task_of(own, train, settings)
        for name, fit in libraries().items():
            started = time.perf_counter()
            predict = fit(task, train)
            seconds = time.perf_counter() - started
            metric = measure(predict(test.inputs), test.targets, own.kind)
            rows.append({"set": own.name, "library": name, "seed": seed, "metric": metric, "seconds": seconds})
    return pd.DataFrame(rows)


def task_of(own: Set, train: Examples, settings: Settings) -> Task:
    """What all libraries are asked for."""
    num_classes = int(train.targets.max()) + 1 if own.kind == CLASSES else 0
    return Task(own.kind, num_classes, own.categorical, settings.trees, settings.depth, settings.learning_rate)


def tabulate(runs: pd.DataFrame, kinds: dict[str, str]) -> pd.DataFrame:
    """A row per set and library: mean and spread of the metric over seeds, seconds, and how gradkit differs from it.

    ``gradkit_is`` is the mean of the paired differences, above 0 where gradkit is worse, and ``error`` their standard error.
    """
    wide = runs.pivot(index=["set", "seed"], columns="library", values="metric")
    grouped = runs.groupby(["set", "library"], sort=False)
    table = grouped.agg(mean=("metric", "mean"), spread=("metric", "std"), seconds=("seconds", "median")).reset_index()
    table.insert(1, "metric", table["set"].map(kinds).map(METRICS))
    differences = [wide.loc[row.set, GRADKIT] - wide.loc[row.set, row.library] for row in table.itertuples()]
    table["gradkit_is"] = [each.mean() for each in differences]
    table["error"] = [each.std() / len(each) ** 0.5 for each in differences]
    return table


def judge(table: pd.DataFrame) -> list[stories.Claim]:
    """A claim per set, against the worst peer, and one over all sets against the mean of the peers."""
    claims, ratios = [], []
    for name, rows in table.groupby("set", sort=False):
        own, peers = rows[rows.library == GRADKIT].iloc[0], rows[rows.library != GRADKIT]
        worst = peers.loc[peers["mean"].idxmax()]
        ratios.append(own["mean"] / peers["mean"].mean())
        claims.append(stories.Claim(
            f"{name}: no worse than the worst peer by more than a standard error",
            f"{own.metric} {own['mean']:.4f}; " + ", ".join(f"{row.library} {row.mean:.4f}" for row in _tuples(peers))
            + f"; {worst.gradkit_is:+.4f} to {worst.library}, standard error {worst.error:.4f}",
            bool(worst.gradkit_is <= STANDARD_ERRORS * worst.error),
        ))  # fmt: skip
    ratio = float(np.exp(np.mean(np.log(ratios))))
    claims.append(stories.Claim(
        "over all sets: no worse than the peers' mean by more than 1 %",
        f"{ratio:.4f} of it, from {min(ratios):.3f} to {max(ratios):.3f} (geometric mean of {len(ratios)} sets)", ratio <= 1.01,
    ))  # fmt: skip
    return claims


def _tuples(rows: pd.DataFrame):
    return rows[["library", "mean"]].itertuples(index=False)


def draw(runs: pd.DataFrame, kinds: dict[str, str]):
    """A panel per set: a dot per seed and library; lines join what shares a seed, a bar marks the mean."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(runs["set"]))
    columns = min(5, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(max(3.1 * columns, 4), 3.2 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes, names):
        draw_set(ax, runs[runs["set"] == name].pivot(index="seed", columns="library", values="metric"))
        ax.set(title=name, ylabel=f"{METRICS[kinds[name]]} (lower is better)")
    return figure


def draw_set(ax, metrics: pd.DataFrame):
    """One panel, from a row per seed and a column per library."""
    order = [name for name in COLORS if name in metrics]
    ax.plot(range(len(order)), metrics[order].T, color="black", linewidth=0.6, alpha=0.25)
    for place, name in enumerate(order):
        ax.plot(np.full(len(metrics), place), metrics[name], "o", color=COLORS[name], markersize=5, alpha=0.8)
        ax.plot(place, metrics[name].mean(), "_", color=COLORS[name], markersize=22, markeredgewidth=2.5)
    ax.set_xticks(range(len(order)), order, fontsize=8)
    ax.set_xlim(-0.5, len(order) - 0.5)


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        for name, least in (("seeds", 2), ("trees", 1), ("depth", 1)):
            checks.whole_number(name, getattr(settings, name), at_least=least, remedy=REMEDY)
        sets = {name: boosting_sets.load(name, settings.data_dir) for name in settings.sets}
        found = [own for own in sets.values() if own is not None]
        checks.require(bool(found), "sets", "name a set that is there", settings.sets, "Set GRADKIT_REAL_DATA, or take others.")
        output = stories.make_output(settings.output)
        runs = pd.concat([compare(own, settings) for own in found], ignore_index=True)
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    kinds = {own.name: own.kind for own in found}
    table = tabulate(runs, kinds)
    print(table.to_string(index=False, float_format="{:.4g}".format))
    held = stories.tell(__doc__, judge(table))
    if len(found) < len(sets):
        missing = ", ".join(name for name, own in sets.items() if own is None)
        print(f"left out, as their files are not there: {missing} (name their folder by GRADKIT_REAL_DATA or --data-dir)")
    paths = stories.write_table(table, output / "table") + stories.write_table(runs, output / "runs")
    paths.append(stories.write_figure(draw(runs, kinds), output / "boosting.png"))
    print("written: " + ", ".join(map(str, paths)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
