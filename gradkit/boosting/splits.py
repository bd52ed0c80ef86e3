"""The best split of every node: histograms flow in, one split per node flows out.

With ``S(G) = sign(G) max(|G| - l1, 0)`` the weight of a node is ``w = -S(G) / (H + l2)``, clipped to ``max_delta_step``, and its
score ``-(2 G w + (H + l2) w**2 + 2 l1 |w|)``, without a factor 1/2, as XGBoost, LightGBM and scikit-learn count it. The gain of a
split is the score of both children less that of the node, summed over outputs. Ties go to the lowest feature, then to the lowest
bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

ROUNDING = 1e-6  # of a node's score: a gain below that is rounding
SMOOTHING = 10.0  # examples of the node's mean curvature, added to a category before categories are put in order
LEAST_IN_CATEGORY = 10  # examples at a node, of a category that has a place of its own; as scikit-learn asks for


class Penalties(NamedTuple):
    """What holds a tree back; numbers or traced scalars.

    Attributes:
        l1, l2: On the weights of leaves. ``None`` for ``l2``, as for ``min_child_weight``: what :meth:`known` says.
        gamma: The gain that a split must exceed.
        min_child_weight: The least sum of curvatures in a child, mean over outputs.
        min_child_samples: The least number of examples in a child.
        max_delta_step: The largest weight, before shrinkage; infinite for no limit.
    """

    l1: Any = 0.0
    l2: Any = 1.0
    gamma: Any = 0.0
    min_child_weight: Any = 1.0
    min_child_samples: Any = 1
    max_delta_step: Any = jnp.inf

    def known(self, has_units: bool) -> Penalties:
        """With a number for what is ``None``: 1, as of XGBoost, or 0 where curvatures have units, or none to speak of."""
        default = 0.0 if has_units else 1.0
        l2 = default if self.l2 is None else self.l2
        least = default if self.min_child_weight is None else self.min_child_weight
        return self._replace(l2=l2, min_child_weight=least)


class Sums(NamedTuple):
    """What a histogram adds up: gradients and curvatures of each output ``(..., k)``, and the number of examples ``(...)``."""

    gradient: jax.Array
    curvature: jax.Array
    count: jax.Array


class Bounds(NamedTuple):
    """Between which values the weights of a node and all below it must lie, shape (j,) each."""

    low: jax.Array
    high: jax.Array


class Split(NamedTuple):
    """One split per node.

    Attributes:
        gain: Shape (j,); ``-inf`` where none is allowed.
        feature: int32 (j,).
        cut: int32 (j,): bins up to this one go left, in the order of the bins, or of the categories' ranks.
        is_missing_left: bool (j,).
        ranks: The rank of each category of the chosen feature, shape (j, b - 1); ``None`` without categorical features.
        left, right: The sums of the children.
    """

    gain: jax.Array
    feature: jax.Array
    cut: jax.Array
    is_missing_left: jax.Array
    ranks: jax.Array | None
    left: Sums
    right: Sums


def unstack(channels: jax.Array, axis: int = -1) -> Sums:
    """Sums from channels: gradients, curvatures, and the count last."""
    k = channels.shape[axis] // 2
    take = lambda start, stop: jnp.moveaxis(jax.lax.slice_in_dim(channels, start, stop, axis=axis), axis, -1)  # noqa: E731
    return Sums(take(0, k), take(k, 2 * k), take(2 * k, 2 * k + 1)[..., 0])


def weight(sums: Sums, penalties: Penalties, bounds: Bounds | None = None) -> jax.Array:
    """The weights that a node of these sums would get, shape (..., k)."""
    small = jnp.maximum(jnp.abs(sums.gradient) - penalties.l1, 0)
    curvature = sums.curvature + penalties.l2
    value = -jnp.sign(sums.gradient) * jnp.where(curvature > 0, small / jnp.where(curvature > 0, curvature, 1), 0)
    value = jnp.clip(value, -penalties.max_delta_step, penalties.max_delta_step)
    return value if bounds is None else jnp.clip(value, bounds.low, bounds.high)


def score(sums: Sums, value: jax.Array, penalties: Penalties) -> jax.Array:
    """Twice how much a node of these sums lowers the loss at these weights, summed over outputs."""
    quadratic = 2 * sums.gradient * value + (sums.curvature + penalties.l2) * value**2
    return -_total(quadratic + 2 * penalties.l1 * jnp.abs(value))


def _total(values: jax.Array) -> jax.Array:
    """The sum over outputs, pair by pair: XLA's own sum takes an order that depends on how many features there are."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = jnp.concatenate([values[..., :half] + values[..., half : 2 * half], values[..., 2 * half :]], -1)
    return values[..., 0]


