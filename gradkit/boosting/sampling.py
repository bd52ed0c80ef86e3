"""Which examples and features a tree may look at: keys and shares flow in, masks flow out. Shares may be traced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

EXAMPLES, FEATURES, LEVELS = 0, 1, 2


def is_all(share: Any) -> bool:
    """Whether a share is the constant 1, under which nothing is drawn."""
    return isinstance(share, (int, float)) and share == 1


def examples(key: jax.Array, share: Any, num_examples: int) -> jax.Array:
    """A mask of examples, each drawn with that probability, bool (n,)."""
    return jax.random.uniform(jax.random.fold_in(key, EXAMPLES), (num_examples,)) < share


def features(key: jax.Array, by_tree: Any, by_level: Any, num_features: int, depth: int) -> jax.Array | None:
    """The features that each level may use, bool (depth, d): of those of the tree, a share; at least one each time."""
    if is_all(by_tree) and is_all(by_level):
        return None
    of_tree = _draw(jax.random.fold_in(key, FEATURES), by_tree, jnp.ones(num_features, bool))
    keys = jax.random.split(jax.random.fold_in(key, LEVELS), depth)
    return jax.vmap(_draw, (0, None, None))(keys, by_level, of_tree)


def _draw(key: jax.Array, share: Any, among: jax.Array) -> jax.Array:
    """A share of the features of a mask, rounded, at least one."""
    number = jnp.maximum(jnp.round(share * among.sum()), 1)
    order = jnp.where(among, jax.random.uniform(key, among.shape), 2.0)
    return among & (jnp.argsort(jnp.argsort(order)) < number)
