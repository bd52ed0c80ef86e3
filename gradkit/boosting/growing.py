"""A tree grows: bins and channels of all examples flow in, the splits of a complete tree and the leaf of each example flow out.

Nodes are counted level by level: the children of node ``i`` are ``2 i + 1`` and ``2 i + 2``. A node that may not split sends all
its examples to the left, and so do those below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradkit.boosting import splits
from gradkit.boosting.histograms import fixed_point, histogram
from gradkit.boosting.splits import Bounds, Penalties, Split

WORD = 32


class Tree(NamedTuple):
    """A complete tree of depth ``D``: ``j = 2**D - 1`` nodes that may split, and ``2**D`` leaves.

    Attributes:
        feature: int32 (j,).
        cut: int32 (j,): bins up to this one go left.
        is_missing_left: bool (j,).
        is_split: bool (j,); the others send all to the left.
        categories: uint32 (j, 8): a bit for each bin that goes left; ``None`` without categorical features.
        gain: float32 (j,): what each split gained.
        cover: float32 (2 j + 1,): the sum of curvatures of each node and leaf, mean over outputs.
        value: float32 (j + 1, k): what each leaf adds to the scores.
    """

    feature: jax.Array
    cut: jax.Array
    is_missing_left: jax.Array
    is_split: jax.Array
    categories: jax.Array | None
    gain: jax.Array
    cover: jax.Array
    value: Any


class Slopes(NamedTuple):
    """What a tree is grown along: gradients and curvatures (n, k) each, and weights, (n,) or (1,) if all are alike."""

    gradient: jax.Array
    curvature: jax.Array
    weights: jax.Array


class Growth(NamedTuple):
    """A tree whose leaves have no values yet, the leaf of each example (n,), and the bounds of the leaves' weights.

    Those are weights by which splits are judged; without curvature they are mean slopes, whose bounds are none of the values.
    """

    tree: Tree
    leaf: jax.Array
    bounds: Bounds | None


class Shape(NamedTuple):
    """What is fixed about the trees of a model; all static.

    Attributes:
        depth: Levels of splits.
        num_bins: Bins of each feature, the one of the missing included.
        has_missing: Whether an example may miss a feature.
        categorical: Columns whose bins have no order.
        monotone: Per feature 1, -1 or 0; ``None`` for no constraint.
        is_oblivious: Whether all nodes of a level share their split.
        is_exact: Whether histograms are sums of whole numbers, so that their order changes no bit.
    """

    depth: int
    num_bins: int
    has_missing: bool = True
    categorical: tuple[int, ...] = ()
    monotone: tuple[int, ...] | None = None
    is_oblivious: bool = False
    is_exact: bool = False


def goes_left(tree: Tree, node: jax.Array, codes: jax.Array, rows: jax.Array, num_bins: int) -> jax.Array:
    """Whether each of those rows of the bins (d, n) goes left at its node: bool, of the shape of ``rows``."""
    code = codes.at[tree.feature[node], rows].get(mode="promise_in_bounds").astype(jnp.int32)
    if tree.categories is not None:
        word = tree.categories[node, code // WORD]
        return (word >> (code % WORD).astype(word.dtype)) & 1 != 0
    return jnp.where(code == num_bins - 1, tree.is_missing_left[node], code <= tree.cut[node])


class Share(NamedTuple):
    """The part of the data that a device holds, and how it learns of the others' parts; by default it holds all.

    Attributes:
        rows: Axes of devices over which the examples are spread.
        num_examples: How many all devices hold; by default as many as this one.
        limits: ``Shape -> (categorical, monotone)``, of its own features.
        whole: From the sums of its first feature to those of the first of all.
        best: ``(split, strength) -> split``: from the best splits of its features to those of all.
        goes_left: See :func:`goes_left`; a tree may split by others' features.
    """

    rows: tuple[str, ...] = ()
    num_examples: int | None = None
    limits: Callable = lambda shape: (shape.categorical, shape.monotone)
    whole: Callable = lambda sums: sums
    best: Callable = lambda split, strength: split
    goes_left: Callable = goes_left


ALL = Share()


def grow(
    codes: jax.Array, slopes: Slopes, shape: Shape, penalties: Penalties, *, allowed: jax.Array | None = None,
    share: Share = ALL,
) -> Growth:  # fmt: skip
    """Grow a tree level by level.

    Args:
        codes: The bins, uint8 (n, d).
        slopes: Of the examples.
        shape: The form of the tree.
        penalties: What holds it back.
        allowed: Features that each level may use, bool (depth, d).
        share: What of the data is given here, where devices share them.
    """
    categorical, monotone = share.limits(shape)
    columns, rows = codes.T, jnp.arange(len(codes), dtype=jnp.int32)
    channels, unit = _channels(slopes, shape, share)
    node, may_split = jnp.zeros_like(rows), jnp.ones(1, bool)
    bounds = None if shape.monotone is None else Bounds(*(jnp.full(1, limit, jnp.float32) for limit in (-jnp.inf, jnp.inf)))
    levels, covers = [], []
    for level in range(shape.depth):
        sums = jax.lax.psum(histogram(columns, node, channels, num_nodes=2**level, num_bins=shape.num_bins), share.rows)
        sums = sums.astype(slopes.gradient.dtype) * unit[None, None, :, None] if shape.is_exact else sums
        whole = splits.unstack(share.whole(sums[:, 0].sum(-1)))
        own, strength = splits.best(
            sums, whole, penalties, has_missing=shape.has_missing, categorical=categorical, is_shared=shape.is_oblivious,
            monotone=monotone, bounds=bounds, allowed=None if allowed is None else allowed[level][None],
        )  # fmt: skip
        split = share.best(own, strength)
        is_split = jnp.isfinite(split.gain) & may_split
        levels.append(_nodes(split, is_split, shape))
        covers.append(whole.curvature.mean(-1))
        node = 2 * node + ~share.goes_left(levels[-1], node, columns, rows, shape.num_bins)
        last = (is_split, split, whole)
        bounds = None if bounds is None else _narrowed(bounds, split, is_split, shape.monotone, penalties)
        may_split = jnp.repeat(is_split, 2)
    covers.append(_cover_of_children(*last))
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *levels)
    return Growth(joined._replace(cover=jnp.concatenate(covers)), node, bounds)


def _channels(slopes: Slopes, shape: Shape, share: Share) -> tuple[jax.Array, jax.Array]:
    """What histograms add up, and the unit of each channel."""
    weights = jnp.broadcast_to(slopes.weights[:, None], (len(slopes.gradient), 1))
    channels = jnp.concatenate([weights * slopes.gradient, weights * slopes.curvature, (weights > 0).astype(weights.dtype)], 1)
    if not shape.is_exact:
        return channels, jnp.ones(channels.shape[1])
    return fixed_point(channels, share.num_examples or len(channels), over=share.rows)


def _nodes(split: Split, is_split: jax.Array, shape: Shape) -> Tree:
    everything = shape.num_bins
    masks = None
    if split.ranks is not None:
        ranks = jnp.arange(everything - 1)
        is_categorical = jnp.isin(split.feature, jnp.asarray(shape.categorical))
        is_left = jnp.where(is_categorical[:, None], split.ranks, ranks[None]) <= split.cut[:, None]
        is_left = jnp.concatenate([is_left, split.is_missing_left[:, None]], -1)
        masks = _as_words(is_left | ~is_split[:, None])
    return Tree(
        feature=jnp.where(is_split, split.feature, 0), cut=jnp.where(is_split, split.cut, everything),
        is_missing_left=split.is_missing_left | ~is_split, is_split=is_split, categories=masks,
        gain=jnp.where(is_split, split.gain, 0), cover=None, value=None,
    )  # fmt: skip


def _as_words(is_left: jax.Array) -> jax.Array:
    """A bit per bin, eight words of 32."""
    padded = jnp.pad(is_left, ((0, 0), (0, 8 * WORD - is_left.shape[-1])))
    powers = jnp.uint32(1) << jnp.arange(WORD, dtype=jnp.uint32)
    return (padded.reshape(-1, 8, WORD) * powers[None, None]).sum(-1, dtype=jnp.uint32)


def _narrowed(bounds: Bounds, split: Split, is_split: jax.Array, monotone: tuple[int, ...], penalties: Penalties) -> Bounds:
    """The bounds of the children: on a constrained feature they part in the middle between the children's weights."""
    wide = Bounds(bounds.low[:, None], bounds.high[:, None])
    left, right = (splits.weight(side, penalties, wide)[:, 0] for side in (split.left, split.right))
    sign = jnp.where(is_split, jnp.asarray(monotone)[split.feature], 0)
    middle = (left + right) / 2
    low = jnp.stack([jnp.where(sign < 0, middle, bounds.low), jnp.where(sign > 0, middle, bounds.low)], -1)
    high = jnp.stack([jnp.where(sign > 0, middle, bounds.high), jnp.where(sign < 0, middle, bounds.high)], -1)
    return Bounds(low.ravel(), high.ravel())


def _cover_of_children(is_split: jax.Array, split: Split, whole: splits.Sums) -> jax.Array:
    left = jnp.where(is_split, split.left.curvature.mean(-1), whole.curvature.mean(-1))
    right = jnp.where(is_split, split.right.curvature.mean(-1), 0)
    return jnp.stack([left, right], -1).ravel()
