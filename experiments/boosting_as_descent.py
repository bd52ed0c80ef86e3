"""Is boosting gradient descent?"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd

import gradkit as gk
from experiments import stories
from experiments.boosting_paths import Path, boost, half_squared, shares_left
from gradkit import checks
from gradkit.report.plots import BLUE, GRAY, RED

GREEN = "#2a8c55"
FULL, MOST = 10, 40  # levels of splits, and the examples that as many tell apart, unless noise is unkind
REMEDY = "See --help for what it counts."


@dataclasses.dataclass(frozen=True)
class Settings:
    """Boost trees on a noisy curve and hold every step against what the gradient of the loss promises.

    The scores F of the n examples are the parameters, L(F) = mean of (F - y)**2 / 2 is the loss; the residual r = y - F is its
    negative gradient times n. A tree T fitted to r is a step eta T in function space. The gradient alone promises that the loss
    falls by eta <r, T> / n. As T is the mean of r in each leaf, <r, T> = <T, T>, and the curvature takes eta / 2 of that back:
    the fall is 1 - eta / 2 of the promise, whatever the tree. If every example has a leaf of its own, then T = r: that is
    gradient descent itself, and (1 - eta)**t of the residual is left after t steps. Also boosted: Nesterov's variant, and a
    logistic loss (is y above its median?), whose curvature changes along the step. Writes a table with a row per step and a
    figure.

    Examples:
      python -m experiments.boosting_as_descent
      python -m experiments.boosting_as_descent --depth 1 --learning-rate 0.5
    """

    examples: int = 32
    """Places on the curve, from 8 to 40: a tree of ten levels then has a leaf for each."""
    depth: int = 2
    """Levels of splits of the small trees."""
    learning_rate: float = 0.1
    """eta, the share of each tree: above 0 and below 1."""
    steps: int = 60
    """Trees."""
    noise: float = 0.2
    """Deviation of the noise on the curve."""
    seed: int = 0
    """Seeds the noise."""
    output: str = "results/boosting_as_descent"
    """Where the table and the figure are written."""


def make_curve(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Places x (n,) and values y (n,): a wave with a jump, and noise."""
    x = np.linspace(0, 1, settings.examples)
    noise = settings.noise * np.random.default_rng(settings.seed).normal(size=len(x))
    return x, (np.sin(2 * np.pi * x) + (x > 0.6) + noise).astype(np.float32)


class Runs(NamedTuple):
    """All descents on one curve: small trees, with Nesterov's steps, under a logistic loss; and full trees, both ways."""

    small: Path
    nesterov: Path
    logistic: Path
    full: Path
    full_nesterov: Path


def run_all(x: np.ndarray, y: np.ndarray, settings: Settings) -> Runs:
    """Five descents."""
    rate, steps = settings.learning_rate, settings.steps
    grow = functools.partial(boost, x, y, loss=half_squared, rate=rate, steps=steps)
    classes = (y > np.median(y)).astype(np.float32)
    logistic = boost(x, classes, loss=gk.losses.logistic, rate=rate, steps=steps, depth=settings.depth)
    small, nesterov = (grow(depth=settings.depth, nesterov=is_ahead) for is_ahead in (False, True))
    return Runs(small, nesterov, logistic, *(grow(depth=FULL, nesterov=is_ahead) for is_ahead in (False, True)))


def tabulate(runs: Runs, rate: float) -> pd.DataFrame:
    """A row per step of small trees and of the logistic loss; and what is left of the residual with full trees."""
    left = [np.linalg.norm(path.downhill, axis=1) / np.linalg.norm(path.downhill[0]) for path in (runs.full, runs.full_nesterov)]
    table = pd.DataFrame({"step": np.arange(1, len(runs.small.losses))})
    for name, path in (("", runs.small), ("logistic_", runs.logistic)):
        table[f"{name}loss"] = path.losses[1:]
        table[f"{name}cosine"] = path.cosines
        table[f"{name}fall"] = path.falls
        table[f"{name}promised"] = path.promises
        table[f"{name}promised_bent"] = path.bent_promises
    table["nesterov_loss"] = runs.nesterov.losses[1:]
    table["full_left"], table["full_nesterov_left"] = (share[1:] for share in left)
    table["full_closed_form"] = (1 - rate) ** table.step
    table["full_nesterov_closed_form"] = shares_left(rate, len(table))[1:]
    return table


