"""Orders of examples: which rows of the data each step sees.

In flow a key and the number of examples, out flow row indices for any window of steps. They are made on the host, from
the key, the seed and the epoch alone: neither the members of a sweep nor the windows asked for before change them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gradkit.keys import key_words

KEPT_BYTES = 2**24  # of orders: chunk after chunk asks for the same epochs


def permutation(n: int, words: tuple[int, ...], *stream: int) -> np.ndarray:
    """Return a random order of ``n`` rows, int32, from the words of a key; each ``stream`` of whole numbers has its own.

    >>> sorted(permutation(3, key_words(7)).tolist())
    [0, 1, 2]
    """
    seeds = np.random.SeedSequence(words, spawn_key=stream)
    return np.random.Generator(np.random.Philox(seeds)).permutation(np.arange(n, dtype=np.int32))


def shuffled_epochs(n: int, *, batch_size: int, key: Any) -> Callable[[int | None, int, int], np.ndarray]:
    """Order rows by epochs, shuffled and without replacement.

    The permutations of the epochs stand in one line, which is cut into batches: nothing is dropped, and all batches
    are of one size. Where ``batch_size`` does not divide ``n``, a batch may reach from one epoch into the next, and
    may then hold an example twice.

    Args:
        n: Number of examples.
        batch_size: Rows per step.
        key: An int or a jax key.

    Returns:
        ``(seed, start, count) -> indices``: the rows of steps ``start`` to ``start + count``, int32 of shape
        ``(count, batch_size)``. Each seed has its own order, and so has ``None``.

    >>> indices = shuffled_epochs(4, batch_size=2, key=0)(None, 0, 4)
    >>> sorted(indices[:2].ravel().tolist()), sorted(indices[2:].ravel().tolist())
    ([0, 1, 2, 3], [0, 1, 2, 3])
    """
    words = key_words(key)

    @functools.lru_cache(maxsize=max(8, KEPT_BYTES // (4 * n)))
    def epoch_order(seed, epoch):
        return permutation(n, words, 0 if seed is None else seed + 1, epoch)

    def indices(seed, start, count):
        first, last = start * batch_size // n, (start + count) * batch_size // n
        line = np.concatenate([epoch_order(seed, epoch) for epoch in range(first, last + 1)])
        return line[start * batch_size - first * n :][: count * batch_size].reshape(count, batch_size)

    return indices
