"""What the members of one program share: the program, the source, the course of segments, and the ledger they write to."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradkit import keys, trees
from gradkit.contracts import Source
from gradkit.data.faults import target_fault
from gradkit.engine.ledger import Ledger
from gradkit.engine.outline import Outline
from gradkit.engine.programs import Program
from gradkit.engine.segment import Blocks, Lanes

DISPATCH_SECONDS = 1.0  # a segment lasts about this long: progress and Ctrl-C stay live
FIRST_STEPS = 16  # of the first segment, before it is known how long a step takes
MOST_STEPS = 16384  # of a segment
SEGMENT_BYTES = 2**23  # tickets and infos of a segment
STREAM_BYTES = 2**26  # batches of a stream that one segment holds on the device
COMPARED_EXAMPLES = 64  # about as many, of the first batches, are what start and end are compared on
COMPARED_SHARE = 200  # of so many steps one, at the start and again at the end, may be made for that
FIRST_LOOK = 1024  # steps after which states are looked at first, then after twice as many, up to MOST_STEPS from look to look


class Members(NamedTuple):
    """What tells the members of one program apart.

    Attributes:
        positions: Where each stands in the sweep, shape (m,).
        hyper: Their traced hyper-parameters, ``{name: array (m,)}``.
        seeds: Their seeds, or ``None`` each.
        goals: Steps each makes, shape (m,).
        key: The root key.
    """

    positions: np.ndarray
    hyper: dict[str, np.ndarray]
    seeds: Sequence[int | None]
    goals: np.ndarray
    key: jax.Array

    def lanes(self, members: np.ndarray, place: jax.Device | NamedSharding | None) -> Lanes:
        """The traced values and the keys of some members, by their seeds, never by their lanes."""
        hyper = {name: jnp.asarray(values[members]) for name, values in self.hyper.items()}
        lanes = Lanes(hyper, _keys(self.key, [self.seeds[member] for member in members]))
        return lanes if place is None else jax.device_put(lanes, place)


def _keys(key: jax.Array, seeds: Sequence[int | None]) -> jax.Array:
    if seeds[0] is None:
        return jnp.broadcast_to(key, (len(seeds),))
    return jax.vmap(keys.member_key, (None, 0))(key, jnp.asarray(seeds, jnp.uint32))


class Pace:
    """How long a step takes, learnt while running: a segment gets as many as fill about a second."""

    def __init__(self):
        self._seconds: dict[int, float] = {}

    def steps(self, width: int) -> int:
        """The steps of the next segment at a width."""
        seconds = self._seconds.get(width)
        return FIRST_STEPS if seconds is None else max(1, int(DISPATCH_SECONDS / seconds))

    def note(self, width: int, steps: int, started: float):
        """Learn from a segment of so many steps that ends now."""
        self._seconds[width] = (time.perf_counter() - started) / steps


class Run(NamedTuple):
    """All that the members of one program share.

    Attributes:
        program: The compiled code's key.
        outline: Shapes per member.
        source: Where batches come from.
        validation: The validation batch, or ``None``.
        members: What tells them apart.
        ledger: Where their results go.
        num_steps: The most steps that a member of the sweep makes: the leading extent of growths.
        capacity: The longest segment: the leading extent of tickets and blocks.
        shared_tickets: ``(start, count) -> tickets`` of the order that all members share, kept for the next chunk.
        evaluate_every: Steps between evaluations, or ``None`` for the start and the end only.
        pace: How long steps take.
        keeps_state: Whether the ledger receives the final states.
        device: Where it runs, if not at home.
        rungs: The steps after which a halving compares members.
    """

    program: Program
    outline: Outline
    source: Source
    validation: Any
    members: Members
    ledger: Ledger
    num_steps: int
    capacity: int
    shared_tickets: Callable[[int, int], Any]
    evaluate_every: int | None
    pace: Pace
    keeps_state: bool = False
    device: jax.Device | None = None
    rungs: tuple[int, ...] = ()

    @property
    def place(self) -> jax.Device | NamedSharding | None:
        """Where lanes lie: on its device, or spread over those that its chunks span; ``None`` at home."""
        mesh = self.program.mesh
        return self.device if mesh is None else NamedSharding(mesh, PartitionSpec("members"))

    @property
    def num_lanes(self) -> int:
        """Lanes of a chunk, on all its devices."""
        return self.program.width * (1 if self.program.mesh is None else self.program.mesh.size)

    def next_stop(self, start: int, goals: np.ndarray, until: int) -> int:
        """Where the segment from ``start`` ends: after about a second, or where a member or all are to be looked at."""
        ends = [until, start + self.capacity, start + self.pace.steps(self.program.width), self.next_look(start)]
        return int(min([*ends, *goals[goals > start]]))

    def next_look(self, start: int) -> int:
        """Where all members are judged by their state next: the arguments alone fix these places, never the clock.

        At evaluations, at rungs, and after 1,024, 2,048, 4,096, 8,192 and every 16,384 steps; over a stream more often, where
        its batches are large. A member is also looked at where it ends.
        """
        regular = [every for every in (self.evaluate_every, MOST_STEPS, self._steps_of_a_stream()) if every]
        ends = [(start // every + 1) * every for every in regular]
        ends += [rung for rung in self.rungs if rung > start]
        return min(max(FIRST_LOOK, 2 ** start.bit_length()), *ends)

    def _steps_of_a_stream(self) -> int | None:
        """Steps whose batches may be kept until the next look."""
        if not self.source.is_lockstep:
            return None
        return max(1, STREAM_BYTES // max(trees.num_bytes(self.source.example()), 1))

    def is_looked_at(self, step: int) -> bool:
        """Whether all members are judged by their state after so many steps."""
        return self.next_look(step - 1) == step

    def is_evaluated(self, step: int) -> bool:
        """Whether metrics are wanted after so many steps."""
        return self.validation is not None and bool(self.evaluate_every) and step % self.evaluate_every == 0

    def tickets(self, seeds: Sequence[int | None], start: int) -> Any:
        """The tickets from ``start`` to the next look, which no segment passes, in the shape of all segments'."""
        return self._tickets(seeds, start, min(self.capacity, self.next_look(start) - start))

    def all_tickets(self, seeds: Sequence[int | None]) -> Any:
        """The tickets of the longest segment from the first step on."""
        return self._tickets(seeds, 0, self.capacity)

    def first_tickets(self, seeds: Sequence[int | None]) -> Any:
        """The tickets of the first steps, on which start and end are compared, in the shape of a segment's.

        A stream is not read again for them: it keeps its first batch.
        """
        if self.source.is_lockstep:
            return jax.tree.map(lambda leaf: _filled(leaf[None], self.capacity), self.source.example())
        return self._tickets(seeds, 0, self.ledger.num_compared)

    def _tickets(self, seeds: Sequence[int | None], start: int, count: int) -> Any:
        """The tickets of ``count`` steps, filled up to the capacity. An order per seed puts lanes second."""
        if not self.program.is_ordered:
            return self.shared_tickets(start, count)
        per_seed = {seed: self.source.tickets(seed, start, count) for seed in set(seeds)}
        tickets = jax.tree.map(lambda *leaves: np.stack(leaves, 1), *[per_seed[seed] for seed in seeds])
        return jax.tree.map(lambda leaf: _filled(leaf, self.capacity), tickets)

    def tickets_again(self, seeds: Sequence[int | None], start: int, kept: Any) -> Any:
        """The tickets of a segment that was made before; ``kept`` are a stream's, without padding."""
        if not self.source.is_lockstep:
            return self.tickets(seeds, start)
        return jax.tree.map(lambda leaf: _filled(leaf, self.capacity), kept)

    def drawn_tickets(self, start: int, stop: int) -> tuple[Any, int]:
        """The tickets of a stream's next steps, padded to the capacity, and how many there are."""
        tickets = self.source.tickets(None, start, stop - start)
        count = min(len(leaf) for leaf in jax.tree.leaves(tickets))
        if count == 0:
            return None, 0
        fault = target_fault("batch", tickets, self.outline.rule)
        if fault is not None:
            self._note(f"in a batch of the steps {start + 1} to {start + count} {fault} {fault.remedy}")
        return jax.device_put(jax.tree.map(lambda leaf: _pad(leaf, self.capacity), tickets)), count

    def _note(self, note: str):
        if not any(told.startswith("in a batch of the steps") for told in self.ledger.notes):  # one says enough
            self.ledger.notes.append(note)

    def no_tickets(self) -> Any:
        """Tickets of a stream that are never used, to compile with."""
        return jax.tree.map(lambda leaf: np.zeros((self.capacity, *leaf.shape), leaf.dtype), self.source.example())

    def blank(self, num_lanes: int) -> Blocks:
        """The zeros that a segment fills with infos and growths."""
        zeros = lambda leaf: np.zeros((self.capacity, num_lanes, *leaf.shape), leaf.dtype)  # noqa: E731
        return Blocks(jax.tree.map(zeros, self.outline.info), jax.tree.map(zeros, self.outline.growth))


