"""The libraries that boost trees, at equal settings: data flow in, fitted models flow out.

Logistic loss, L2 of 1, at least 1 of curvature in a child, complete trees, 256 bins.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradkit as gk
from gradkit.engine.plan import num_cores

GRADKIT = "gradkit"


class Size(NamedTuple):
    """Of a model: how many trees, and how deep."""

    trees: int
    depth: int


class Data(NamedTuple):
    """Training and held-out examples: features (n, d), float32, and classes 0 and 1 (n,)."""

    inputs: np.ndarray
    targets: np.ndarray
    held_inputs: np.ndarray
    held_targets: np.ndarray


class Contender(NamedTuple):
    """A library: its name, and how it fits: ``(data, size, learning_rate) -> () -> probabilities`` of held-out examples."""

    name: str
    fit: Callable[[Data, Size, float], Callable[[], np.ndarray]]


def make_data(rows: int, features: int) -> Data:
    """Normal features; the log-odds of class 1 are a product, a wave, a step and a line of some of them."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(rows + rows // 4, features)).astype(np.float32)
    score = inputs[:, 0] * inputs[:, 1] + np.sin(3 * inputs[:, 2]) + (inputs[:, 3] > 0.5) + 0.5 * inputs[:, -1]
    targets = (score + random.logistic(size=len(score)) > 0).astype(np.float32)
    return Data(inputs[:rows], targets[:rows], inputs[rows:], targets[rows:])


def make_descent(depth: int, rate: Any) -> gk.Descent:
    """gradkit's descent at a rate."""
    return gk.boosting.descent(gk.losses.logistic, learning_rate=rate, depth=depth)


def fit_gradkit(data: Data, size: Size, rate: float) -> Callable[[], np.ndarray]:
    """One fit by gradkit."""
    binned = gk.boosting.bin(data.inputs)
    made = gk.fit(make_descent(size.depth, rate), (binned, data.targets), steps=size.trees, progress=False)
    jax.block_until_ready(made.params)
    return lambda: np.asarray(jax.nn.sigmoid(gk.boosting.predict(made.params, binned.like(data.held_inputs))))


def sweep_gradkit(data: Data, size: Size, rates: list[float]) -> None:
    """All rates in one sweep."""
    make = lambda h: make_descent(size.depth, h.learning_rate)  # noqa: E731
    batch = gk.boosting.bin(data.inputs), jnp.asarray(data.targets)
    gk.sweep(make, batch, gk.grid(learning_rate=rates), steps=size.trees, plan=gk.Plan(width=1), progress=False)


def fit_xgboost(data: Data, size: Size, rate: float) -> Callable[[], np.ndarray]:
    """One fit by XGBoost's histograms."""
    import xgboost

    told = {
        "tree_method": "hist",
        "max_depth": size.depth,
        "eta": rate,
        "objective": "binary:logistic",
        "nthread": num_cores(),
    }
    model = xgboost.train(told, xgboost.QuantileDMatrix(data.inputs, data.targets, max_bin=256), size.trees)
    return lambda: model.predict(xgboost.DMatrix(data.held_inputs))


def fit_lightgbm(data: Data, size: Size, rate: float) -> Callable[[], np.ndarray]:
    """One fit by LightGBM, held to the same depth."""
    import lightgbm

    told = {
        "objective": "binary", "max_depth": size.depth, "num_leaves": 2**size.depth, "learning_rate": rate,
        "lambda_l2": 1, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 1, "max_bin": 255, "num_threads": num_cores(),
        "verbose": -1,
    }  # fmt: skip
    model = lightgbm.train(told, lightgbm.Dataset(data.inputs, data.targets), size.trees)
    return lambda: model.predict(data.held_inputs)


def fit_sklearn(data: Data, size: Size, rate: float) -> Callable[[], np.ndarray]:
    """One fit by scikit-learn's histograms."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_depth=size.depth, max_leaf_nodes=2**size.depth, max_iter=size.trees, learning_rate=rate,
        early_stopping=False, min_samples_leaf=1, l2_regularization=1,
    ).fit(data.inputs, data.targets)  # fmt: skip
    return lambda: model.predict_proba(data.held_inputs)[:, 1]


def contenders() -> list[Contender]:
    """gradkit, and the peers that are installed."""
    peers = {"xgboost": fit_xgboost, "lightgbm": fit_lightgbm, "sklearn": fit_sklearn}
    found = [Contender(name, fit) for name, fit in peers.items() if importlib.util.find_spec(name) is not None]
    return [Contender(GRADKIT, fit_gradkit), *found]
