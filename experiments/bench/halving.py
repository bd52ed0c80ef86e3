"""How much sooner does successive halving find the best configuration, and is it as good as that of the full sweep?"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import gradkit as gk
from experiments import datasets, stories
from gradkit import checks
from gradkit.data.orders import shuffled_epochs
from gradkit.engine.halving import rung_steps
from gradkit.report.plots import BLUE, GRAY, RED

FULL, HALVING, STUDY = "full sweep", "halving", "Optuna + PyTorch"
COLORS = {FULL: GRAY, HALVING: BLUE, STUDY: RED}
TARGET = 8.0  # times less wall time than the full sweep
SHARE = 0.9  # of the repetitions in which the winner must be as good
HIDDEN = (128, 128)
CACHE_VARIABLE = "GRADKIT_CACHE_DIR"
BOUNDS = {"learning_rate": (1e-5, 1.0), "weight_decay": (1e-5, 1.0)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Search learning rate and weight decay of AdamW for a classifier: every configuration to the end, with halving, with Optuna.

    All three train the same multi-layer perceptrons (two hidden layers of 128) at the same points, from the same initial weights,
    on the same batches, and choose by the loss on the same validation examples. At a rung gradkit ranks by the training loss (the
    default of Halving), Optuna by the validation loss. A winner is as good as the full sweep's if its validation loss is at most
    one standard error higher: that of the full sweep's winner, over the validation examples. In the first repetition gradkit's
    contestants also run with empty caches, and plan and compile. Writes a table and a figure.

    Examples:
      python -m experiments.bench.halving
      python -m experiments.bench.halving --data mnist --data-dir DATA --repeats 10
    """

    data: str = "digits"
    """digits (ships with scikit-learn), mnist, fashion-mnist or FILE.npz."""
    data_dir: str | None = None
    """The folder that holds mnist/ and fashion-mnist/, as the gzipped IDX files they are published in."""
    configurations: int = 243
    """Points (learning rate, weight decay), a scrambled Sobol sequence on log scales."""
    seeds: int = 1
    """Initializations per configuration; they are ranked by their mean. Optuna knows no seeds: a trial trains them all."""
    steps: int = 810
    """Updates per network."""
    min_steps: int = 18
    """Updates before the first rung."""
    eta: int = 3
    """One configuration in eta passes a rung."""
    batch_size: int = 128
    """Examples per update."""
    validation_examples: int = 2000
    """Of the validation part, at most."""
    workers: int = 2
    """Trials that Optuna runs at a time, each on one core."""
    repeats: int = 3
    """Repetitions, each with other points, initial weights and batches."""
    key: int = 0
    """Seeds the first repetition; the others count on from it."""
    output: str = "results/bench_halving"
    """Where the table and the figure are written."""


class Problem(NamedTuple):
    """What the repetitions share: with ``make`` and a cache folder of its own, each sweep plans and compiles by itself."""

    caches: str
    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    model: gk.models.Model
    make: Callable[[gk.Hyper], gk.Descent]
    halving: gk.Halving


class Winner(NamedTuple):
    """What a contestant would go on with: validation loss with its standard error, and accuracy, means over seeds."""

    hyper: dict[str, float]
    loss: float
    standard_error: float
    accuracy: float


def pose(settings: Settings, caches: str) -> Problem:
    """Load the data, flat, and build the network for their shape; programs and plans are kept in a folder, empty at first."""
    parts = datasets.load(settings.data, data_dir=settings.data_dir)
    checks.whole_number("validation-examples", settings.validation_examples, at_least=2, remedy="Two make a standard error.")
    checks.whole_number("workers", settings.workers, at_least=1, remedy="Optuna runs this many trials at a time.")
    checks.whole_number("repeats", settings.repeats, at_least=1, remedy="Ask for the number of repetitions.")
    halving = gk.Halving(eta=settings.eta, min_steps=settings.min_steps, metric="loss")
    rung_steps(halving, settings.steps)
    train, validation = ((inputs.reshape(len(inputs), -1), targets) for inputs, targets in (parts.train, parts.validation))
    model = gk.models.mlp((train[0].shape[1], *HIDDEN, parts.num_classes))
    loss_fn = gk.objective(gk.losses.softmax, model.apply)
    optimizer = lambda h: gk.optimizers.adamw(h.learning_rate, weight_decay=h.weight_decay)  # noqa: E731
    make = lambda h: gk.descent(loss_fn, model.init, optimizer(h))  # noqa: E731
    validation = tuple(part[: settings.validation_examples] for part in validation)
    return Problem(caches, train, validation, model, make, halving)


def draw_points(settings: Settings, key: int) -> gk.Space:
    """The configurations of a repetition."""
    return gk.sample(settings.configurations, key=key, **{name: gk.log_uniform(*bounds) for name, bounds in BOUNDS.items()})


