"""Batches that arrive one after the other.

In flows a function that opens an iterable of batches at a step, out flow stacks of batches. A stream that ends,
breaks or changes its shapes ends the run where it stands, with a note: what was computed before is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from gradkit.checks import refuse, require
from gradkit.data.arrays import as_numbers, check_finite, places


class Reader:
    """Reads a stream in order, stacks its batches and remembers why it ended.

    Attributes:
        first: The first batch, as numpy arrays.
        note: Why the stream ended, or ``""``.
    """

    def __init__(self, open: Callable[[int], Iterable], *, is_replayable: bool):
        self._open, self._is_replayable = open, is_replayable
        batches = _lazily(open, 0)
        self.first = _first(batches)
        self._batches, self._position, self.note = itertools.chain([self.first], batches), 0, ""

    def take(self, start: int, count: int) -> Any:
        """Stack the batches of steps ``start`` to ``start + count``; at the end fewer, down to a leading axis of 0."""
        if start != self._position:
            self._seek(start)
        batches = list(itertools.islice(self._matching(), count))
        return jax.tree.map(lambda like, *leaves: np.stack(leaves) if leaves else like[None][:0], self.first, *batches)

    def _seek(self, start: int):
        rule = f"give its batches in order, and step {self._position} is next"
        remedy = "A plain iterable is read once; gk.stream(start_step -> iterable of batches) can be read again."
        require(self._is_replayable, "data", rule, start, remedy)
        self._batches, self._position, self.note = _lazily(self._open, start), start, ""

    def _matching(self) -> Iterator:
        """Yield batches until one is unlike the first or none is left, and note that."""
        while not self.note:
            batch, reason = self._read()
            if reason:
                plural = "es" * (self._position != 1)
                self.note = f"the stream ended after {self._position} batch{plural}: {reason}"
            else:
                self._position += 1
                yield batch

    def _read(self) -> tuple[Any, str]:
        """The next batch, or a reason why there is none."""
        try:
            batch = to_host(next(self._batches))
            return batch, _difference(self.first, batch)
        except StopIteration:
            return None, "it has no more"
        except Exception as error:  # whatever the stream raises, finished steps are worth keeping
            return None, f"it raised {type(error).__name__}: {error}"


def to_host(batch: Any) -> Any:
    """Copy a batch into numpy arrays: a stream may fill the same buffer again."""
    leaves = [np.array(as_numbers(place, leaf)) for place, leaf in places("batch", batch)]
    return jax.tree.unflatten(jax.tree.structure(batch), leaves)


def _lazily(open: Callable[[int], Iterable], start: int) -> Iterator:
    """Open the stream when its first batch is asked for."""
    yield from open(start)


def _first(batches: Iterator) -> Any:
    remedy = "An iterator that was used up cannot be used again; make a new one."
    for batch in batches:
        batch = to_host(batch)
        require(len(jax.tree.leaves(batch)) > 0, "data", "yield batches of arrays", batch, "Yield (inputs, targets).")
        check_finite("batch", batch)
        return batch
    refuse("data", "yield at least one batch", "an empty stream", remedy)


def _difference(first: Any, batch: Any) -> str:
    """In which leaf a batch is not like the first one, or ``""``."""
    if jax.tree.structure(first) != jax.tree.structure(batch):
        return f"the next is {jax.tree.structure(batch)}, the first was {jax.tree.structure(first)}"
    pairs = zip(places("batch", batch), jax.tree.leaves(first))
    unlike = (f"the next has `{place}` {_form(b)}, the first {_form(a)}" for (place, b), a in pairs if _form(a) != _form(b))
    return next(unlike, "")


def _form(leaf: np.ndarray) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
