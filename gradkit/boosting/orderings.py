"""Leaves in order: values solved leaf by leaf and the splits above them flow in, values of a monotone tree flow out."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gradkit.boosting.growing import Tree


def monotone(value: jax.Array, size: jax.Array, tree: Tree, signs: tuple[int, ...]) -> jax.Array:
    """The values, clipped so that at each split on a constrained feature no leaf of one side passes one of the other.

    From the root down: where two sides overlap, both are clipped to the middle between their means, or to the value nearest to it
    that ends the overlap. Sides in order stay as they are. All comes from the values themselves, so that they may have any unit.

    Args:
        value: Shape (leaves, 1).
        size: What the examples of each leaf weigh, shape (leaves, 1). An empty leaf takes the mean of those around it.
        tree: Whose splits they are.
        signs: Per feature 1, -1 or 0.

    >>> tree = Tree(jnp.zeros(3, int), jnp.array([1, 0, 2]), None, jnp.ones(3, bool), None, None, None, None)
    >>> monotone(jnp.array([[0.0], [6.0], [4.0], [9.0]]), jnp.array([[1.0], [1.0], [4.0], [4.0]]), tree, (1,))[:, 0].tolist()
    [0.0, 4.75, 4.75, 9.0]
    """
    means = _means(value[:, 0], size[:, 0])
    ordered = means[-1]
    sign = jnp.where(tree.is_split, jnp.asarray(signs, ordered.dtype)[tree.feature], 0)
    for level, below in enumerate(means[1:]):
        nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
        own = sign[nodes, None]
        sides = ordered.reshape(2**level, 2, -1)
        low, high = own * sides[:, 0], own * sides[:, 1]
        top, bottom = low.max(-1, keepdims=True), high.min(-1, keepdims=True)
        middle = own * below.reshape(2**level, 2).mean(-1, keepdims=True)
        cut = jnp.minimum(jnp.maximum(middle, bottom), top)  # where they do not overlap this is the top, which clips nothing
        clipped = jnp.stack([jnp.minimum(low, cut), jnp.maximum(high, cut)], 1)
        ordered = jnp.where(own[..., None] != 0, own[..., None] * clipped, sides).ravel()
    return ordered[:, None]


def _means(value: jax.Array, size: jax.Array) -> list[jax.Array]:
    """The mean value of each node, level by level down to the leaves; of an empty one that of the node above it."""
    means, above = [], jnp.zeros(1, value.dtype)
    for level in range(len(value).bit_length()):
        sizes = size.reshape(2**level, -1)
        total = sizes.sum(-1, keepdims=True)
        share = jnp.where(total > 0, sizes / jnp.where(total > 0, total, 1), 0)
        mean = (share * value.reshape(2**level, -1)).sum(-1)
        above = jnp.where(total[:, 0] > 0, mean, jnp.repeat(above, len(mean) // len(above)))
        means.append(above)
    return means
