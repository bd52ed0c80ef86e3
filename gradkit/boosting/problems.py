"""What a descent of trees is about: settings and a batch flow in, a problem in the form in which a step computes flows out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradkit import checks
from gradkit.boosting import curvatures
from gradkit.boosting.binning import Binned
from gradkit.boosting.curvatures import Derivatives
from gradkit.boosting.growing import Shape
from gradkit.boosting.splits import Penalties
from gradkit.data.arrays import as_numbers
from gradkit.losses import calls

MOST_TOLD = 9  # folds in a message


class Parts(NamedTuple):
    """The arrays of :class:`Examples`."""

    binned: Binned
    targets: Any
    weights: Any = None
    offset: Any = None
    fold: Any = None


@jax.tree_util.register_pytree_with_keys_class
class Examples(Parts):
    """What a model of trees is fitted to; ``(binned, targets)`` and ``(binned, targets, weights)`` are short for it.

    Attributes:
        binned: What ``gk.boosting.bin`` returned.
        targets: Leads with n examples; what the loss takes.
        weights: Shape (n,), at least 0: what losses are multiplied by. An example of weight 3 counts as three of weight 1, one of
            weight 0 as none; a common factor of all weights is the same as dividing ``l1``, ``l2``, ``gamma`` and
            ``min_child_weight`` by it. Losses that are told are means by weight.
        offset: Shape of the scores: what is added to them before the loss sees them.
        fold: Whole numbers (n,): the examples of a descent's ``fold`` are held out.
        folds: The numbers that ``fold`` holds; ``None`` if they are not known, as for an array that is traced. Part of the
            structure: a program that is traced knows which folds are empty.

    Raises:
        TypeError: If weights or folds that are not traced are no numbers.
        ValueError: If a weight that is not traced is negative, or all are 0.
    """

    folds: tuple[int, ...] | None

    def __new__(cls, binned: Binned, targets: Any, weights: Any = None, offset: Any = None, fold: Any = None):
        """Look at the weights and the folds, as far as they are known."""
        targets = jax.tree.map(_as_array, targets)
        weights, offset, fold = (np.asarray(v) if isinstance(v, (list, tuple)) else _as_array(v) for v in (weights, offset, fold))
        if _is_array(weights):
            _check_weights(np.asarray(as_numbers("weights", weights)))
        folds = tuple(np.unique(as_numbers("fold", fold)).tolist()) if _is_array(fold) else None
        return cls._of((binned, targets, weights, offset, fold), folds)

    def check_fold(self, fold: Any):
        """Refuse a fold that leaves nothing to hold out or nothing to learn from, as far as that is known."""
        if self.folds is None or not (checks.is_known(fold) or isinstance(fold, bool)):
            return
        is_there, is_only = float(fold) in self.folds, len(self.folds) < 2
        known = checks.Described(", ".join(map(str, self.folds[:MOST_TOLD])) + ", ..." * (len(self.folds) > MOST_TOLD))
        remedy = "Folds are the numbers in `Examples.fold`."
        checks.require(is_there, "fold", f"be one of the data's folds: {known}", fold, remedy)
        given = checks.Described(f"{fold}, the fold of all examples")
        remedy = "Give those to learn from another number in `Examples.fold`."
        checks.require(not is_only, "fold", "leave examples to learn from", given, remedy)

    @classmethod
    def _of(cls, parts: Any, folds: tuple[int, ...] | None) -> Examples:
        self = tuple.__new__(cls, parts)
        self.folds = folds
        return self

    @classmethod
    def _make(cls, parts: Any) -> Examples:
        return cls(*parts)

    def tree_flatten_with_keys(self):
        """The parts are children."""
        return tuple((jax.tree_util.GetAttrKey(name), part) for name, part in zip(self._fields, self)), self.folds

    @classmethod
    def tree_unflatten(cls, folds, parts):
        """The inverse; nothing is looked at again."""
        return cls._of(parts, folds)


def _as_array(values: Any) -> Any:
    """An array for what numpy can read as one, such as a table's column; all else as it is."""
    is_readable = hasattr(values, "__array__") and not isinstance(values, (np.ndarray, jax.Array))
    return np.asarray(values) if is_readable else values


def _is_array(values: Any) -> bool:
    return isinstance(values, (np.ndarray, jax.Array)) and not isinstance(values, jax.core.Tracer)


