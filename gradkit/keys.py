"""Random keys as people give them: an int, a typed jax key or its raw words."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from gradkit.checks import require, whole_number
from gradkit.trees import at_home, is_key

MEMBER, STEP, DRAW = 0x6D656D62, 0x73746570, 0x64726177


def branch(key: jax.Array, purpose: int) -> jax.Array:
    """A key for one purpose: without it, the key of member 3, of step 3 and of draw 3 would be one and the same.

    Args:
        key: A typed key.
        purpose: ``MEMBER`` for what differs between seeds, ``STEP`` for a loss with a key, ``DRAW`` for batches made from keys.
    """
    return jax.random.fold_in(key, purpose)


def member_key(key: Any, seed: Any) -> jax.Array:
    """The key of the members with a seed, from the sweep's, which is an int or a jax key.

    >>> member_key(0, 3) == member_key(jax.random.key(0), 3)
    Array(True, dtype=bool)
    """
    key = key if is_key(key) else as_key(key)
    return jax.random.fold_in(branch(key, MEMBER), seed)


def as_key(key: Any) -> jax.Array:
    """Return a typed jax key from an int, a typed key or the raw words of one.

    >>> as_key(7) == jax.random.key(7)
    Array(True, dtype=bool)
    """
    remedy = "Pass an int below 2**32, or one key of jax.random.key."
    if is_key(key):
        require(key.shape == (), "key", "be a single key", key.shape, remedy)
        return at_home(key)
    if getattr(key, "ndim", 0) > 0:
        raw = jax.random.key_data(jax.random.key(0))
        is_raw = key.dtype == raw.dtype and key.shape == raw.shape
        require(is_raw, "key", f"be an int or a jax key, {raw.dtype}{list(raw.shape)} if raw", key, remedy)
        return jax.random.wrap_key_data(key)
    seed = whole_number("key", key, at_least=0, remedy=remedy)
    # jax would drop the higher bits without a word, so that two such keys could be one.
    require(seed < 2**32, "key", "fit in 32 bits", seed, remedy)
    return jax.random.key(seed)


def key_words(key: Any) -> tuple[int, ...]:
    """Return the words of a key, from which a host generator can be seeded.

    >>> key_words(7)
    (0, 7)
    """
    return tuple(np.asarray(jax.random.key_data(as_key(key))).tolist())
