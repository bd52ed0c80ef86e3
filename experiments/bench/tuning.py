"""The hand-tuned best: a grid over widths, threads and host devices flows in, the fastest layout flows out.

It is what an expert reaches after a day of tuning: the tuned scan over chunks of members, several chunks in flight. The number
of steps is traced, so that a layout compiles once, and a width of one is the loop without ``vmap``.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import scans
from experiments.bench.cases import MOST_STEPS, Case
from experiments.bench.scans import COMPARED, Outcome


class Layout(NamedTuple):
    """Members per chunk, chunks in flight, and the devices that take the chunks in turn."""

    width: int
    threads: int
    devices: int

    def __str__(self) -> str:
        return f"width {self.width}, " + (f"threads {self.threads}" if self.devices == 1 else f"devices {self.devices}")


class Chunks(NamedTuple):
    """The compiled scan over the members of a chunk.

    Attributes:
        first: ``() -> carry``.
        advance: ``(carry, rates, data, order, num_steps) -> (carry, losses)``.
        width: Members per chunk.
    """

    first: Any
    advance: Any
    width: int


def make_chunks(case: Case, width: int) -> Chunks:
    """The scan of a chunk; it compiles when first called on a device."""

    def advance_lane(carry, rate, batch):
        return scans.step(case, carry, rate, batch)

    def advance(carry, rates, data, order, num_steps):
        def body(index, carry_and_losses):
            carry, losses = carry_and_losses
            rows = jax.lax.dynamic_index_in_dim(order, index, keepdims=False)
            batch = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), data)
            carry, loss = lanes(carry, rates, batch)
            return carry, jax.lax.dynamic_update_index_in_dim(losses, loss, index, 0)

        return jax.lax.fori_loop(0, num_steps, body, (carry, jnp.zeros((MOST_STEPS, *rates.shape), rates.dtype)))

    lanes = advance_lane if width == 1 else jax.vmap(advance_lane, (0, 0, None))
    first = jax.jit(lambda: scans.begin(case) if width == 1 else scans.stacked(scans.begin(case), width))
    return Chunks(first, jax.jit(advance), width)  # to donate the carry costs up to 17 % here


class Workbench:
    """A case on the devices of this process, with the scans compiled so far."""

    def __init__(self, case: Case, devices):
        self.case, self.devices, self.compiled, self.compile_seconds = case, devices, {}, {}
        self.residents = [jax.device_put((case.data, case.order()), device) for device in devices]

    def run(self, width: int, threads: int, steps: int, members: int | None = None) -> Outcome:
        """Train all or the first members, chunk by chunk: timed from the first states to the last parameters and losses."""
        rates = self.case.rates[:members]
        rows = rates if width == 1 else rates.reshape(-1, width)
        chunks = self.compiled[width]
        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(lambda index: self._run_chunk(chunks, index, rows[index], steps), range(len(rows))))
        seconds = time.perf_counter() - started
        first = [losses[: min(steps, COMPARED)].reshape(-1, width) for _, losses in results]
        return Outcome(seconds, np.concatenate(first, axis=1))

    def _run_chunk(self, chunks: Chunks, index: int, rates, steps: int):
        turn = index % len(self.devices)
        with jax.default_device(self.devices[turn]):
            return scans.brought(*chunks.advance(chunks.first(), jnp.asarray(rates), *self.residents[turn], steps))

    def compile(self, width: int) -> float:
        """Compile the scan of a width for all devices, if need be; the seconds that took."""
        if width not in self.compiled:
            started = time.perf_counter()
            self.compiled[width] = make_chunks(self.case, width)
            rates = self.case.rates[0] if width == 1 else self.case.rates[:width]
            for turn in range(min(len(self.devices), self.case.members // width)):
                self._run_chunk(self.compiled[width], turn, rates, steps=1)
            self.compile_seconds[width] = time.perf_counter() - started
        return self.compile_seconds[width]

    def probe(self, width: int, threads: int, seconds: float) -> dict[str, float]:
        """Member-steps per second of a few chunks per thread, found in about so many seconds; and what compiling took."""
        compile_seconds = self.compile(width)
        members, steps, elapsed = min(2 * threads * width, self.case.members), 2, 0.0
        members -= members % (threads * width)
        while elapsed < seconds / 2:
            elapsed = self.run(width, threads, steps, members).seconds
            rate = members * steps / elapsed
            if steps == MOST_STEPS:
                break
            steps = min(int(steps * np.clip(0.8 * seconds / elapsed, 2, 16)), MOST_STEPS)
        return {"rate": rate, "compile_seconds": compile_seconds}


class Search(NamedTuple):
    """What a grid over layouts found.

    Attributes:
        probes: ``{layout: {"rate": ..., "compile_seconds": ...}}``.
        best: The fastest layout.
        seconds: What the search took.
    """

    probes: dict[Layout, dict[str, float]]
    best: Layout
    seconds: float


def layouts(members: int, devices: int, threads: tuple[int, ...]) -> list[Layout]:
    """The grid for so many devices: powers of two that divide the members and all at once, wherever every thread has work."""
    powers = [2**power for power in range(members.bit_length())]
    widths = sorted({width for width in powers if members % width == 0} | {members})
    return [Layout(width, count, devices) for count in threads for width in widths if members // width >= count]


def search(benches: dict[int, Any], members: int, grid: list[Layout], seconds: float) -> Search:
    """Probe every layout briefly, and the three fastest for longer.

    Args:
        benches: ``{number of devices: Workbench}``, or what stands for one in another process.
        members: How many there are.
        grid: The layouts to try.
        seconds: How long to look at each of the fastest; the first look is a quarter of that.
    """
    started = time.perf_counter()
    probes = {layout: benches[layout.devices].probe(layout.width, layout.threads, seconds / 4) for layout in grid}
    finalists = sorted(grid, key=lambda layout: -probes[layout]["rate"])[:3]
    rates = {}
    for layout in finalists:
        steps = steps_for(probes[layout]["rate"], members, seconds)
        outcome = benches[layout.devices].run(layout.width, layout.threads, steps)
        rates[layout] = members * steps / outcome.seconds
    return Search(probes, max(rates, key=rates.get), time.perf_counter() - started)


def steps_for(rate: float, members: int, seconds: float) -> int:
    """The steps that all members make in about so many seconds."""
    return int(np.clip(seconds * rate / members, COMPARED, MOST_STEPS))