def capacity(outline: Outline, source: Source, num_lanes: int, num_steps: int, evaluate_every: int | None) -> int:
    """The longest segment: a power of two, so that runs of about equal length share a program, within bounds of memory."""
    longest = 2 ** (min(num_steps, evaluate_every or num_steps, MOST_STEPS) - 1).bit_length()
    row = trees.num_bytes((outline.info, outline.growth)) * num_lanes
    if source.is_lockstep:
        return max(1, min(longest, STREAM_BYTES // max(trees.num_bytes(source.example()) + row, 1)))
    tickets = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(source.tickets(None, 0, 1)))
    tickets *= num_lanes if source.is_ordered else 1
    return max(1, min(longest, SEGMENT_BYTES // max(tickets + row, 1)))


def num_compared(source: Source, num_steps: int, capacity: int) -> int:
    """On how many of the first batches start and end are compared: more of small ones, which say little; few in few steps."""
    is_one_batch = source.is_lockstep or not jax.tree.leaves(source.tickets(None, 0, 1))
    sizes = [jnp.shape(leaf)[0] for leaf in jax.tree.leaves(source.example()) if jnp.ndim(leaf)]
    if is_one_batch or not sizes:
        return 1
    return max(1, min(-(-COMPARED_EXAMPLES // min(sizes)), num_steps // COMPARED_SHARE, capacity))


def shared_tickets(source: Source, capacity: int) -> Callable[[int, int], Any]:
    """``(start, count) -> tickets``, drawn once for all the chunks that come by, and filled up to the capacity."""

    @functools.lru_cache(maxsize=4)
    def drawn(start: int, count: int) -> Any:
        return jax.tree.map(lambda leaf: _filled(leaf, capacity), source.tickets(None, start, count))

    return drawn


def _filled(leaf: np.ndarray, length: int) -> np.ndarray:
    """The leaf with rows of zeros behind it, which cost next to nothing as nobody reads them."""
    filled = np.zeros((length, *leaf.shape[1:]), leaf.dtype)
    filled[: len(leaf)] = leaf
    return filled


def _pad(leaf: np.ndarray, length: int) -> np.ndarray:
    return np.pad(leaf, [(0, length - len(leaf))] + [(0, 0)] * (leaf.ndim - 1), mode="edge")
