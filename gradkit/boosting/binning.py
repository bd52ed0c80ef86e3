"""Features become bins: a matrix of numbers flows in, small integers and the cuts between them flow out.

Bin ``i`` of a feature holds ``cut[i - 1] < x <= cut[i]``; the last bin holds what is missing. Cuts stay on the host, for what a
step needs are the bins alone: a model is compiled for their shape, never for where they were cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit import checks
from gradkit.data.arrays import check_plain

MOST_BINS = 256  # a bin is a uint8
SAMPLED_ROWS = 200_000  # that quantiles are taken of
ALIGNMENT = 64  # bytes
OF_OTHER_KINDS = {  # and the way to numbers
    "times": 'Count them in a unit of your own, `(times - start) / np.timedelta64(1, "s")`; what is missing becomes NaN.',
    "complex numbers": "Make two features of each, such as their real and imaginary parts.",
}
ENCODED_ROWS = 8_192  # at a time: a block of the matrix stays in the cache


class Cuts(NamedTuple):
    """Where the features are cut.

    Attributes:
        edges: Per feature, the increasing upper edges of all bins but the last one; for a categorical feature its categories,
            increasing.
        names: The features' names, or ``None``.
    """

    edges: tuple[np.ndarray, ...]
    names: tuple[str, ...] | None = None


@jax.tree_util.register_pytree_with_keys_class
class Binned:
    """Binned features; a pytree with one leaf.

    Attributes:
        codes: The bin of each example and feature, uint8 of shape (n, d).
        num_bins: Bins of each feature, the one for missing values included, which is the last.
        categorical: The categorical features' columns: their bins have no order.
        has_missing: Whether a value is missing.
        cuts: Where the features are cut; ``None`` inside a compiled program.
    """

    def __init__(self, codes: Any, num_bins: int, categorical: tuple[int, ...], has_missing: bool, cuts: Cuts | None = None):
        self.codes, self.num_bins, self.categorical, self.has_missing, self.cuts = codes, num_bins, categorical, has_missing, cuts

    def like(self, features: Any) -> Binned:
        """Bin other examples by the same cuts; a category that was not there before counts as missing.

        Raises:
            ValueError: If the number of features differs, or where both have names, a name or their order.
        """
        checks.require(self.cuts is not None, "binned", "know its cuts", checks.Described("one from inside a program"),
                       "Call it on what gk.boosting.bin returned.")  # fmt: skip
        features, names = _as_matrix(features)
        _check_names(names, self.cuts.names)
        checks.require(features.shape[1] == len(self.cuts.edges), "features", f"have {len(self.cuts.edges)} columns",
                       features.shape[1], "Pass the features that were binned, in their order.")  # fmt: skip
        return _binned(features, self.cuts, self.num_bins, self.categorical)

    def __len__(self) -> int:
        return self.codes.shape[0]

    def __repr__(self) -> str:
        shape = "x".join(map(str, getattr(self.codes, "shape", ("?",))))
        return f"Binned({shape}, {self.num_bins} bins{f', categorical {self.categorical}' if self.categorical else ''})"

    def tree_flatten_with_keys(self):
        """The bins are the leaf; all else but the cuts is part of the structure."""
        return ((jax.tree_util.GetAttrKey("codes"), self.codes),), (self.num_bins, self.categorical, self.has_missing)

    @classmethod
    def tree_unflatten(cls, structure, leaves):
        """The inverse, without cuts."""
        return cls(leaves[0], *structure)


def bin(features: Any, *, bins: int = 256, categorical: Any = (), weights: Any = None) -> Binned:
    """Cut every feature into bins: between its values if they are few, else at quantiles.

    Cuts come from these examples alone, so bin the training part and use ``binned.like(...)`` for the rest. Missing values (NaN,
    or ``None`` in a table) have the last bin to themselves; infinite ones go to the first and the last bin of numbers.

    Args:
        features: Shape (n, d): numbers, or a table with named columns.
        bins: At most so many per feature, from 3 to 256, the one for missing values included. 64 serve accelerators well.
        categorical: Columns, by position or name or as a mask with a boolean for each, whose values have no order; each of at
            most ``bins - 1`` different values. At a node, values of fewer than 10 examples stay together.
        weights: Shape (n,): quantiles count each example so often. Examples of weight zero are not looked at.

    Raises:
        TypeError, ValueError: If something is no number, there are no examples, or a category has too many values.

    References:
        Ke et al., LightGBM, 2017. https://papers.nips.cc/paper/6907

    >>> binned = bin(np.array([[0.5], [1.5], [np.nan], [0.5]]), bins=4)
    >>> binned.codes.tolist(), binned.cuts.edges[0].tolist()
    ([[0], [1], [3], [0]], [1.0])
    >>> binned.like(np.array([[-9.0], [9.0]])).codes.tolist()
    [[0], [1]]
    """
    remedy = f"A bin is a uint8: {MOST_BINS} are the most, with the one for missing values."
    bins = checks.whole_number("bins", bins, at_least=3, remedy=remedy)
    checks.require(bins <= MOST_BINS, "bins", f"be at most {MOST_BINS}", bins, remedy)
    features, names = _as_matrix(features)
    categorical = columns("categorical", categorical, names, features.shape[1])
    rows, weights = _counted(features, weights)
    kinds = [_find_categories if column in categorical else _find_cuts for column in range(features.shape[1])]
    edges = tuple(_map(lambda column: kinds[column](features[rows, column], weights, bins, column), range(len(kinds))))
    return _binned(features, Cuts(edges, names), bins, categorical)


def _binned(features: np.ndarray, cuts: Cuts, num_bins: int, categorical: tuple[int, ...]) -> Binned:
    codes = _encode(features, cuts.edges, num_bins, categorical)
    has_missing = bool(codes.max(initial=0) == num_bins - 1)
    return Binned(jax.device_put(codes), num_bins, categorical, has_missing, cuts)


def _check_names(names: tuple[str, ...] | None, binned: tuple[str, ...] | None):
    """Refuse columns of other names, or in another order, than those that were cut."""
    if names is None or binned is None or names == binned:
        return
    listed = checks.shorten(checks.Described(", ".join(binned)))
    checks.refuse("features", f"have the columns that were binned, in their order: {listed}", checks.Described(", ".join(names)),
                  "Pass `features[list(binned.cuts.names)]`.")  # fmt: skip


def _as_matrix(features: Any) -> tuple[np.ndarray, tuple[str, ...] | None]:
    names = tuple(map(str, features.columns)) if hasattr(features, "columns") else None
    remedy = "Encode words as numbers, and missing values as NaN."
    check_plain("features", features)
    try:
        matrix = np.asarray(features)
        unlike = _unlike_numbers(matrix)
        is_done = unlike or matrix.dtype in (np.float32, np.float64)
        matrix = matrix if is_done else matrix.astype(np.float64)
    except (TypeError, ValueError):
        checks.refuse("features", "hold numbers", checks.Described(f"a {type(features).__name__}"), remedy, error=TypeError)
    if unlike:
        checks.refuse("features", "hold real numbers", checks.Described(unlike), OF_OTHER_KINDS[unlike], error=TypeError)
    checks.require(matrix.ndim == 2, "features", "have shape (n, d)", matrix.shape, "Reshape a single feature by X[:, None].")
    checks.require(min(matrix.shape) > 0, "features", "hold an example and a feature", matrix.shape, "Look at what left none.")
    return matrix, names


def _unlike_numbers(matrix: np.ndarray) -> str:
    """What numpy would make numbers of although it means something else, or ``""``; a table of unlike columns holds objects."""
    kinds = set(map(type, matrix.flat)) if matrix.dtype == object else {matrix.dtype.type}
    if any(issubclass(kind, (np.datetime64, np.timedelta64)) for kind in kinds):
        return "times"
    return "complex numbers" if any(issubclass(kind, (complex, np.complexfloating)) for kind in kinds) else ""


def columns(argument: str, asked: Any, names: Any, num_features: int) -> tuple[int, ...]:
    """The columns that are asked for by position or name, or by a mask with a boolean for each.

    >>> columns("categorical", [True, False, True], None, 3), columns("categorical", ["b"], ["a", "b", "c"], 3)
    ((0, 2), (1,))
    """
    rule = f"name columns from 0 to {num_features - 1}{', or by their names' if names is not None else ''}"
    remedy = "Give positions in the matrix, or a boolean for each column."
    is_list = isinstance(asked, Iterable) and not isinstance(asked, (str, bytes)) and np.ndim(asked) != 2
    checks.require(is_list, argument, rule, asked, remedy)
    asked = list(asked)
    if asked and all(isinstance(column, (bool, np.bool_)) for column in asked):
        checks.require(len(asked) == num_features, argument, f"have a boolean for each of {num_features} columns", asked, remedy)
        return tuple(column for column, is_asked in enumerate(asked) if is_asked)
    known = {name: column for column, name in enumerate(() if names is None else names)}
    found = [known.get(column, column) if isinstance(column, str) else column for column in asked]
    is_there = all(_is_position(column) and 0 <= column < num_features for column in found)
    checks.require(is_there, argument, rule, asked, remedy)
    return tuple(sorted({int(column) for column in found}))


def _is_position(column: Any) -> bool:
    return isinstance(column, (int, np.integer)) and not isinstance(column, bool)


def _counted(features: np.ndarray, weights: Any) -> tuple[Any, np.ndarray | None]:
    """The examples whose values are cut, and how much each counts."""
    if weights is None:
        return (slice(None) if len(features) <= SAMPLED_ROWS else _sample(len(features))), None
    weights = np.asarray(weights, float)
    checks.require(weights.shape == features.shape[:1], "weights", f"have shape ({len(features)},)", weights.shape,
                   "Give one number per example.")  # fmt: skip
    is_sound = np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0
    checks.require(is_sound, "weights", "be at least 0, finite, and not all 0", weights, "Leave them out to count all alike.")
    rows = np.flatnonzero(weights > 0)
    rows = rows if len(rows) <= SAMPLED_ROWS else rows[_sample(len(rows))]
    return rows, weights[rows]


def _sample(number: int) -> np.ndarray:
    """One position, drawn at random, of each of so many equal parts of all: increasing, of little memory."""
    first = np.arange(SAMPLED_ROWS + 1) * number // SAMPLED_ROWS
    return np.random.default_rng(0).integers(first[:-1], first[1:])


def _find_cuts(values: np.ndarray, weights: np.ndarray | None, bins: int, column: int) -> np.ndarray:
    """The upper edges of all bins of numbers but the last."""
    is_there = ~np.isnan(values)
    values, ranks = _ordered(values[is_there], None if weights is None else weights[is_there], bins - 1)
    is_last = values[:-1] != values[1:]  # of its value
    if is_last.sum() < bins - 1:
        low = values[:-1][is_last]
    else:
        second = values[np.searchsorted(values, values[-1]) - 1]
        low = np.unique(np.minimum(values[ranks], second))
    return _between(low, values[np.searchsorted(values, low, side="right")])


def _ordered(values: np.ndarray, weights: np.ndarray | None, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """The values in order, and which of them end each of so many parts of equal weight but the last."""
    if weights is None:
        values.sort()
        return values, -(np.arange(1, parts) * -len(values) // parts) - 1
    order = np.argsort(values, kind="stable")
    shares = np.cumsum(weights[order])
    return values[order], np.searchsorted(shares, np.arange(1, parts) / parts * shares[-1:].sum())


def _between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Midpoints, of the same dtype: at least ``low``, below ``high``, finite."""
    limit = np.finfo(low.dtype).max
    low, high = np.clip(low, -limit, limit), np.clip(high, -limit, limit)
    middle = low + (high / 2 - low / 2)
    return np.where((low <= middle) & (middle < high), middle, low)


