"""Does a recipe that moves here from PyTorch or TensorFlow give the same parameters, and how fast are the same steps?"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import gradkit as gk
from experiments import stories
from gradkit import checks

OPTIMIZERS = ("SGD", "momentum", "RMSprop", "Adam", "AdamW")
TOLERANCES = {"float64": 1e-12, "float32": 1e-5}
NEEDS = {"PyTorch": "torch", "TensorFlow": "tensorflow"}


def held(number: float) -> float:
    """A number that float32 holds: Keras hands all numbers to TensorFlow through it, whatever the dtype of the weights.

    So 1 - 0.999 is another number there, by 1e-8 of 1, than in float64.
    """
    return float(np.float32(number))


RMSPROP = {"rho": held(0.9), "epsilon": held(1e-7)}
ADAM = {"beta_1": held(0.9), "beta_2": held(0.999), "epsilon": held(1e-7)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Three training loops on handwritten digits, from the same weights, over the same batches."""

    steps: int = 500
    """Updates of each run."""
    batch_size: int = 64
    """Examples of an update."""
    hidden: int = 32
    """Width of the hidden layer."""
    repeats: int = 3
    """Timed rounds, in turns."""
    output: str = "results/frameworks"
    """Folder for table and figure."""


class Task(NamedTuple):
    """What all loops share: batches ``(t, n, 64)`` and ``(t, n)``, and the weights they start from, ``[in, out]``."""

    inputs: np.ndarray
    targets: np.ndarray
    weights: list[np.ndarray]


class Run(NamedTuple):
    """The parameters at the end, ``[in, out]``, and the seconds of all steps, compilation apart."""

    params: list[np.ndarray]
    seconds: float


def make_task(settings: Settings, dtype: str) -> Task:
    """Digits of 8 x 8 pixels in a fixed order; He's start."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    order = random.integers(0, len(digits), (settings.steps, settings.batch_size))
    shapes = ((64, settings.hidden), (settings.hidden,), (settings.hidden, 10), (10,))
    weights = [random.normal(size=shape) * np.sqrt(2 / shape[0]) if len(shape) == 2 else np.zeros(shape) for shape in shapes]
    return Task((pixels[order] / 16).astype(dtype), digits[order], [weight.astype(dtype) for weight in weights])


def loop_in_gradkit(task: Task, optimizer: str, framework: str) -> Callable[[], Run]:
    """The recipe in the names of the framework it comes from, in one compiled scan."""
    like_torch, like_keras = gk.as_torch, gk.as_keras
    recipe = {
        "PyTorch": {
            "SGD": like_torch.sgd(lr=0.1), "momentum": like_torch.sgd(lr=0.05, momentum=0.9),
            "RMSprop": like_torch.rmsprop(lr=1e-3), "Adam": like_torch.adam(lr=1e-3),
            "AdamW": like_torch.adamw(lr=1e-3, weight_decay=1e-2),
        },
        "TensorFlow": {
            "SGD": like_keras.sgd(held(0.1)), "momentum": like_keras.sgd(held(0.05), momentum=held(0.9)),
            "RMSprop": like_keras.rmsprop(held(1e-3), **RMSPROP), "Adam": like_keras.adam(held(1e-3), **ADAM),
            "AdamW": like_keras.adamw(held(1e-3), weight_decay=held(1e-2), **ADAM),
        },
    }[framework][optimizer]  # fmt: skip

    def loss_fn(params, batch):
        first, bias, last, end = params
        inputs, targets = batch
        scores = jax.nn.relu(inputs @ first + bias[None, :]) @ last + end[None, :]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, targets))

    descent = gk.descent(loss_fn, [jnp.asarray(weight) for weight in task.weights], recipe)
    batches = (jnp.asarray(task.inputs), jnp.asarray(task.targets, jnp.int32))

    @jax.jit
    def train(batches):
        state = descent.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batches), None)
        state, _, growths = gk.unroll(descent, state, batches)
        return descent.params(state, growths)

    compiled = train.lower(batches).compile()

    def run():
        began = time.perf_counter()
        params = [np.asarray(leaf) for leaf in compiled(batches)]
        return Run(params, time.perf_counter() - began)

    return run


def loop_in_torch(task: Task, optimizer: str) -> Callable[[], Run]:
    """As people write it: a module, zero_grad, backward, step."""
    import torch
    from torch import nn, optim

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, task.weights[0].shape[1])
            self.last = nn.Linear(task.weights[0].shape[1], 10)

        def forward(self, x):
            return self.last(torch.relu(self.first(x)))

    inputs, targets = torch.tensor(task.inputs), torch.tensor(task.targets)

    def train():
        model, criterion = Net().to(inputs.dtype), nn.CrossEntropyLoss()
        with torch.no_grad():
            for parameter, weight in zip(model.parameters(), task.weights):
                parameter.copy_(torch.tensor(weight).T)
        opt = {
            "SGD": lambda p: optim.SGD(p, lr=0.1), "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
            "RMSprop": lambda p: optim.RMSprop(p, lr=1e-3), "Adam": lambda p: optim.Adam(p, lr=1e-3),
            "AdamW": lambda p: optim.AdamW(p, lr=1e-3, weight_decay=1e-2),
        }[optimizer](model.parameters())  # fmt: skip
        began = time.perf_counter()
        for x, y in zip(inputs, targets):
            opt.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            opt.step()
        seconds = time.perf_counter() - began
        return Run([parameter.detach().numpy().T.copy() for parameter in model.parameters()], seconds)

    return train


def loop_in_tensorflow(task: Task, optimizer: str) -> Callable[[], Run]:
    """As people write it: Sequential, GradientTape, apply_gradients, the step a ``tf.function``."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    dtype = task.inputs.dtype.name
    inputs, targets = tf.constant(task.inputs), tf.constant(task.targets)
    layers = tf.keras.layers
    model = tf.keras.Sequential([
        layers.Input((64,), dtype=dtype), layers.Dense(task.weights[0].shape[1], activation="relu", dtype=dtype),
        layers.Dense(10, dtype=dtype),
    ])  # fmt: skip
    criterion = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)

    def train():
        model.set_weights(task.weights)
        opt = {
            "SGD": lambda o: o.SGD(held(0.1)), "momentum": lambda o: o.SGD(held(0.05), momentum=held(0.9)),
            "RMSprop": lambda o: o.RMSprop(held(1e-3), **RMSPROP), "Adam": lambda o: o.Adam(held(1e-3), **ADAM),
            "AdamW": lambda o: o.AdamW(held(1e-3), weight_decay=held(1e-2), **ADAM),
        }[optimizer](tf.keras.optimizers)  # fmt: skip

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = criterion(y, model(x, training=True))
            grads = tape.gradient(loss, model.trainable_variables)
            opt.apply_gradients(zip(grads, model.trainable_variables))

        opt.build(model.trainable_variables)
        step.get_concrete_function(inputs[0], targets[0])  # traced, not run
        began = time.perf_counter()
        for x, y in zip(inputs, targets):
            step(x, y)
        weights = [np.asarray(weight) for weight in model.get_weights()]
        return Run(weights, time.perf_counter() - began)

    return train