def judge(runs: Runs, y: np.ndarray, rate: float) -> list[stories.Claim]:
    """What the figures say; the bounds are those of float32."""
    small, steps, eps = runs.small, len(runs.small.falls), float(np.finfo(np.float32).eps)
    off_sum = max(path.rounding for path in runs)
    ratios, bound = small.falls / small.promises, eps**0.5
    logistic = runs.logistic
    off_plain, off_bent = (np.abs(each / logistic.falls - 1) for each in (logistic.promises, logistic.bent_promises))
    sum_bound, left_bound = (scale * steps * eps * np.abs(y).max() for scale in (8, 1))
    off_left = [
        float(np.abs((y - path.scores) - left[:, None] * (y - path.scores[0])).max())
        for path, left in ((runs.full, (1 - rate) ** np.arange(steps + 1)), (runs.full_nesterov, shares_left(rate, steps)))
    ]
    sooner = np.flatnonzero(runs.nesterov.losses <= small.losses[-1])
    cosines = np.concatenate([small.cosines, logistic.cosines])
    return [
        stories.Claim(
            "Every tree points downhill, and every step of eta goes down.",
            f"{len(cosines)} trees for two losses: cosine to the negative gradient {cosines.min():.2f} to {cosines.max():.2f}; "
            f"squared loss {small.losses[0]:.4f} to {small.losses[-1]:.4f}, logistic {logistic.losses[0]:.4f} to "
            f"{logistic.losses[-1]:.4f}",
            bool((cosines > 0).all() and (small.falls > 0).all() and (logistic.falls > 0).all())),
        stories.Claim(
            "A step lowers the squared loss by 1 - eta / 2 of what the gradient promises, whatever the tree.",
            f"{ratios.min():.7f} to {ratios.max():.7f} of it in {steps} steps, by the closed form {1 - rate / 2:.7f} "
            f"(off by {np.abs(ratios / (1 - rate / 2) - 1).max():.0e}, bound {bound:.0e})",
            bool(np.abs(ratios / (1 - rate / 2) - 1).max() <= bound)),
        stories.Claim(
            "Of the logistic loss gradient and curvature predict the fall, at every step better than the gradient alone.",
            f"off by {off_bent.max():.2%} of the fall at most, the gradient alone by {off_plain.min():.1%} or more",
            bool((off_bent < off_plain).all())),
        stories.Claim(
            "With a leaf for every example, what is left of the residual is (1 - eta)**t, and by Nesterov's steps his recursion.",
            f"every residual at every step: off by {off_left[0]:.0e} and {off_left[1]:.0e} at most (rounding: {left_bound:.0e})",
            bool(max(off_left) <= left_bound)),
        stories.Claim(
            "Nesterov's steps come as low with fewer trees.",
            f"plain: loss {small.losses[-1]:.4f} after {steps} trees; Nesterov's: there after "
            f"{sooner[0] if len(sooner) else f'more than {steps}'}, {runs.nesterov.losses[-1]:.4f} after {steps}",
            bool(len(sooner) and sooner[0] < steps)),
        stories.Claim(
            "The sum of the trees is where the descent stands.",
            f"largest difference in {len(runs)} descents: {off_sum:.0e} (rounding: {sum_bound:.0e})", bool(off_sum <= sum_bound)),
    ]  # fmt: skip