def gains(
    histogram: jax.Array, whole: Sums, penalties: Penalties, *, directions: tuple[int, ...], allowed: jax.Array | None = None,
    monotone: Sequence[int] | jax.Array | None = None, bounds: Bounds | None = None,
) -> jax.Array:  # fmt: skip
    """The gain of every cut of every feature at every node, ``-inf`` where it is not allowed.

    Args:
        histogram: Shape (j, d, c, b), bins in order, the missing one last.
        whole: The sums of each node.
        penalties: What holds the tree back.
        directions: Where missing examples may go: 0 right, 1 left; at least one.
        allowed: Features that may be used, bool (j, d) or (1, d).
        monotone: Per feature, 1 where the score must not fall with it, -1 where it must not rise, else 0.
        bounds: Of the nodes' weights.

    Returns:
        Shape (j, d, b - 1, number of directions).
    """
    left, right = _children(histogram, directions)
    wide = None if bounds is None else Bounds(*(bound[:, None, None, None, None] for bound in bounds))
    value_left, value_right = weight(left, penalties, wide), weight(right, penalties, wide)
    own = score(
        whole, weight(whole, penalties, None if bounds is None else Bounds(*(bound[:, None] for bound in bounds))), penalties
    )
    children = score(left, value_left, penalties) + score(right, value_right, penalties)
    gain = children - own[:, None, None, None]
    valid = gain > jnp.maximum(penalties.gamma, ROUNDING * children)
    for side in (left, right):
        valid &= (side.count >= jnp.maximum(penalties.min_child_samples, 1)) & (
            _total(side.curvature) >= penalties.min_child_weight * side.curvature.shape[-1]
        )
    if allowed is not None:
        valid &= allowed[:, :, None, None]
    if monotone is not None:
        sign = jnp.asarray(monotone, gain.dtype)[None, :, None, None]
        valid &= sign * (value_right - value_left)[..., 0] >= 0
    return jnp.where(valid, gain, -jnp.inf)


