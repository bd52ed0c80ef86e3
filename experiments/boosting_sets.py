"""The data sets that libraries of boosted trees are compared on: a name flows in, a fresh training and test part per seed out."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gradkit import checks

HELD_OUT = 0.25  # of the sets that come in one piece
CLASSES, NUMBERS = "classes", "numbers"


class Examples(NamedTuple):
    """Features (n, d), NaN where missing, and targets (n,): classes from 0, or numbers."""

    inputs: np.ndarray
    targets: np.ndarray


class Set(NamedTuple):
    """A data set: what its targets are, how a seed draws ``(train, test)``, and the columns whose values have no order."""

    name: str
    kind: str
    draw: Callable[[int], tuple[Examples, Examples]]
    categorical: tuple[int, ...] = ()


def split(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """A random quarter held out."""
    order = np.random.default_rng(seed).permutation(len(examples.targets))
    number = round(HELD_OUT * len(order))
    return tuple(Examples(*(part[rows] for part in examples)) for rows in (order[number:], order[:number]))


def generate(make: Callable, rows: int, seed: int) -> tuple[Examples, Examples]:
    """Both parts drawn anew, the test part as large as the training part."""
    examples = make(2 * rows, np.random.default_rng(seed))
    return Examples(*(part[:rows] for part in examples)), Examples(*(part[rows:] for part in examples))


def friedman(n: int, random: np.random.Generator) -> Examples:
    """Friedman's first problem: 10 uniform features of which 5 matter, noise of deviation 1.

    y = 10 sin(pi x0 x1) + 20 (x2 - 1/2)**2 + 10 x3 + 5 x4 + noise
    """
    x = random.random((n, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return Examples(x, y + random.normal(size=n))


def wave(n: int, random: np.random.Generator) -> Examples:
    """A sine of one feature, missing in a quarter of the examples, most often where the sine is low; another one blurs it."""
    x = random.uniform(-5, 5, n)
    y = np.sin(x) + 0.1 * random.normal(size=n)
    inputs = np.stack([x, x + random.normal(size=n)], 1)
    inputs[random.random(n) < 0.25 * (1 - np.sin(x)), 0] = np.nan
    return Examples(inputs, y)


def categories(n: int, random: np.random.Generator) -> Examples:
    """Classes by their log-odds: two features of 30 and 8 unordered categories, each with an effect of its own, and a number."""
    effects = np.random.default_rng(0)
    many, few = effects.normal(size=30), effects.normal(size=8)
    first, second, number = random.integers(30, size=n), random.integers(8, size=n), random.normal(size=n)
    odds = many[first] + few[second] * np.sign(number) + 0.5 * number
    return Examples(np.stack([first, second, number], 1).astype(float), (odds + random.logistic(size=n) > 0).astype(int))


def load_bundled(name: str) -> Examples:
    """One of the sets that come with scikit-learn."""
    import sklearn.datasets

    inputs, targets = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    return Examples(inputs, targets)


def read_files(folder: pathlib.Path, name: str) -> Examples:
    """One of LightGBM's examples, the test file after the training file: the target, then the features.

    Its test file has 500 examples. Seeds that all shared it would share its luck, which no spread over seeds could show; so
    both files are split anew for each seed like the sets that come in one piece.
    """
    stem = folder / (name if name == "regression" else f"{name}_classification") / name
    table = np.concatenate([np.loadtxt(f"{stem}.{part}") for part in ("train", "test")])
    return Examples(table[:, 1:], table[:, 0] if FILES[name] == NUMBERS else table[:, 0].astype(int))


BUNDLED = {"digits": CLASSES, "breast_cancer": CLASSES, "iris": CLASSES, "diabetes": NUMBERS}
GENERATED = {
    "friedman": Set("friedman", NUMBERS, functools.partial(generate, friedman, 1000)),
    "wave": Set("wave", NUMBERS, functools.partial(generate, wave, 1000)),
    "categories": Set("categories", CLASSES, functools.partial(generate, categories, 2000), (0, 1)),
}
FILES = {"binary": CLASSES, "multiclass": CLASSES, "regression": NUMBERS}
NAMES = (*FILES, *BUNDLED, *GENERATED)


def find_files(data_dir: str | None) -> pathlib.Path | None:
    """The folder with LightGBM's examples, in ``data_dir`` or where ``GRADKIT_REAL_DATA`` says; ``None`` if it is not there."""
    root = data_dir or os.environ.get("GRADKIT_REAL_DATA")
    folder = pathlib.Path(root or ".") / "lightgbm-examples"
    return folder if root and folder.is_dir() else None


def load(name: str, data_dir: str | None = None) -> Set | None:
    """A set by name; ``None`` if its files are not there.

    Raises:
        ValueError: If no set has that name.
    """
    checks.one_of("sets", name, NAMES)
    if name in GENERATED:
        return GENERATED[name]
    if name in BUNDLED:
        return Set(name, BUNDLED[name], functools.partial(split, load_bundled(name)))
    folder = find_files(data_dir)
    if folder is None:
        return None
    return Set(name, FILES[name], functools.partial(split, read_files(folder, name)))
