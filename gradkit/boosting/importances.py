"""Which features a model of trees goes by: an ensemble flows in, one figure per feature flows out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradkit import checks
from gradkit.boosting.binning import Binned
from gradkit.boosting.prediction import Ensemble, predict
from gradkit.boosting.problems import as_examples
from gradkit.keys import as_key


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
    """The importances of all features.

    Raises:
        ValueError: If a tree that is not traced splits on a feature beyond them.
    """
    trees = ensemble.trees
    remedy = "Count the columns of what the model was fitted to: `binned.codes.shape[1]`."
    num_features = checks.whole_number("num_features", num_features, at_least=1, remedy=remedy)
    if not isinstance(trees.feature, jax.core.Tracer):
        used = int(np.where(trees.is_split, trees.feature, 0).max(initial=0)) + 1
        rule = f"be at least {used}, as the model splits on feature {used - 1}"
        checks.require(num_features >= used, "num_features", rule, num_features, remedy)
    counts = trees.is_split & (ensemble.coefficient > 0)[:, None]
    blank = jnp.zeros(num_features)
    add = lambda values: blank.at[trees.feature].add(jnp.where(counts, values, 0))  # noqa: E731
    cover = trees.cover[:, : trees.feature.shape[1]]
    return Importances(add(trees.gain), add(cover), add(jnp.ones_like(cover)))


def gain_by_tree(ensemble: Ensemble) -> jax.Array:
    """Each tree's share of the gain of all, shape (t,)."""
    gain = jnp.where(ensemble.coefficient > 0, ensemble.trees.gain.sum(1), 0)
    return gain / jnp.maximum(gain.sum(), jnp.finfo(gain.dtype).tiny)


def permutation_importances(ensemble: Ensemble, loss: Callable, data: Any, *, repeats: int = 5, key: Any = 0) -> jax.Array:
    """How much the mean loss of examples rises when the values of one feature change places, shape (d, repeats).

    Give examples that the model was not fitted to. What a feature tells that another one tells too is not seen.

    Args:
        ensemble: The model.
        loss: ``(score, target) -> scalar`` of one example.
        data: ``(binned, targets)``, ``(binned, targets, weights)`` or ``Examples``.
        repeats: Shuffles of each feature.
        key: An int or a jax key.

    References:
        Breiman, Random forests, 2001. https://doi.org/10.1023/A:1010933404324
    """
    repeats = checks.whole_number("repeats", repeats, at_least=1, remedy="It counts shuffles.")
    examples = as_examples(data)
    binned = examples.binned

    def mean_loss(codes):
        scores = predict(ensemble, Binned(codes, binned.num_bins, binned.categorical, binned.has_missing))
        if examples.offset is not None:
            scores += jnp.reshape(jnp.asarray(examples.offset, scores.dtype), scores.shape)
        losses = jax.vmap(loss)(scores, examples.targets)
        if examples.weights is None:
            return jnp.mean(losses)
        weights = jnp.asarray(examples.weights, losses.dtype)
        return jnp.average(jnp.where(weights == 0, 0, losses), weights=weights)  # 0 times NaN is none

    keys, own = jax.random.split(as_key(key), repeats), mean_loss(binned.codes)
    orders = [jax.random.permutation(key, len(binned)) for key in keys]
    return jnp.stack([
        jnp.stack([mean_loss(binned.codes.at[:, feature].set(binned.codes[order, feature])) for order in orders]) - own
        for feature in range(binned.codes.shape[1])
    ])  # fmt: skip