def run_sweep(problem: Problem, settings: Settings, key: int, halving: gk.Halving | None) -> tuple[gk.Sweep, float]:
    """Sweep the points of a repetition; also the wall time."""
    space = draw_points(settings, key) * gk.grid(seed=range(settings.seeds))
    with caches_in(problem.caches):
        started = time.perf_counter()
        sweep = gk.sweep(
            problem.make, problem.train, space, steps=settings.steps, batch_size=settings.batch_size, key=key,
            validation=problem.validation, halving=halving, progress=False,
        )  # fmt: skip
        return sweep, time.perf_counter() - started


@contextlib.contextmanager
def caches_in(folder: str):
    """Let gradkit keep programs and plans in a folder of the benchmark's, for a while."""
    before = dict(os.environ)
    os.environ[CACHE_VARIABLE] = folder
    try:
        yield
    finally:
        os.environ.pop(CACHE_VARIABLE)
        os.environ.update(before)


def examine(problem: Problem, sweep: gk.Sweep) -> Winner:
    """The best configuration of a sweep: mean and standard error over the validation examples."""
    best = sweep.best("validation_loss")
    inputs, targets = map(jnp.asarray, problem.validation)
    scores = [problem.model.apply(sweep.params(member), inputs) for member in best.members]
    losses = np.mean([jax.vmap(gk.losses.softmax)(each, targets) for each in scores], axis=0, dtype=np.float64)
    accuracy = np.mean([gk.losses.accuracy(each, targets) for each in scores])
    return Winner(best.hyper, losses.mean(), losses.std(ddof=1) / len(losses) ** 0.5, float(accuracy))


def run_gradkit(problem: Problem, settings: Settings, key: int, contestant: str) -> tuple[dict, Winner]:
    """A row of the table, and the winner."""
    sweep, seconds = run_sweep(problem, settings, key, problem.halving if contestant == HALVING else None)
    return {"contestant": contestant, "seconds": seconds, "steps": sum(fit.steps for fit in sweep)}, examine(problem, sweep)


def pose_task(problem: Problem, settings: Settings, key: int, studies):
    """The batches, initial weights and rungs that gradkit's contestants have, for PyTorch."""
    order = shuffled_epochs(len(problem.train[0]), batch_size=settings.batch_size, key=key)
    member_keys = [gk.keys.member_key(gk.keys.as_key(key), seed) for seed in range(settings.seeds)]
    starts = [jax.device_get(problem.model.init(member_key)) for member_key in member_keys]
    batches, rungs = order(None, 0, settings.steps), rung_steps(problem.halving, settings.steps)
    return studies.Task(problem.train, problem.validation, batches, starts, rungs, settings.eta, BOUNDS)


def run_study(problem: Problem, settings: Settings, key: int, studies, threshold: float) -> tuple[dict, Winner]:
    """The same for Optuna; as its trials end one by one, ``seconds_to_best`` is when the first one met the threshold."""
    task = pose_task(problem, settings, key, studies)
    trials, seconds = studies.run(task, list(draw_points(settings, key)), workers=settings.workers)
    complete = [trial for trial in trials if trial.is_complete]
    best = min(complete, key=lambda trial: trial.loss)
    first = min((trial.seconds for trial in complete if trial.loss <= threshold), default=np.inf)
    steps = settings.seeds * sum(trial.steps for trial in trials)
    row = {"contestant": STUDY, "seconds": seconds, "steps": steps, "seconds_to_best": first}
    return row, Winner(best.hyper, best.loss, np.nan, best.accuracy)


def repeat(problems: dict[str, Problem], settings: Settings, repetition: int, studies) -> Iterator[dict]:
    """The rows of a repetition; in the first one each sweep runs twice, before and after its programs are compiled."""
    key, reference = settings.key + repetition, None
    for contestant, problem in problems.items():
        for is_warm in (False, True) if repetition == 0 else (True,):
            row, winner = run_gradkit(problem, settings, key, contestant)
            reference = reference or winner
            yield compare(row, winner, reference) | {"repetition": repetition, "is_warm": is_warm}
    if studies:
        row, winner = run_study(problem, settings, key, studies, reference.loss + reference.standard_error)
        yield compare(row, winner, reference) | {"repetition": repetition, "is_warm": True}


def compare(row: dict, winner: Winner, reference: Winner) -> dict:
    """A row with the winner, how far it is behind that of the full sweep, and when it was known."""
    behind = (winner.loss - reference.loss) / reference.standard_error
    to_best = row["seconds"] if behind <= 1 else np.inf
    return {
        "seconds_to_best": to_best, **row, **winner.hyper, "validation_loss": winner.loss, "accuracy": winner.accuracy,
        "standard_error": reference.standard_error, "standard_errors_behind": behind, "is_as_good": bool(behind <= 1),
    }  # fmt: skip


