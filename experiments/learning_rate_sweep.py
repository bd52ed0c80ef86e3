"""Which learning rate trains this classifier best, and which rates work at all?"""

from __future__ import annotations

import dataclasses
import sys
from typing import Literal

import jax.numpy as jnp
import numpy as np

import gradkit as gk
from experiments import datasets, stories


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train a real classifier with many learning rates and seeds in one compiled program, and read off the answer.

    Prints the best rate with its accuracy and spread over seeds, the range that works, what diverged and what barely moved;
    writes a table (CSV and Parquet), the curves and a figure. The data are split 70/15/15 and standardized on the training part.

    Examples:
      python -m experiments.learning_rate_sweep
      python -m experiments.learning_rate_sweep --optimizer adam --schedule warmup_cosine --steps 1000
      python -m experiments.learning_rate_sweep --data mnist --data-dir DATA --model cnn --members 8 --seeds 1
      python -m experiments.learning_rate_sweep --data flowers.csv --target species --model linear
    """

    data: str = "digits"
    """digits (ships with scikit-learn), mnist, fashion-mnist, FILE.npz or FILE.csv."""
    data_dir: str | None = None
    """The folder that holds mnist/ and fashion-mnist/, as the gzipped IDX files they are published in."""
    target: str | None = None
    """The column of a CSV file to predict; words become classes."""
    model: Literal["linear", "mlp", "cnn"] = "mlp"
    """linear: softmax regression; mlp: one hidden layer of 128 ReLUs; cnn: two convolutions (images only)."""
    optimizer: Literal[
        "gradient_descent", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta",
        "adam", "adamw", "nadam", "adamax", "amsgrad", "lion",
    ] = "momentum"  # fmt: skip
    """How the gradient becomes a step."""
    schedule: Literal["constant", "linear", "cosine", "warmup_cosine"] = "constant"
    """How the rate changes over the run; the rate swept is its highest."""
    members: int = 32
    """Learning rates, spaced evenly on a log scale."""
    seeds: int = 4
    """Initializations per rate."""
    steps: int = 500
    """Updates per member."""
    batch_size: int = 64
    """Examples per update."""
    low: float = 1e-5
    """The lowest learning rate."""
    high: float = 10.0
    """The highest learning rate."""
    output: str = "results/learning_rate_sweep"
    """Where the table and the figure are written."""


def build_model(settings: Settings, parts: datasets.Parts) -> gk.models.Model:
    """The network for the shape of the data."""
    shape, num_classes = parts.train[0].shape[1:], parts.num_classes
    if settings.model == "cnn":
        return gk.models.cnn(shape, num_classes)
    num_inputs = int(np.prod(shape))
    return (
        gk.models.linear(num_inputs, num_classes) if settings.model == "linear" else gk.models.mlp((num_inputs, 128, num_classes))
    )


def build_schedule(name: str, peak, steps: int):
    """The schedule with that peak over that many steps."""
    return {
        "constant": lambda: gk.schedules.constant(peak),
        "linear": lambda: gk.schedules.linear(peak, 0.0, steps),
        "cosine": lambda: gk.schedules.cosine(peak, steps),
        "warmup_cosine": lambda: gk.schedules.warmup_cosine(peak, steps // 10, steps),
    }[name]()


def run(settings: Settings, parts: datasets.Parts) -> tuple[gk.Sweep, gk.models.Model]:
    """Sweep the learning rates."""
    model = build_model(settings, parts)
    loss_fn = gk.objective(gk.losses.softmax, model.apply)
    optimizer = getattr(gk.optimizers, settings.optimizer)

    def make(h):
        rate = build_schedule(settings.schedule, h.learning_rate, settings.steps)
        return gk.descent(loss_fn, model.init, optimizer(rate))

    space = gk.grid(learning_rate=gk.geomspace(settings.low, settings.high, settings.members), seed=range(settings.seeds))
    accuracy = lambda params, batch: {"accuracy": gk.losses.accuracy(model.apply(params, batch[0]), batch[1])}  # noqa: E731
    sweep = gk.sweep(
        make, parts.train, space, steps=settings.steps, batch_size=settings.batch_size, validation=parts.validation,
        evaluate=accuracy, evaluate_every=max(settings.steps // 5, 1),
    )  # fmt: skip
    return sweep, model


def test_accuracies(sweep: gk.Sweep, model: gk.models.Model, best: gk.Best, test) -> np.ndarray:
    """Accuracy of each of the best configuration's members on data that chose nothing."""
    inputs, targets = test
    scores = [model.apply(sweep.params(member), jnp.asarray(inputs)) for member in best.members]
    return np.array([float(gk.losses.accuracy(score, jnp.asarray(targets))) for score in scores])


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if a rate was found that works."""
    settings = stories.settings(Settings, arguments)
    try:
        parts = datasets.load(settings.data, data_dir=settings.data_dir, target=settings.target)
        output = stories.make_output(settings.output)
        sweep, model = run(settings, parts)
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    paths = stories.write_table(sweep.table(), output / "table") + stories.write_table(sweep.curves(), output / "curves")
    paths.append(stories.write_figure(sweep.plot(), output / "learning_rate_sweep.png"))
    print(sweep)
    if any(fit.status == gk.Status.FINISHED for fit in sweep):
        accuracies = test_accuracies(sweep, model, sweep.best(), parts.test)
        spread = f" ± {accuracies.std(ddof=1):.1%} over {len(accuracies)} seeds" if len(accuracies) > 1 else ""
        print(f"accuracy of the best rate on the test part: {accuracies.mean():.1%}{spread}")
    print("written: " + ", ".join(map(str, paths)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