def _find_categories(values: np.ndarray, weights: np.ndarray | None, bins: int, column: int) -> np.ndarray:
    categories = np.unique(values[~np.isnan(values)])
    checks.require(len(categories) <= bins - 1, f"features[:, {column}]", f"have at most {bins - 1} categories", len(categories),
                   "Join rare ones, or leave the column out of `categorical`.")  # fmt: skip
    return categories


def _encode(features: np.ndarray, edges: Sequence[np.ndarray], num_bins: int, categorical: tuple[int, ...]) -> np.ndarray:
    codes, edges = _aligned(features.shape), [own.astype(features.dtype) for own in edges]

    def encode(start):
        block = features[start : start + ENCODED_ROWS]
        for column, own in enumerate(edges):
            values = np.ascontiguousarray(block[:, column])
            code = np.searchsorted(own, values).astype(np.uint8)
            if column in categorical:
                is_known = own[np.minimum(code, len(own) - 1)] == values if len(own) else np.zeros(len(values), bool)
                code[~is_known] = num_bins - 1
            code[np.isnan(values)] = num_bins - 1
            codes[start : start + ENCODED_ROWS, column] = code

    _map(encode, range(0, len(features), ENCODED_ROWS))
    return codes


def _aligned(shape: tuple[int, int]) -> np.ndarray:
    """Bytes where a compiled program on the CPU takes them as they are, uncopied."""
    number = shape[0] * shape[1]
    memory = np.empty(number + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + number].reshape(shape)


def _map(function: Callable, items: Sequence) -> list:
    """In threads: numpy lets go of the interpreter while it sorts and searches."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))