def judge(table: pd.DataFrame) -> list[stories.Claim]:
    """The claims, from the repetitions without compilation."""
    warm = {name: rows.set_index("repetition") for name, rows in table[table.is_warm].groupby("contestant")}
    cold = table[~table.is_warm].set_index("contestant").seconds
    full, halved = warm[FULL], warm[HALVING]
    ratios, gains = full.seconds / halved.seconds, full.steps / halved.steps
    claims = [
        stories.Claim(f"Halving takes at least {TARGET:g} times less wall time than the full sweep.",
                      f"{spread(ratios)} times less without compilation, {cold[FULL] / cold[HALVING]:.1f} with it; "
                      f"steps {gains.median():.1f} times fewer", bool(ratios.median() >= TARGET)),
        stories.Claim(f"Its winner is within one standard error of the full sweep's in at least {SHARE:.0%} of the repetitions.",
                      f"in {halved.is_as_good.sum()} of {len(halved)}; behind by {spread(halved.standard_errors_behind, '.2f')} "
                      "standard errors", bool(halved.is_as_good.mean() >= SHARE)),
    ]  # fmt: skip
    if STUDY in warm:
        own, times = halved.seconds_to_best, warm[STUDY].seconds_to_best
        claims.append(stories.Claim(
            f"It is sooner at such a configuration than {STUDY}, compilation included.",
            f"after seconds: halving {spread(own, '.2f')}, the first time with compilation {cold[HALVING]:.2f}; {STUDY} "
            f"{spread(times, '.2f')}, whole study {warm[STUDY].seconds.median():.2f}",
            bool(max(cold[HALVING], own.median()) < times.median()),
        ))  # fmt: skip
    return claims


def spread(values: pd.Series, form: str = ".1f") -> str:
    """The median, with the range where there is one."""
    middle = f"{values.median():{form}}"
    text = middle if len(values) == 1 else f"{middle} ({values.min():{form}} to {values.max():{form}})"
    return text.replace("inf", "never")


def sum_up(table: pd.DataFrame) -> pd.DataFrame:
    """A row per contestant: medians over the repetitions."""
    names = ["seconds", "seconds_to_best", "steps", "validation_loss", "standard_error", "accuracy"]
    warm = table[table.is_warm].groupby("contestant", sort=False)[names].median()
    cold = table[~table.is_warm].set_index("contestant").seconds
    warm.insert(1, "with compilation", cold.reindex(warm.index))
    return warm


def draw(table: pd.DataFrame):
    """Two panels: wall time, and how far each winner is behind that of the full sweep."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [*dict.fromkeys(table.contestant)][::-1]
    for place, name in enumerate(names):
        rows, cold = table[table.contestant.eq(name) & table.is_warm], table[table.contestant.eq(name) & ~table.is_warm]
        left.barh(place, rows.seconds.median(), color=COLORS[name], height=0.6)
        left.plot(rows.seconds, np.full(len(rows), place), "k.", markersize=4)
        left.plot(cold.seconds, np.full(len(cold), place), "k|", markersize=14)
        end = max(rows.seconds.max(), cold.seconds.max() if len(cold) else 0)
        left.text(end, place, f"  {rows.seconds.median():.1f} s", ha="left", va="center")
        right.plot(rows.standard_errors_behind, np.full(len(rows), place), "o", color=COLORS[name], alpha=0.7)
    left.margins(x=0.12)
    left.set(xlabel="wall time in seconds (bar: median; line: with compilation)")
    right.axvline(1, color=GRAY, linewidth=0.8, linestyle="--")
    right.set(xlabel="loss of the winner: standard errors above the full sweep's", ylim=left.get_ylim())
    for ax in (left, right):
        ax.set_yticks(range(len(names)), names)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2, axis="x")
    return figure


def find_studies():
    """The contestant of Optuna and PyTorch, or ``None`` where they are not installed."""
    try:
        from experiments.bench import pruned_studies
    except ModuleNotFoundError as error:
        print(f"left out: {STUDY} ({error.name} is not installed: pip install 'gradkit[torch,peers]')")
        return None
    return pruned_studies


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        with tempfile.TemporaryDirectory() as caches:
            problems = {contestant: pose(settings, os.path.join(caches, contestant)) for contestant in (FULL, HALVING)}
            output, studies = stories.make_output(settings.output), find_studies()
            rows = [row for each in range(settings.repeats) for row in repeat(problems, settings, each, studies)]
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    table = pd.DataFrame(rows)
    held = stories.tell(__doc__, judge(table))
    print(sum_up(table).rename_axis(None).to_string(float_format="{:.4g}".format, na_rep="-"))
    files = [*stories.write_table(table, output / "table"), stories.write_figure(draw(table), output / "bench_halving.png")]
    print("written: " + ", ".join(map(str, files)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
