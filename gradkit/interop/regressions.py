"""What is regressed, and by which loss: names flow in and losses out; targets of double precision flow in and of single out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradkit import losses
from gradkit.checks import Described, require

MOST_LOST = 0.01  # of the targets' standard deviation, that rounding may add to them


def half_squared(score: Any, target: Any) -> Any:
    """Half the squared error, as scikit-learn and XGBoost count it: penalties then mean what they mean there."""
    return losses.squared(score, target) / 2


LOSSES = {  # loss and inverse link
    "squared_error": (half_squared, None),
    "absolute_error": (losses.absolute, None),
    "huber": (losses.huber, None),
    "quantile": (losses.quantile, None),
    "poisson": (losses.poisson, jnp.exp),
}
SHIFTED = ("squared_error", "absolute_error", "huber", "quantile")  # that depend on how far the score is from the target only


def named(name: str, level: float) -> tuple[Callable, Callable | None]:
    """The loss of that name and its inverse link; the level is that of a quantile."""
    rule = f"be one of {', '.join(LOSSES)} or a function (score, target) -> scalar"
    require(name in LOSSES, "loss", rule, name, "Any loss of gk.losses will do.")
    loss, link = LOSSES[name]
    return (functools.partial(loss, level=level) if name == "quantile" else loss), link


def targets_for(loss: Any, targets: np.ndarray, weights: Any) -> tuple[np.ndarray, float]:
    """The targets in float32, and the shift that was taken off them in double precision where the loss permits it."""
    is_shifted = isinstance(loss, str) and loss in SHIFTED
    return (centered if is_shifted else plain)(targets, weights)


def centered(targets: np.ndarray, weights: Any) -> tuple[np.ndarray, float]:
    """Targets less a shift, for a loss of the difference between score and target; 0 unless they lie far from zero.

    The shift is a multiple of a power of two that is at least the range of the targets that count: whole numbers stay whole, and
    numbers on both sides of zero, or beside it, stay as they are.

    >>> targets, shift = centered(np.array([1e9, 1e9 + 1, 1e9 + 3]), None)
    >>> targets.tolist(), shift
    ([0.0, 1.0, 3.0], 1000000000.0)
    """
    counted = _counted(targets, weights)
    low, high = counted.min(), counted.max()
    half = high / 2 - low / 2
    middle = low + half
    unit = 2.0 ** (np.ceil(np.log2(half)) + 1) if half > 0 else 0.0
    shift = float(np.round(middle / unit) * unit) if unit else float(middle)
    return _narrow(targets - shift), shift


def plain(targets: np.ndarray, weights: Any) -> tuple[np.ndarray, float]:
    """Targets as they are, if float32 can hold them apart; for a loss of another form."""
    counted, narrow = _counted(targets, weights), _narrow(targets)
    lost = np.sqrt(np.mean(np.square(_narrow(counted) - counted))) if np.isfinite(narrow).all() else 0.0
    is_constant = counted.min() == counted.max()
    require(is_constant or lost <= MOST_LOST * counted.std(), "y", "differ by more than float32 rounds it off by",
            Described(f"values from {counted.min():.12g} to {counted.max():.12g}, rounded by {lost:.2g}"),
            "Subtract their mean, or take one of the losses that a shift leaves alone, such as squared_error.")  # fmt: skip
    return narrow, 0.0


def _counted(targets: np.ndarray, weights: Any) -> np.ndarray:
    """The targets of weight above 0; all of them where the weights are none to go by, which are refused later."""
    weights = np.asarray(weights)
    if weights.shape != targets.shape:
        return targets
    counts = weights > 0
    return targets[counts] if counts.any() else targets


def _narrow(targets: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused by name
        return targets.astype(np.float32)