def best(
    histogram: jax.Array, whole: Sums, penalties: Penalties, *, has_missing: bool,
    categorical: Sequence[int] | jax.Array = (), is_shared: bool = False, **limits,
) -> tuple[Split, jax.Array]:  # fmt: skip
    """The best split of each node, or with ``is_shared`` the one that all nodes share; see :func:`gains` for the limits.

    Returns:
        The splits, and by what they were chosen, shape (j,): their gain, or the sum of the gains of all nodes.
    """
    ranks = None
    if len(categorical):
        order = _orders(histogram.sum(0, keepdims=True) if is_shared else histogram, categorical)
        order = jnp.broadcast_to(order, (len(histogram), *order.shape[1:]))
        histogram = jnp.take_along_axis(histogram, _with_missing(order)[:, :, None], -1)
        ranks = jnp.argsort(order, -1)
    directions = (0, 1) if has_missing else (0,)
    gain = gains(histogram, whole, penalties, directions=directions, **limits)
    num_nodes, _, num_cuts, num_directions = gain.shape
    flat = gain.reshape(num_nodes, -1)
    if is_shared:
        flat = jnp.where(jnp.isfinite(flat), flat, 0)
        total = flat.sum(0, keepdims=True)
        index = jnp.broadcast_to(jnp.argmax(total, -1).astype(jnp.int32), (num_nodes,))
        flat, strength = jnp.where(total > 0, flat, -jnp.inf), jnp.broadcast_to(total.max(-1), (num_nodes,))
    else:
        index, strength = jnp.argmax(flat, -1).astype(jnp.int32), flat.max(-1)
    feature, cut, direction = (index // (num_cuts * num_directions), index // num_directions % num_cuts, index % num_directions)
    chosen = jnp.take_along_axis(histogram, feature[:, None, None, None], 1)
    left, right = (_at(side, cut, direction) for side in _children(chosen, directions))
    loads = jnp.stack([chosen[:, 0, -1, -1], left.curvature.mean(-1), right.curvature.mean(-1)])
    missing, to_left, to_right = jnp.broadcast_to(loads.sum(1, keepdims=True), loads.shape) if is_shared else loads
    is_missing_left = jnp.where(missing > 0, direction == 1, to_left >= to_right)
    ranks = None if ranks is None else jnp.take_along_axis(ranks, feature[:, None, None], 1)[:, 0]
    gain = jnp.take_along_axis(flat, index[:, None], -1)[:, 0]
    return Split(gain, feature, cut, is_missing_left, ranks, left, right), strength


def _children(histogram: jax.Array, directions: tuple[int, ...]) -> tuple[Sums, Sums]:
    """The sums left and right of every cut, for each direction of the missing: leaves (j, d, b - 1, directions, ...)."""
    numbers, missing = histogram[..., :-1], histogram[..., -1:]
    prefix = jnp.cumsum(numbers, -1)
    left = jnp.stack([prefix + missing if direction else prefix for direction in directions], -1)
    right = (prefix[..., -1:] + missing)[..., None] - left
    left, right = unstack(left, 2), unstack(right, 2)
    return left, right._replace(curvature=jnp.maximum(right.curvature, 0))


def _at(sums: Sums, cut: jax.Array, direction: jax.Array) -> Sums:
    """The sums of one cut per node, from leaves (j, 1, cuts, directions, ...)."""
    node = jnp.arange(len(cut))
    return jax.tree.map(lambda leaf: leaf[node, 0, cut, direction], sums)


def _orders(histogram: jax.Array, categorical: Sequence[int] | jax.Array) -> jax.Array:
    """The bins of each node and feature in the order in which they are scanned, (j, d, b - 1): categories by their pull.

    A categorical column that is not there is left out.
    """
    num_nodes, num_features, _, num_bins = histogram.shape
    plain = jnp.broadcast_to(jnp.arange(num_bins - 1), (num_nodes, num_features, num_bins - 1))
    columns = jnp.asarray(categorical)
    sums = unstack(histogram.at[:, columns].get(mode="clip")[..., :-1], 2)
    number = jnp.maximum(sums.count.sum(-1, keepdims=True), 1)[..., None]
    mean = sums.curvature.sum(-2, keepdims=True) / number
    smooth = sums.curvature + SMOOTHING * mean
    pull = jnp.where(smooth > 0, sums.gradient / jnp.where(smooth > 0, smooth, 1), 0)
    pull = _leading(pull if pull.shape[-1] == 1 else pull * jnp.sqrt(mean), sums.count)  # so that outputs have one unit
    pull = jnp.where(sums.count >= LEAST_IN_CATEGORY, pull, jnp.inf)  # a category that is rare there is to the right
    return plain.at[:, columns].set(jnp.argsort(pull, -1, stable=True).astype(plain.dtype), mode="drop")


def _leading(pull: jax.Array, count: jax.Array) -> jax.Array:
    """The pull (j, d, b, k) along the direction in which it varies most: a power iteration over outputs."""
    if pull.shape[-1] == 1:
        return pull[..., 0]
    share = count / jnp.maximum(count.sum(-1, keepdims=True), 1)
    centered = pull - (share[..., None] * pull).sum(-2, keepdims=True)
    largest = jnp.abs(centered).max((-2, -1), keepdims=True)
    centered = centered / jnp.where(largest > 0, largest, 1)  # whose squares are numbers
    spread = jnp.einsum("jdbk,jdb,jdbl->jdkl", centered, share, centered, precision=jax.lax.Precision.HIGHEST)
    direction = spread[..., 0] + spread.sum(-1)
    for _ in range(8):
        direction = jnp.einsum("jdkl,jdl->jdk", spread, direction / jnp.maximum(jnp.abs(direction).max(-1, keepdims=True), 1e-30))
    return jnp.einsum("jdbk,jdk->jdb", centered, direction)


def _with_missing(order: jax.Array) -> jax.Array:
    return jnp.concatenate([order, jnp.full((*order.shape[:-1], 1), order.shape[-1], order.dtype)], -1)
