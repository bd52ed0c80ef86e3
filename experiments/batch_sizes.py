"""How many examples should a step see: one, some, or all?"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import gradkit as gk
from experiments import datasets, stories
from gradkit import checks
from gradkit.report.plots import BLUE, GRAY, RED

CLOSE = 2.0  # a validation loss within this factor of the lowest counts as reached
LOOKS_PER_EPOCH = 4
STANDARD_ERRORS = 4.0
REPEATS, DRAWS, HIDDEN = 3, 512, 64
CHUNK = 256  # gradients of single examples held at a time


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train one network by stochastic, mini-batch and batch gradient descent, each at its own best rate, and compare the costs.

    All see the same data and the same number of examples. Measured are the validation loss against examples and seconds, the
    noise of the gradient beside its closed form, and the memory of a step. Writes a table, the curves and a figure.

    Examples:
      python -m experiments.batch_sizes --batch-sizes 1 16 256 --epochs 40
      python -m experiments.batch_sizes --data fashion-mnist --data-dir DATA --batch-sizes 32 256 2048 --epochs 3
    """

    data: str = "digits"
    """digits (ships with scikit-learn), mnist, fashion-mnist, FILE.npz or FILE.csv."""
    data_dir: str | None = None
    """The folder that holds mnist/ and fashion-mnist/, as the gzipped IDX files they are published in."""
    target: str | None = None
    """The column of a CSV file to predict; words become classes."""
    batch_sizes: tuple[int, ...] = (1, 8, 64, 256)
    """Examples per step; batch gradient descent, which takes all of them, always comes in addition."""
    epochs: int = 20
    """The budget: how many times over the data are seen."""
    rates: int = 8
    """Learning rates tried for each batch size, spaced evenly on a log scale."""
    low: float = 0.003
    """The lowest learning rate."""
    high: float = 5.0
    """The highest learning rate."""
    seeds: int = 2
    """Initializations per rate."""
    output: str = "results/batch_sizes"
    """Where the table and the figure are written."""


class Problem(NamedTuple):
    """What all batch sizes share, and with it most compiled programs; gradients are compared at the parameters ``start``."""

    train: tuple[jax.Array, jax.Array]
    validation: tuple[jax.Array, jax.Array]
    loss_fn: gk.Objective
    make: Callable[[gk.Hyper], gk.Descent]
    accuracy: Callable[[dict, tuple], dict]
    start: dict


class Run(NamedTuple):
    """A batch size at its best rate: its row of the table, its curve over the examples seen, and the parameters it found."""

    row: dict[str, float]
    curve: pd.DataFrame
    params: dict


def pose(settings: Settings) -> Problem:
    """Load the data and build the network for their shape."""
    parts = datasets.load(settings.data, data_dir=settings.data_dir, target=settings.target)
    model = gk.models.mlp((int(np.prod(parts.train[0].shape[1:])), HIDDEN, parts.num_classes))
    loss_fn = gk.objective(gk.losses.softmax, model.apply)
    make = lambda h: gk.descent(loss_fn, model.init, gk.optimizers.gradient_descent(h.learning_rate))  # noqa: E731
    accuracy = lambda params, batch: {"accuracy": gk.losses.accuracy(model.apply(params, batch[0]), batch[1])}  # noqa: E731
    train, validation, _ = jax.tree.map(jnp.asarray, parts)
    return Problem(train, validation, loss_fn, make, accuracy, model.init(jax.random.key(0)))


def list_sizes(settings: Settings, num_examples: int) -> list[int]:
    """The batch sizes in order, the whole data last."""
    is_right = all(1 <= size < num_examples for size in settings.batch_sizes)
    checks.require(is_right, "batch-sizes", f"be from 1 to {num_examples - 1}", settings.batch_sizes,
                   "All examples at once come in addition.")  # fmt: skip
    return [*sorted(set(settings.batch_sizes)), num_examples]


