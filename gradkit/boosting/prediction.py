"""What a model of trees says of binned examples: an ensemble and bins flow in; scores, stage by stage if wanted, flow out."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradkit.boosting.binning import Binned
from gradkit.boosting.growing import Tree, goes_left


class Ensemble(NamedTuple):
    """A model: ``intercept + sum over trees of coefficient * value of the leaf``.

    Attributes:
        trees: All trees along a leading axis t; those never grown have no splits and values of 0.
        coefficient: Of each tree, shape (t,); 0 for those that do not count.
        intercept: Shape (), or (k,) for k outputs.
    """

    trees: Tree
    coefficient: jax.Array
    intercept: jax.Array

    @property
    def depth(self) -> int:
        """Levels of splits of each tree."""
        return self.trees.value.shape[-2].bit_length() - 1


def leaves_of(tree: Tree, binned: Binned) -> jax.Array:
    """The leaf of each example in one tree, int32 (n,), counted from the left."""
    codes, rows = binned.codes.T, jnp.arange(len(binned))
    node = jnp.zeros_like(rows)
    for _ in range(tree.value.shape[-2].bit_length() - 1):
        node = 2 * node + 1 + ~goes_left(tree, node, codes, rows, binned.num_bins)
    return node - tree.feature.shape[-1]


def predict(ensemble: Ensemble, binned: Binned) -> jax.Array:
    """The scores of binned examples, before the inverse link: shape (n,), or (n, k) for k outputs."""

    def add(scores, part):
        tree, coefficient = part
        return scores + coefficient * tree.value[leaves_of(tree, binned)], None

    start = jnp.broadcast_to(jnp.atleast_1d(ensemble.intercept), (len(binned), ensemble.trees.value.shape[-1]))
    scores, _ = jax.lax.scan(add, start, (ensemble.trees, ensemble.coefficient))
    return scores if ensemble.intercept.ndim else scores[:, 0]


def leaf_indices(ensemble: Ensemble, binned: Binned) -> jax.Array:
    """The leaf of each example in each tree, int32 (n, t)."""
    return jax.lax.map(lambda tree: leaves_of(tree, binned), ensemble.trees).T
