"""What estimators were asked for: parameters flow in, and are refused under the names that their users gave."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradkit.boosting.binning import MOST_BINS, columns
from gradkit.boosting.descent import MOST_DEPTH
from gradkit.checks import is_known, require, whole_number

PENALTIES = ("l1_regularization", "l2_regularization", "gamma", "min_child_weight", "min_samples_leaf", "max_delta_step")
WITH_DEFAULTS = ("l2_regularization", "min_child_weight")  # that follow from the loss where they are None


def check(model: Any, num_features: int):
    """Refuse parameters of an estimator that break their rules.

    Raises:
        TypeError: If one is of another kind.
        ValueError: If one is out of bounds.
    """
    whole_number("max_iter", model.max_iter, at_least=1, remedy="It counts trees.")
    _up_to("max_depth", model.max_depth, 1, MOST_DEPTH, "It counts the levels of splits; every tree has all of them.")
    _up_to("max_bins", model.max_bins, 3, MOST_BINS, "Missing values have one of them.")
    for name in ("subsample", "max_features"):
        rule = "be a share above 0 and at most 1"
        _number(name, getattr(model, name), lambda share: 0 < share <= 1, rule, "1.0 takes all.")
    for name in PENALTIES:
        value = getattr(model, name)
        if value is not None or name not in WITH_DEFAULTS:
            _number(name, value, lambda number: number >= 0, "be a number of at least 0", "Leave it out for the default.")
    if not callable(model.learning_rate):
        rule = "be above 0 and finite"
        _number("learning_rate", model.learning_rate, lambda rate: 0 < rate < math.inf, rule, "0.1 is usual.")
    if model.early_stopping:
        whole_number("n_iter_no_change", model.n_iter_no_change, at_least=1, remedy="It counts trees.")
        rule = "be a share above 0 and below 1, or a number of examples"
        is_count = hasattr(model.validation_fraction, "__index__")
        is_right = lambda part: part >= 1 if is_count else 0 < part < 1  # noqa: E731
        _number("validation_fraction", model.validation_fraction, is_right, rule, "0.1 is usual.")
    if model.monotonic_cst is not None:
        signs, rule = model.monotonic_cst, f"hold 1, -1 or 0 for each of {num_features} features"
        is_list = isinstance(signs, (list, tuple, np.ndarray)) and len(signs) == num_features
        require(
            is_list and all(sign in (-1, 0, 1) for sign in signs), "monotonic_cst", rule, signs, "0 stands for no constraint."
        )
    if model.loss == "quantile":
        _number("quantile", model.quantile, lambda level: 0 < level < 1, "lie between 0 and 1", "0.5 is the median.")


def categorical(model: Any, X: Any) -> tuple[int, ...]:
    """The columns of examples as they were given whose values have no order."""
    asked = () if model.categorical_features is None else model.categorical_features
    if isinstance(asked, str) and asked == "from_dtype":
        asked = [str(dtype) == "category" for dtype in getattr(X, "dtypes", ())]
    return columns("categorical_features", asked, getattr(model, "feature_names_in_", None), model.n_features_in_)


def _up_to(name: str, value: Any, at_least: int, at_most: int, remedy: str):
    whole_number(name, value, at_least=at_least, remedy=remedy)
    require(value <= at_most, name, f"be at most {at_most}", value, remedy)


def _number(name: str, value: Any, is_right: Any, rule: str, remedy: str):
    require(is_known(value), name, rule, value, remedy, error=TypeError)
    require(is_right(value), name, rule, value, remedy)
