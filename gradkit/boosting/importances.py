"""Which features a model of trees goes by: an ensemble flows in, one figure per feature flows out."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradkit.boosting.prediction import Ensemble


class Importances(NamedTuple):
    """Per feature (d,), over all splits on it of the trees that count.

    Attributes:
        gain: The sum of gains.
        cover: The sum of curvatures of the nodes that were split.
        splits: The number of splits.
    """

    gain: jax.Array
    cover: jax.Array
    splits: jax.Array


def importances(ensemble: Ensemble, num_features: int) -> Importances:
    """The importances of all features."""
    trees = ensemble.trees
    counts = trees.is_split & (ensemble.coefficient > 0)[:, None]
    blank = jnp.zeros(num_features)
    add = lambda values: blank.at[trees.feature].add(jnp.where(counts, values, 0))  # noqa: E731
    cover = trees.cover[:, : trees.feature.shape[1]]
    return Importances(add(trees.gain), add(cover), add(jnp.ones_like(cover)))


def gain_by_tree(ensemble: Ensemble) -> jax.Array:
    """Each tree's share of the gain of all, shape (t,)."""
    gain = jnp.where(ensemble.coefficient > 0, ensemble.trees.gain.sum(1), 0)
    return gain / jnp.maximum(gain.sum(), jnp.finfo(gain.dtype).tiny)
