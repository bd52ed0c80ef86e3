"""Weights of examples, which count in units of the mean weight of the data.

In flow data ``(inputs, targets, weights)`` and a batch of them, out flows the batch together with the mean weight of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradkit import flows


@jax.tree_util.register_pytree_with_keys_class
class Weighted(tuple):
    """A batch ``(inputs, targets, weights)`` that knows the mean weight of the data it was taken from.

    To everyone else it is a tuple of three. Slicing, stacking and mapping over examples keep it whole, because it holds the
    mean once per example.

    Attributes:
        mean_weight: Of the data, shape ``(n,)``, the same for every example of the batch.
    """

    mean_weight: Any

    def __new__(cls, batch: Any, mean_weight: Any):
        """Put the mean beside the three parts of a batch."""
        self = super().__new__(cls, batch)
        self.mean_weight = mean_weight
        return self

    def tree_flatten_with_keys(self):
        """The three parts and the mean are leaves."""
        keys = [jax.tree_util.SequenceKey(index) for index in range(3)] + [jax.tree_util.GetAttrKey("mean_weight")]
        return list(zip(keys, (*self, self.mean_weight))), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """The inverse."""
        *batch, mean_weight = children
        return cls(batch, mean_weight)


def has_weights(batch: Any) -> bool:
    """Whether a batch has the form ``(inputs, targets, weights)`` with one number per example."""
    if not (isinstance(batch, tuple) and len(batch) == 3 and hasattr(batch[2], "dtype")):
        return False
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tuple(batch))}
    return lengths == {jnp.shape(batch[2])} and not jnp.issubdtype(batch[2].dtype, jnp.complexfloating)


def is_mean_read(loss_fn: Callable[[Any], jax.Array], batch: Any) -> bool:
    """Whether a loss of a batch asks for the mean weight of the data, as an objective does and what calls one."""
    if not has_weights(batch):
        return False
    try:
        program = jax.make_jaxpr(lambda mean: loss_fn(taken_from(mean, batch)))(mean_weight(batch))
    except Exception:  # it may accept batches of its own form only; its step says what is wrong with it, if anything
        return False
    return flows.reached(program, [True])[0]


def mean_weight(data: Any) -> jax.Array:
    """The mean weight of data that have weights; 1 where all are zero, so that it can divide."""
    mean = jnp.mean(wide(data[2]))
    return jnp.where(mean == 0, 1, mean)


def taken_from(data_mean: Any, batch: Any) -> Any:
    """The batch as one of data with that mean weight; as it is, if the mean is ``()`` or it has no weights."""
    is_plain = isinstance(data_mean, tuple) or isinstance(batch, Weighted) or not has_weights(batch)
    return batch if is_plain else Weighted(batch, jnp.broadcast_to(data_mean, jnp.shape(batch[2])))


def wide(weights: Any) -> jax.Array:
    """Weights in float32 or wider."""
    weights = jnp.asarray(weights)
    return weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
