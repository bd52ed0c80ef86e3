"""What a descent of trees is about: settings and a batch flow in, a problem in the form in which a step computes flows out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradkit import checks
from gradkit.boosting import curvatures
from gradkit.boosting.binning import Binned
from gradkit.boosting.curvatures import Derivatives
from gradkit.boosting.growing import Shape
from gradkit.boosting.splits import Penalties


class Examples(NamedTuple):
    """What a model of trees is fitted to; ``(binned, targets)`` and ``(binned, targets, weights)`` are short for it.

    Attributes:
        binned: What ``gk.boosting.bin`` returned.
        targets: Leads with n examples; what the loss takes.
        weights: Shape (n,), at least 0: what losses are multiplied by. An example of weight 3 counts as three of weight 1, one of
            weight 0 as none; a common factor of all weights is the same as dividing ``l1``, ``l2``, ``gamma`` and
            ``min_child_weight`` by it. Losses that are told are means by weight.
        offset: Shape of the scores: what is added to them before the loss sees them.
        fold: Whole numbers (n,): the examples of a descent's ``fold`` are held out.
    """

    binned: Binned
    targets: Any
    weights: Any = None
    offset: Any = None
    fold: Any = None


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
    if settings.fold is not None:
        checks.require(examples.fold is not None, "data", "say the fold of each example", checks.Described("none"),
                       "Pass gk.boosting.Examples(binned, targets, fold=...).")  # fmt: skip
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
    return Examples(*batch)


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
