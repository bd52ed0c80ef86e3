"""Why a model of trees failed: a loss, its examples and their scores flow in, the example that is to blame flows out in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gradkit.boosting import curvatures
from gradkit.boosting.prediction import Ensemble
from gradkit.boosting.problems import as_examples

PARTS = ("value", "gradient", "curvature")
NOT_THE_LOSS = "The loss, its gradient and its curvature are finite at all examples: the step to the next scores is not."
NO_INTERCEPT = (
    "No constant was found at which the loss of all examples is least: where the search for the intercept ended, its slope does "
    "not change sign. Give the loss a minimum, by a penalty on the score for instance."
)


NO_SPLIT = (
    "no tree has a split: `min_child_weight`, `min_child_samples` or `gamma` forbids them all (weights of examples count as they "
    "are, and small ones sum up to less), or the features tell nothing"
)


def describe_growth(ensemble: Ensemble) -> str:
    """Say if nothing grew: that no tree of a model has a split, and why that may be; else ``""``."""
    return "" if np.asarray(ensemble.trees.is_split).any() else NO_SPLIT


def describe_failure(loss: Callable, data: Any, scores: Any, *, num_outputs: int | None = None, curvature: Any = None) -> str:
    """Name the first example of positive weight at which the loss, its gradient or its curvature is not finite.

    Where the loss is finite at none, the example is looked for where the search for the intercept began, at the offset or 0.

    Args:
        loss, num_outputs, curvature: As for :func:`gradkit.boosting.descent`.
        data: What the model was fitted to.
        scores: Where it stands, shape (n,) or (n, k): ``fit.state.scores`` of a fit whose status is ``DIVERGED``.

    >>> import jax.numpy as jnp
    >>> from gradkit.boosting import bin
    >>> root = lambda score, target: jnp.sqrt(score - target)
    >>> data = bin(jnp.arange(3.0)[:, None]), jnp.array([1.0, 5.0, 1.0])
    >>> describe_failure(root, data, jnp.full(3, 4.0))
    'The loss of example 1 is not finite: value nan, gradient nan, curvature nan at score 4.0, target 5.0.'
    """
    examples = as_examples(data)
    n, k = len(examples.binned), num_outputs or 1
    scores = np.asarray(scores, np.float32).reshape(n, k)
    of = jax.ShapeDtypeStruct
    target = jax.tree.map(lambda leaf: of(np.shape(leaf)[1:], np.asarray(leaf).dtype), examples.targets)
    derivatives = curvatures.derivatives(loss, num_outputs, curvature, of((k,), np.float32), target)
    counts = np.ones(n, bool) if examples.weights is None else np.asarray(examples.weights) > 0

    def look(scores):
        found = {name: np.asarray(getattr(derivatives, name)(scores, examples.targets)).reshape(n, -1) for name in PARTS}
        return found, counts & ~np.all([np.isfinite(values).all(1) for values in found.values()], 0)

    found, is_bad = look(scores)
    is_lost = not np.isfinite(scores).any()
    if is_bad[counts].all():
        # a step that spoils the scores of all hides whose loss it was: that shows where the search for the intercept began
        first = np.zeros((n, k), np.float32)
        if examples.offset is not None:
            first += np.asarray(examples.offset, np.float32).reshape(n, k)
        found_first, is_bad_first = look(first)
        if is_lost or is_bad_first.any():
            scores, found, is_bad = first, found_first, is_bad_first
    if not is_bad.any():
        return NO_INTERCEPT if is_lost else NOT_THE_LOSS
    row = int(is_bad.argmax())
    told = ", ".join(f"{name} {_short(values[row])}" for name, values in found.items())
    own = ", ".join(_short(np.ravel(leaf[row])) for leaf in map(np.asarray, jax.tree.leaves(examples.targets)))
    return f"The loss of example {row} is not finite: {told} at score {_short(scores[row])}, target {own}."


def _short(values: np.ndarray) -> str:
    return str(values[0]) if len(values) == 1 else str(values.tolist())
