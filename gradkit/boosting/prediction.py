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


def added(ensemble: Ensemble, binned: Binned, scores: jax.Array) -> jax.Array:
    """The scores (n, k) with all trees added, one after the other."""
    return jax.lax.scan(lambda scores, part: (_plus(scores, part, binned), None), scores, ensemble[:2])[0]


@jax.jit
def predict(ensemble: Ensemble, binned: Binned) -> jax.Array:
    """The scores of binned examples, before the inverse link: shape (n,), or (n, k) for k outputs."""
    return _shown(ensemble, added(ensemble, binned, _start(ensemble, binned)))


@jax.jit
def staged_predict(ensemble: Ensemble, binned: Binned) -> jax.Array:
    """The scores after each tree: shape (t, n), or (t, n, k) for k outputs; held in memory all at once."""

    def add(scores, part):
        new = _plus(scores, part, binned)
        return new, new

    return _shown(ensemble, jax.lax.scan(add, _start(ensemble, binned), ensemble[:2])[1])


@jax.jit
def leaf_indices(ensemble: Ensemble, binned: Binned) -> jax.Array:
    """The leaf of each example in each tree, int32 (n, t), counted from the left."""
    return jax.lax.map(lambda tree: leaves_of(tree, binned), ensemble.trees).T


def _start(ensemble: Ensemble, binned: Binned) -> jax.Array:
    """The intercept for every example."""
    return jnp.broadcast_to(jnp.atleast_1d(ensemble.intercept), (len(binned), ensemble.trees.value.shape[-1]))


def _plus(scores: jax.Array, part: tuple[Tree, jax.Array], binned: Binned) -> jax.Array:
    tree, coefficient = part
    return scores + coefficient * tree.value[leaves_of(tree, binned)]


def _shown(ensemble: Ensemble, scores: jax.Array) -> jax.Array:
    return scores if ensemble.intercept.ndim else scores[..., 0]