LOOPS = {"PyTorch": loop_in_torch, "TensorFlow": loop_in_tensorflow}


def compare(settings: Settings, frameworks: list[str]) -> pd.DataFrame:
    """A row per framework, dtype and optimizer: the largest difference of a parameter; in float32 steps per second, too."""
    rows = []
    for dtype in ("float64", "float32"):
        task = make_task(settings, dtype)
        for framework in frameworks:
            for optimizer in OPTIMIZERS:
                with _precision(dtype):
                    ours, theirs = loop_in_gradkit(task, optimizer, framework), LOOPS[framework](task, optimizer)
                    gap = max(np.abs(a - b).max() for a, b in zip(ours().params, theirs().params))
                    row = {"framework": framework, "dtype": dtype, "optimizer": optimizer, "difference": float(gap)}
                    if dtype == "float32":
                        times = np.array([[ours().seconds, theirs().seconds] for _ in range(settings.repeats)])
                        speeds = settings.steps / np.median(times, axis=0)
                        row |= {"our_steps_per_s": speeds[0], "theirs": speeds[1], "ratio": np.median(times[:, 1] / times[:, 0])}
                rows.append(row)
    return pd.DataFrame(rows)


class _precision:
    """jax in float64 or float32 for a while."""

    def __init__(self, dtype: str):
        self.wanted, self.before = dtype == "float64", jax.config.jax_enable_x64

    def __enter__(self):
        jax.config.update("jax_enable_x64", self.wanted)

    def __exit__(self, *_):
        jax.config.update("jax_enable_x64", self.before)


def judge(table: pd.DataFrame) -> list[stories.Claim]:
    """What the figures say."""
    claims = []
    for (framework, dtype), rows in table.groupby(["framework", "dtype"], sort=False):
        bar, worst = TOLERANCES[dtype], rows.difference.max()
        numbers = ", of numbers that float32 holds" if (framework, dtype) == ("TensorFlow", "float64") else ""
        statement = f"{framework}, {dtype}{numbers}: no parameter differs by more than {bar:g}"
        claims.append(stories.Claim(statement, f"{worst:.1e}", worst <= bar))
    return claims


def tell_speed(table: pd.DataFrame) -> str:
    """How many times as many steps in the same time; no claim, as machines differ."""
    ratios = table.dropna(subset="ratio").groupby("framework", sort=False).ratio
    said = [f"{low:.0f} to {high:.0f} times {name}'s" for name, low, high in zip(ratios.groups, ratios.min(), ratios.max())]
    return f"Steps per second, gradkit's one compiled scan, theirs a loop in Python, float32: {', '.join(said)}."


def draw(table: pd.DataFrame, path):
    """Differences and speeds, a bar per optimizer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    differences = table.assign(run=table.framework + ", " + table.dtype).pivot(
        index="optimizer", columns="run", values="difference"
    )
    differences.loc[list(OPTIMIZERS)].clip(lower=1e-17).plot.bar(ax=left, rot=0, logy=True, xlabel="")
    left.set_ylabel("largest difference of a parameter")
    table.dropna(subset="ratio").pivot(index="optimizer", columns="framework", values="ratio").loc[list(OPTIMIZERS)].plot.bar(
        ax=right, rot=0, xlabel=""
    )
    for ax in (left, right):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    right.set_ylabel("gradkit's steps per second over theirs")
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        for name in ("steps", "batch_size", "hidden", "repeats"):
            checks.whole_number(name, getattr(settings, name), at_least=1, remedy=f"See --help for what {name} counts.")
        output = stories.make_output(settings.output)
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    found = [framework for framework, module in NEEDS.items() if importlib.util.find_spec(module)]
    for framework in [framework for framework in NEEDS if framework not in found]:
        print(f"{framework} is not installed and left out: pip install -e '.[{NEEDS[framework]}]'")
    if not found:
        return 0
    table = compare(settings, found)
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))
    held = stories.tell(__doc__, judge(table))
    print(tell_speed(table))
    draw(table, output / "frameworks.png")
    print("written: " + ", ".join(map(str, [*stories.write_table(table, output / "table"), output / "frameworks.png"])))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