def run(problem: Problem, settings: Settings, size: int) -> Run:
    """Find the best rate of a batch size, then measure what its steps cost."""
    num_examples, rates = len(problem.train[0]), gk.geomspace(settings.low, settings.high, settings.rates)
    steps, batch_size = settings.epochs * num_examples // size, None if size == num_examples else size
    sweep = gk.sweep(
        problem.make, problem.train, gk.grid(learning_rate=rates, seed=range(settings.seeds)), steps=steps,
        batch_size=batch_size, validation=problem.validation, evaluate=problem.accuracy,
        evaluate_every=max(num_examples // (LOOKS_PER_EPOCH * size), 1),
    )  # fmt: skip
    best = sweep.best()
    fits, rate = [sweep[member] for member in best.members], best.hyper["learning_rate"]
    descent = gk.descent(problem.loss_fn, problem.start, gk.optimizers.gradient_descent(rate))
    noise, noise_error = measure_noise(problem.loss_fn, problem.start, problem.train, size)
    row = {
        "batch_size": size, "steps": steps, "best_rate": rate, "is_at_edge": rate in (rates[0], rates[-1]),
        "validation_loss": best.mean, "accuracy": np.mean([fit.metrics["accuracy"] for fit in fits]),
        "seconds_per_step": time_step(descent, problem.train, steps, batch_size),
        "bytes_per_step": measure_memory(descent, problem.train, size), "noise": noise, "noise_error": noise_error,
    }  # fmt: skip
    curve = pd.DataFrame({"batch_size": size, "examples": fits[0].evaluations["step"] * size})
    curve["seconds"] = curve.examples / size * row["seconds_per_step"]
    curve["validation_loss"] = np.mean([fit.evaluations["validation_loss"] for fit in fits], axis=0)
    return Run(row, curve, sweep.params(best.member))


def time_step(descent: gk.Descent, data, steps: int, batch_size: int | None) -> float:
    """Seconds per step of a fit by itself: of the fastest, after a first one that compiles."""
    fits = [gk.fit(descent, data, steps=steps, batch_size=batch_size, progress=False) for _ in range(1 + REPEATS)]
    return min(fit.seconds for fit in fits[1:]) / steps


def measure_memory(descent: gk.Descent, data, size: int) -> float:
    """Bytes of intermediate values of a compiled step, NaN where the compiler does not tell."""
    batch = jax.tree.map(lambda leaf: leaf[:size], data)
    state = descent.init(jax.random.key(0), batch, None)
    return getattr(jax.jit(descent.step).lower(state, batch).compile().memory_analysis(), "temp_size_in_bytes", np.nan)


def measure_spread(loss_fn, params, data) -> tuple[float, float]:
    """tr(Sigma), the summed variance of the gradients of single examples (divisor n - 1), and |g|^2 of their mean."""
    num_examples = len(data[0])
    chunks = [jax.tree.map(lambda leaf: leaf[start : start + CHUNK], data) for start in range(0, num_examples, CHUNK)]  # noqa: B023
    full = float(optax.tree.norm(jax.grad(loss_fn)(params, data), squared=True))
    return (sum(float(sum_squares(loss_fn, params, chunk)) for chunk in chunks) - num_examples * full) / (num_examples - 1), full


@functools.partial(jax.jit, static_argnums=0)
def sum_squares(loss_fn, params, batch) -> jax.Array:
    """The sum of the squared norms of the gradients of single examples."""
    return optax.tree.norm(gk.gradients.per_example(loss_fn)(params, batch), squared=True)


def noise_law(trace: float, size, num_examples: int):
    """E|g_B - g|^2 of batches drawn without replacement: tr(Sigma) (1/B - 1/n)."""
    return trace * (1 / size - 1 / num_examples)


def measure_noise(loss_fn, params, data, size: int) -> tuple[float, float]:
    """Mean squared distance of the gradients of random batches from the gradient of all data, and its standard error."""
    grad = jax.grad(loss_fn)
    full, rng = jax.jit(grad)(params, data), np.random.default_rng(0)
    rows = jnp.asarray([rng.choice(len(data[0]), size, replace=False) for _ in range(DRAWS)])

    def distance(rows):
        drawn = grad(params, jax.tree.map(lambda leaf: leaf[rows], data))
        return optax.tree.norm(optax.tree.sub(drawn, full), squared=True)

    distances = np.asarray(jax.jit(lambda rows: jax.lax.map(distance, rows))(rows), np.float64)
    return distances.mean(), distances.std(ddof=1) / np.sqrt(DRAWS)


def tabulate(problem: Problem, runs: list[Run]):
    """A row per batch size: what was measured, the law of the noise, and what it took to come close to the lowest loss."""
    table = pd.DataFrame([each.row for each in runs])
    trace, _ = measure_spread(problem.loss_fn, problem.start, problem.train)
    table["noise_law"] = noise_law(trace, table.batch_size, len(problem.train[0]))
    reached = [each.curve[each.curve.validation_loss <= CLOSE * table.validation_loss.min()] for each in runs]
    for amount in ("examples", "seconds"):
        table[f"{amount}_to_target"] = [rows[amount].iloc[0] if len(rows) else np.inf for rows in reached]
    return table


def judge(table) -> list[stories.Claim]:
    """The claims: about examples, rates and seconds, then about the noise and the memory of one step."""
    drawn, per_example = table.iloc[:-1], 1e6 * table.seconds_per_step / table.batch_size
    deviations = (drawn.noise - drawn.noise_law).abs() / drawn.noise_error
    return [
        stories.Claim("Out of the same examples, batch gradient descent learns the least.",
                      f"validation loss at the end: {listed(table, table.validation_loss, '.3f')}",
                      table.validation_loss.argmax() == len(table) - 1),
        stories.Claim("The larger the batch, the higher its best rate.", listed(table, table.best_rate, ".2g"),
                      bool(table.best_rate.is_monotonic_increasing and table.best_rate.nunique() > 1)),
        stories.Claim("One at a time, examples are dearest: a step of many costs far less than as many steps.",
                      f"microseconds per example: {listed(table, per_example, '.2g')}", per_example.argmax() == 0),
        stories.Claim(f"A mini-batch is the first to come within {CLOSE:g} times the lowest loss, in seconds.",
                      f"seconds: {listed(table, table.seconds_to_target, '.2g')}",
                      table.seconds_to_target.argmin() in range(1, len(table) - 1)),
        stories.Claim("The noise of the gradient, E|g_B - g|^2, is tr(Sigma) (1/B - 1/n): ten times the batch, a tenth of it.",
                      f"measured by law: {listed(drawn, drawn.noise / drawn.noise_law, '.3f')}; "
                      f"at most {deviations.max():.1f} standard errors off", deviations.max() <= STANDARD_ERRORS),
        stories.Claim("The memory of a step grows with the batch.",
                      f"KiB: {listed(table, table.bytes_per_step / 1024, '.3g')}", table.bytes_per_step.is_monotonic_increasing),
    ]  # fmt: skip


def listed(table, values, form: str) -> str:
    """Values by batch size in words."""
    words = ["never" if np.isinf(value) else f"{value:{form}}" for value in values]
    return ", ".join(f"{word} (B = {size})" for word, size in zip(words, table.batch_size))


def advise(problem: Problem, table, runs: list[Run]) -> str:
    """Which batch size to take, and why."""
    place = int(table.seconds_to_target.argmin())
    best, others = table.iloc[place], table.drop(index=place)
    spreads = [measure_spread(problem.loss_fn, params, problem.train) for params in (problem.start, runs[place].params)]
    first, last = (trace / squared_norm for trace, squared_norm in spreads)
    target = CLOSE * table.validation_loss.min()
    lines = [
        f"take B = {best.batch_size:.0f} at rate {best.best_rate:.2g}: the first to reach a validation loss of {target:.3g}, "
        f"after {best.seconds_to_target:.2g} s and {best.examples_to_target:.0f} examples",
        *(f"    B = {row.batch_size:.0f}: {compare(row, best)}" for _, row in others.iterrows()),
        f"    noise scale tr(Sigma) / |g|^2, up to which no example is lost: B = {first:.0f} at the start, {last:.0f} at last",
    ]
    return "\n".join(lines)


def compare(row, best) -> str:
    """The costs of a batch size in units of the best one's."""
    if np.isinf(row.seconds_to_target):
        return f"not there within the budget; ends at {row.validation_loss:.3g}"
    ratios = [row[name] / best[name] for name in ("seconds_to_target", "examples_to_target", "bytes_per_step")]
    return "{:.2g} times the seconds, {:.2g} times the examples, {:.2g} times the memory".format(*ratios)


def draw(table, curves):
    """Four panels: the loss against examples and seconds, the noise of the gradient, the costs of a step."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.4), layout="constrained")
    panels = figure.subplots(2, 2)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(table)))
    for row, color in zip(table.itertuples(), colors):
        curve, label = curves[curves.batch_size == row.batch_size][1:], f"B = {row.batch_size}, rate {row.best_rate:.2g}"
        for ax, amount in zip(panels[0], ("examples", "seconds")):
            ax.plot(curve[amount], curve.validation_loss, ".-", color=color, markersize=3, linewidth=1.2, label=label)
    for ax, name in zip(panels[0], ("examples seen", "seconds of training, compilation apart")):
        ax.axhline(CLOSE * table.validation_loss.min(), color=GRAY, linewidth=0.8, linestyle=":", label=f"{CLOSE:g} x the lowest")
        ax.set(xlabel=name, ylabel="validation loss", xscale="log", yscale="log")
    panels[0, 0].legend(frameon=False, fontsize=8)
    draw_noise(panels[1, 0], table)
    draw_costs(panels[1, 1], table)
    for ax in figure.axes:
        ax.spines["top"].set_visible(False)
        ax.grid(alpha=0.2)
    return figure


def draw_noise(ax, table):
    """The measured noise beside its law."""
    drawn, num_examples = table.iloc[:-1], table.batch_size.iloc[-1]
    trace, sizes = table.noise_law[0] / noise_law(1.0, table.batch_size[0], num_examples), np.geomspace(1, num_examples - 1, 200)
    ax.plot(sizes, noise_law(trace, sizes, num_examples), "--", color="black", linewidth=1, label=r"tr$\,\Sigma\;(1/B - 1/n)$")
    ax.errorbar(drawn.batch_size, drawn.noise, yerr=2 * drawn.noise_error, fmt="o", color=BLUE, markersize=5, label="measured")
    ax.set(xlabel="batch size B", ylabel=r"noise of the gradient, $E|g_B - g|^2$", xscale="log", yscale="log")
    ax.legend(frameon=False)


def draw_costs(left, table):
    """Time per example and memory per step."""
    per_example, kibibytes, right = 1e6 * table.seconds_per_step / table.batch_size, table.bytes_per_step / 1024, left.twinx()
    for ax, values, color in ((left, per_example, BLUE), (right, kibibytes, RED)):
        ax.plot(table.batch_size, values, "o-", color=color)
        ax.set(xlabel="batch size B", xscale="log", yscale="log")
    left.set_ylabel("microseconds per example", color=BLUE)
    right.set_ylabel("intermediate values of a step, KiB", color=RED)


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        problem = pose(settings)
        sizes, output = list_sizes(settings, len(problem.train[0])), stories.make_output(settings.output)
        runs = [run(problem, settings, size) for size in sizes]
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    table, curves = tabulate(problem, runs), pd.concat([each.curve for each in runs], ignore_index=True)
    held = stories.tell(__doc__, judge(table))
    print(table.set_index("batch_size").T.to_string(float_format="{:.4g}".format))
    print(advise(problem, table, runs))
    files = stories.write_table(table, output / "table") + stories.write_table(curves, output / "curves")
    files.append(stories.write_figure(draw(table, curves), output / "batch_sizes.png"))
    print("written: " + ", ".join(map(str, files)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
