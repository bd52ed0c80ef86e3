"""What the members of one program share: the program, the source, the course of segments and evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit import trees
from gradkit.contracts import Source
from gradkit.engine.outline import Outline
from gradkit.engine.segment import Blocks, Program

SEGMENT_STEPS = 100
STREAM_BYTES = 2**26  # batches of a stream that one segment holds on the device


class Run(NamedTuple):
    """All that the members of one program share.

    Attributes:
        program: The compiled code's key.
        outline: Shapes per member.
        source: Where batches come from.
        validation: The validation batch, or ``None``.
        num_steps: Steps each member makes.
        evaluate_every: Steps between evaluations, or ``None`` for the start and the end only.
        keeps_state: Whether the records hold the final states.
    """

    program: Program
    outline: Outline
    source: Source
    validation: Any
    num_steps: int
    evaluate_every: int | None
    keeps_state: bool = False

    @property
    def capacity(self) -> int:
        """The longest segment: the leading extent of tickets and blocks."""
        longest = min(self.num_steps, self.evaluate_every or self.num_steps, SEGMENT_STEPS)
        if not self.source.is_lockstep:
            return longest
        return min(longest, max(1, STREAM_BYTES // max(trees.num_bytes(self.source.example()), 1)))

    def segments(self) -> Iterator[tuple[int, int]]:
        """Start and stop of each segment; evaluations fall on ends."""
        start = 0
        while start < self.num_steps:
            next_evaluation = (start // self.evaluate_every + 1) * self.evaluate_every if self.evaluate_every else np.inf
            stop = int(min(start + self.capacity, next_evaluation, self.num_steps))
            yield start, stop
            start = stop

    def is_evaluated(self, step: int) -> bool:
        """Whether metrics are wanted after so many steps."""
        return self.validation is not None and bool(self.evaluate_every) and step % self.evaluate_every == 0

    def tickets(self, seeds: Sequence[int | None], start: int, stop: int) -> tuple[Any, int]:
        """The tickets of a segment, padded to the capacity, and how many there are. An order per seed puts lanes second."""
        if self.program.is_ordered:
            per_seed = {seed: self.source.tickets(seed, start, self.capacity) for seed in set(seeds)}
            return jax.tree.map(lambda *leaves: np.stack(leaves, 1), *[per_seed[seed] for seed in seeds]), stop - start
        wanted = stop - start if self.source.is_lockstep else self.capacity
        tickets = self.source.tickets(None, start, wanted)
        count = min([len(leaf) for leaf in jax.tree.leaves(tickets)], default=wanted)
        if count == 0:
            return self.no_tickets(), 0
        return jax.tree.map(lambda leaf: _pad(leaf, self.capacity), tickets), min(count, stop - start)

    def no_tickets(self) -> Any:
        """Tickets of a stream that are never used, to compile with."""
        return jax.tree.map(lambda leaf: np.zeros((self.capacity, *leaf.shape), leaf.dtype), self.source.example())

    def blank(self, num_lanes: int) -> Blocks:
        """The zeros that a segment fills with infos and growths."""
        zeros = lambda leaf: np.zeros((self.capacity, num_lanes, *leaf.shape), leaf.dtype)  # noqa: E731
        return Blocks(jax.tree.map(zeros, self.outline.info), jax.tree.map(zeros, self.outline.growth))


def _pad(leaf: np.ndarray, length: int) -> np.ndarray:
    return np.pad(leaf, [(0, length - len(leaf))] + [(0, 0)] * (leaf.ndim - 1), mode="edge")
