"""A tree as one array: small updates inside a compiled loop are slow on some versions, so a growth is a single row of words."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from gradkit.boosting.growing import Tree

LEAST_WORDS = 64  # 256 bytes


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """Trees in rows of 32-bit words: one leaf (..., w), and the form of a tree as part of the structure."""

    def __init__(self, words: Any, form: tuple):
        self.words, self.form = words, form

    def tree_flatten_with_keys(self):
        """The words are the leaf."""
        return ((jax.tree_util.GetAttrKey("words"), self.words),), self.form

    @classmethod
    def tree_unflatten(cls, form, leaves):
        """The inverse."""
        return cls(leaves[0], form)


def pack(tree: Tree) -> Packed:
    """All fields of a tree in one row."""
    leaves, structure = jax.tree.flatten(tree)
    words = jnp.concatenate([_as_words(leaf).ravel() for leaf in leaves])
    form = structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    return Packed(jnp.pad(words, (0, max(LEAST_WORDS - len(words), 0))), form)


def unpack(packed: Packed) -> Tree:
    """The trees of a row, or of stacked rows: their leading axes lead each field."""
    structure, shapes = packed.form
    words, leaves, start = jnp.asarray(packed.words), [], 0
    for shape, dtype in shapes:
        part = jax.lax.slice_in_dim(words, start, start + math.prod(shape), axis=-1)
        leaves.append(_from_words(part, dtype).reshape(*words.shape[:-1], *shape))
        start += math.prod(shape)
    return jax.tree.unflatten(structure, leaves)


def _as_words(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.int32) if leaf.dtype == bool else jax.lax.bitcast_convert_type(leaf, jnp.int32)


def _from_words(words: jax.Array, dtype: str) -> jax.Array:
    return words != 0 if dtype == "bool" else jax.lax.bitcast_convert_type(words, jnp.dtype(dtype))
