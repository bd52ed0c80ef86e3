"""Libraries of boosted trees at equal settings: training examples flow in, a function from features to predictions flows out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import gradkit as gk
from experiments.boosting_sets import CLASSES, Examples
from gradkit.engine.plan import num_cores

GRADKIT = "gradkit"


class Task(NamedTuple):
    """What is fitted: the kind of target, the number of classes, the columns without order, and what all libraries share.

    Log loss for classes, squared error for numbers; L2 of 1, at least 1 of curvature and 1 example in a leaf, complete trees.
    """

    kind: str
    num_classes: int
    categorical: tuple[int, ...]
    trees: int
    depth: int
    learning_rate: float

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return self.kind == CLASSES and self.num_classes == 2


def fit_gradkit(task: Task, train: Examples) -> Callable[[np.ndarray], np.ndarray]:
    """gradkit's estimators; with more than two classes a tree has a vector in each leaf."""
    kind = gk.sklearn.GradientBoostingClassifier if task.kind == CLASSES else gk.sklearn.GradientBoostingRegressor
    model = kind(
        learning_rate=task.learning_rate, max_iter=task.trees, max_depth=task.depth, categorical_features=task.categorical
    ).fit(*train)
    return model.predict_proba if task.kind == CLASSES else model.predict


def fit_xgboost(task: Task, train: Examples) -> Callable[[np.ndarray], np.ndarray]:
    """XGBoost's histograms; a tree per class."""
    import xgboost

    objective = "binary:logistic" if task.is_binary else "multi:softprob" if task.kind == CLASSES else "reg:squarederror"
    told = {
        "objective": objective, "tree_method": "hist", "max_depth": task.depth, "eta": task.learning_rate, "lambda": 1,
        "min_child_weight": 1, "max_bin": 256, "nthread": num_cores(),
    } | ({"num_class": task.num_classes} if objective == "multi:softprob" else {})  # fmt: skip
    kinds = ["c" if column in task.categorical else "q" for column in range(train.inputs.shape[1])]
    pack = lambda x, y=None: xgboost.DMatrix(x, y, feature_types=kinds, enable_categorical=True)  # noqa: E731
    model = xgboost.train(told, pack(*train), task.trees)
    return lambda inputs: _both(task, model.predict(pack(inputs)))


def fit_lightgbm(task: Task, train: Examples) -> Callable[[np.ndarray], np.ndarray]:
    """LightGBM, held to the same depth; a tree per class."""
    import lightgbm

    objective = "binary" if task.is_binary else "multiclass" if task.kind == CLASSES else "regression"
    told = {
        "objective": objective, "max_depth": task.depth, "num_leaves": 2**task.depth, "learning_rate": task.learning_rate,
        "lambda_l2": 1, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 1, "max_bin": 255, "min_data_in_bin": 1,
        "num_threads": num_cores(), "verbose": -1,
    } | ({"num_class": task.num_classes} if objective == "multiclass" else {})  # fmt: skip
    data = lightgbm.Dataset(*train, categorical_feature=list(task.categorical))
    model = lightgbm.train(told, data, task.trees)
    return lambda inputs: _both(task, model.predict(inputs))


def fit_sklearn(task: Task, train: Examples) -> Callable[[np.ndarray], np.ndarray]:
    """scikit-learn's histograms; a tree per class.

    Its least curvature in a leaf is fixed at 0.001. An example's is 1 for numbers and at most 1/4 for classes, so 1 and 4
    examples are the least that can have the 1 that the others ask for.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    is_classes = task.kind == CLASSES
    model = (HistGradientBoostingClassifier if is_classes else HistGradientBoostingRegressor)(
        max_depth=task.depth, max_leaf_nodes=2**task.depth, max_iter=task.trees, learning_rate=task.learning_rate,
        early_stopping=False, min_samples_leaf=4 if is_classes else 1, l2_regularization=1,
        categorical_features=task.categorical or None,
    ).fit(*train)  # fmt: skip
    return model.predict_proba if is_classes else model.predict


def _both(task: Task, predicted: np.ndarray) -> np.ndarray:
    """The probabilities of both classes from that of the second."""
    return np.stack([1 - predicted, predicted], 1) if task.is_binary else predicted


def libraries() -> dict[str, Callable]:
    """gradkit, and the peers that are installed."""
    peers = {"xgboost": fit_xgboost, "lightgbm": fit_lightgbm, "sklearn": fit_sklearn}
    return {GRADKIT: fit_gradkit} | {name: fit for name, fit in peers.items() if importlib.util.find_spec(name) is not None}