def _check_weights(weights: np.ndarray):
    remedy = "A weight of 0 leaves an example out; leave `weights` out to count all alike."
    if (weights < 0).any():
        first = int((weights < 0).reshape(len(weights), -1).any(1).argmax())
        checks.refuse("weights", "be at least 0", checks.Described(f"{weights[first]} at example {first}"), remedy)
    checks.require((weights != 0).any(), "weights", "not all be 0", checks.Described("zeros only"), remedy)


class Settings(NamedTuple):
    """The arguments of :func:`gradkit.boosting.descent`, checked."""

    loss: Callable
    learning_rate: Any
    depth: int
    num_outputs: int | None
    curvature: Any
    penalties: Penalties
    subsample: Any
    colsample_bytree: Any
    colsample_bylevel: Any
    monotone: tuple[int, ...] | None
    is_oblivious: bool
    newton_steps: int
    is_accelerated: bool
    fold: Any
    patience: int | None
    is_deterministic: bool
    start: Any
    shard: str | None


class Problem(NamedTuple):
    """Examples in the form in which a step computes, weights of held-out ones 0.

    Attributes:
        binned: The bins.
        targets: What the loss takes.
        weights: Shape (n,); or (1,) if all count alike.
        held_out: Weights of the held-out examples, shape (n,), or ``None``.
        offset: Shape (n, k), or ``None``.
        derivatives: Of the loss.
        penalties: All numbers.
        num_outputs: ``k``.
    """

    binned: Binned
    targets: Any
    weights: jax.Array
    held_out: jax.Array | None
    offset: jax.Array | None
    derivatives: Derivatives
    penalties: Penalties
    num_outputs: int


def pose(settings: Settings, batch: Any) -> Problem:
    """The problem that a batch poses."""
    examples = as_examples(batch)
    n, k = len(examples.binned), settings.num_outputs or 1
    weights = jnp.ones(1, jnp.float32) if examples.weights is None else jnp.asarray(examples.weights, jnp.float32)
    held_out = None
    calls.tell(settings, None, examples)
    if settings.fold is not None:
        checks.require(examples.fold is not None, "data", "say the fold of each example", checks.Described("none"),
                       "Pass gk.boosting.Examples(binned, targets, fold=...).")  # fmt: skip
        examples.check_fold(settings.fold)
        is_out = examples.fold == settings.fold
        weights, held_out = jnp.where(is_out, 0, weights), jnp.where(is_out, weights, 0)
    offset = None if examples.offset is None else jnp.reshape(jnp.asarray(examples.offset, jnp.float32), (n, k))
    score = jax.ShapeDtypeStruct((k,), jnp.float32)
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), examples.targets)
    derivatives = curvatures.derivatives(settings.loss, settings.num_outputs, settings.curvature, score, target)
    penalties = settings.penalties.known(derivatives.has_units)
    return Problem(examples.binned, examples.targets, weights, held_out, offset, derivatives, penalties, k)


def as_examples(batch: Any) -> Examples:
    """Examples from what was given as data."""
    is_tuple = isinstance(batch, tuple) and 2 <= len(batch) <= len(Examples._fields) and isinstance(batch[0], Binned)
    first = f" that begins with a {type(batch[0]).__name__}" if isinstance(batch, tuple) and batch else ""
    checks.require(is_tuple, "data", "be a tuple (binned, targets) or (binned, targets, weights)",
                   checks.Described(f"a {type(batch).__name__}{first}"), "Bin the features first: gk.boosting.bin(features).",
                   error=TypeError)  # fmt: skip
    return batch if isinstance(batch, Examples) else Examples(*batch)


def shape_of(settings: Settings, binned: Binned) -> Shape:
    """The form of the trees grown on those bins."""
    num_features = binned.codes.shape[1]
    is_fitting = settings.monotone is None or len(settings.monotone) == num_features
    checks.require(is_fitting, "monotone", f"have a sign for each of {num_features} features", settings.monotone,
                   "0 stands for no constraint.")  # fmt: skip
    return Shape(
        settings.depth,
        binned.num_bins,
        binned.has_missing,
        binned.categorical,
        settings.monotone,
        settings.is_oblivious,
        settings.is_deterministic,
    )


def scores_of(settings: Settings, scores: jax.Array) -> jax.Array:
    """Scores as people see them: without the axis of outputs if there is but one, unnamed."""
    return scores if settings.num_outputs is not None else scores[..., 0]
