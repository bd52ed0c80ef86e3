"""Preparation of examples: parts to train and to judge on, and inputs of one scale.

In flow arrays, out flow arrays; what is fitted is fitted on the training part alone.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gradkit.checks import require
from gradkit.data.arrays import check_plain, num_examples
from gradkit.data.orders import permutation
from gradkit.keys import key_words


def split(data: Any, fractions: Sequence[float], *, key: Any) -> tuple[Any, ...]:
    """Shuffle the examples and share them out; every example is in exactly one part.

    Args:
        data: Pytree of arrays with a common leading axis.
        fractions: The share of each part; they sum to 1.
        key: An int or a jax key.

    Returns:
        A pytree like ``data`` for each fraction.

    >>> import numpy as np
    >>> train, test = split((np.zeros((10, 2)), np.arange(10)), (0.7, 0.3), key=0)
    >>> train[0].shape, test[1].shape
    ((7, 2), (3,))
    """
    shares = np.asarray(fractions, np.float64)
    is_whole = shares.size > 0 and (shares > 0).all() and abs(shares.sum() - 1) < 1e-6
    require(bool(is_whole), "fractions", "be positive and sum to 1", fractions, "Write (0.7, 0.15, 0.15), say.")
    n = num_examples("data", data)
    bounds = [0, *np.rint(shares.cumsum() * n).astype(int).tolist()]
    remedy = "Take more examples or fewer parts."
    require(len(set(bounds)) == len(bounds), "fractions", f"leave an example of {n} to each part", fractions, remedy)
    parts = np.split(permutation(n, key_words(key)), bounds[1:-1])
    return tuple(jax.tree.map(operator.itemgetter(rows), data) for rows in parts)


def standardize(train: Any, *others: Any) -> tuple[np.ndarray, ...]:
    """Shift and scale each column to mean 0 and standard deviation 1 over the training part.

    ``(x - mean(train)) / std(train)`` over the leading axis, for all parts alike. A column that is constant in the
    training part says nothing there and becomes 0 everywhere.

    Args:
        train: Array ``[n, ...]`` to which the scale is fitted.
        *others: Arrays ``[..., ...]`` of the same columns.

    Returns:
        One array for each argument; whole numbers become float32.

    >>> standardize([[1.0, 5.0], [3.0, 5.0]], [[2.0, 7.0]])[1].tolist()
    [[0.0, 0.0]]
    """
    for part in (train, *others):
        check_plain("train" if part is train else "others", part)
    parts = [np.asarray(part) for part in (train, *others)]
    mean, spread = parts[0].mean(axis=0, dtype=np.float64), parts[0].std(axis=0, dtype=np.float64)
    # Rounding leaves a constant column a spread of its own, so constancy is looked up, not computed.
    is_constant = parts[0].max(axis=0) == parts[0].min(axis=0)
    mean, scale = np.where(is_constant, parts[0][0], mean), np.where(is_constant, np.inf, spread)
    return tuple(_scaled(part, mean, scale) for part in parts)


def _scaled(part: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    dtype = part.dtype if np.issubdtype(part.dtype, np.floating) else np.float32
    return ((part - mean) / scale).astype(dtype)