def draw(x: np.ndarray, y: np.ndarray, runs: Runs, table: pd.DataFrame, rate: float):
    """Above, the model, the residual and the tree fitted to it at four steps; below, what all steps did."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.7, 1))
    panels = above.subplots(2, 4, sharex=True, sharey="row")
    moments = np.unique(np.array([0, 0.05, 0.25, 1]) * (len(table) - 1) // 1).astype(int)
    for (model, residual), step in zip(panels.T, moments):
        draw_moment(model, residual, x, y, runs.small, step, rate)
    panels[0, 0].set_ylabel("model")
    panels[1, 0].set_ylabel("residual = n times negative gradient")
    for ax in (panels[0, 0], panels[1, 0]):
        ax.legend(fontsize=8, loc="upper left")
    left, middle, right = below.subplots(1, 3)
    draw_losses(left, runs)
    draw_promises(middle, table, rate)
    draw_shrinking(right, table)
    return figure


def draw_moment(model, residual, x, y, path: Path, step: int, rate: float):
    """The curve with the model before a step and after it, and the residual with the tree."""
    model.plot(x, y, ".", color=GRAY, markersize=5, label="targets")
    model.step(x, path.scores[step], where="mid", color=BLUE, label="model before")
    model.step(x, path.scores[step + 1], where="mid", color=RED, linewidth=1, linestyle="--", label="and after the step")
    model.set(title=f"step {step + 1}: loss {path.losses[step]:.4f} to {path.losses[step + 1]:.4f}")
    low, high = y.min(), y.max()
    model.set_ylim(low - 0.1 * (high - low), high + 0.55 * (high - low))
    residual.axhline(0, color="black", linewidth=0.5)
    residual.plot(x, y - path.scores[step], ".", color=GRAY, markersize=5, label="residual")
    residual.step(x, path.moves[step] / rate, where="mid", color=RED, label="tree fitted to it")
    residual.set(xlabel="x", title=f"cosine of the angle {path.cosines[step]:.2f}")
    widest = np.abs(y - path.scores[0]).max()
    residual.set_ylim(-1.1 * widest, 1.6 * widest)


def draw_losses(ax, runs: Runs):
    """The loss of each descent on the squared loss against the trees."""
    rows = (("small trees", runs.small, BLUE), ("small trees, Nesterov", runs.nesterov, RED), ("a leaf each", runs.full, GREEN))
    for label, path, color in rows:
        ax.semilogy(path.losses, color=color, label=label)
    ax.set(xlabel="trees", ylabel="loss", title="Down, step by step")
    ax.legend(fontsize=8)


def draw_promises(ax, table: pd.DataFrame, rate: float):
    """How much of each promise was kept."""
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":", label="all of the promise")
    ax.axhline(1 - rate / 2, color="black", linewidth=0.8, linestyle="--", label=r"$1 - \eta/2$")
    for name, label, color in (("", "squared", BLUE), ("logistic_", "logistic", RED)):
        ax.plot(table.step, table[f"{name}fall"] / table[f"{name}promised"], ".", color=color, label=f"{label}: gradient")
        bent = table[f"{name}fall"] / table[f"{name}promised_bent"]
        ax.plot(table.step, bent, "+", color=color, label=f"{label}: and curvature")
    ax.set_ylim(1 - 0.75 * rate, 1 + 0.6 * rate)
    ax.set(xlabel="step", ylabel="fall of the loss / fall promised", title="What the gradient promises of a step")
    ax.legend(fontsize=8, ncols=2, loc="upper center")


def draw_shrinking(ax, table: pd.DataFrame):
    """What is left of the residual with full trees, and the closed forms."""
    for name, label, color in (("full", "plain", GREEN), ("full_nesterov", "Nesterov", RED)):
        ax.semilogy(table.step, table[f"{name}_closed_form"].abs(), color=color, linewidth=1, label=f"{label}: closed form")
        ax.semilogy(table.step, table[f"{name}_left"], ".", color=color, markersize=4, label=f"{label}: measured")
    ax.set(xlabel="trees", ylabel="share of the residual left", title="A leaf for every example")
    ax.legend(fontsize=8)


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        for name, least in (("examples", 8), ("steps", 4)):
            checks.whole_number(name, getattr(settings, name), at_least=least, remedy=REMEDY)
        checks.require(settings.examples <= MOST, "examples", f"be at most {MOST}", settings.examples,
                       f"With {FULL} levels a tree may not have a leaf for each of more.")  # fmt: skip
        checks.require(settings.learning_rate < 1, "learning_rate", "be below 1", settings.learning_rate, "0.1 is usual.")
        output = stories.make_output(settings.output)
        x, y = make_curve(settings)
        runs = run_all(x, y, settings)
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    table = tabulate(runs, settings.learning_rate)
    held = stories.tell(__doc__, judge(runs, y, settings.learning_rate))
    paths = stories.write_table(table, output / "table")
    figure = draw(x, y, runs, table, settings.learning_rate)
    paths.append(stories.write_figure(figure, output / "boosting_as_descent.png"))
    print("written: " + ", ".join(map(str, paths)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
