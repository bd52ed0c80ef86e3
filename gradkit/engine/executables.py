"""The executables of a run: compiled once per program and device, and on CPUs once more for each chunk in flight.

Two calls at a time of the same executable slow each other down on a CPU: 7 % on a network with batch norm, 0 to 3 % on others
(``experiments/bench/README.md``). So each chunk in flight gets a copy of its own, once the run has lasted long enough.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import jax

from gradkit.engine import chunk as chunks
from gradkit.engine import comparisons
from gradkit.engine.chunk import Chunk
from gradkit.engine.programs import Program

COPY_PAYS = 10  # a run that has lasted so many compilations of its program compiles copies of it


class Executables:
    """What is compiled, and what is called right now; shared by the threads of a run."""

    def __init__(self):
        self._started = time.perf_counter()
        self._ready: set[tuple] = set()  # programs, devices and copies
        self._called: dict[tuple, set[int]] = defaultdict(set)  # copies, by program and device
        self._compiling, self._choosing = threading.Lock(), threading.Lock()

    def make_ready(self, chunk: Chunk):
        """Give a chunk its first state; the first one of a program compiles it, while others wait."""
        key = (*_key(chunk), 0)
        with contextlib.nullcontext() if key in self._ready else self._compiling:
            is_new = chunk.state is None
            if is_new:
                chunks.begin(chunk)
            if key not in self._ready:
                self._compile(key, chunks.compile, chunk)
        if is_new:
            comparisons.look_at_start(chunk)

    @contextlib.contextmanager
    def lend(self, chunk: Chunk) -> Iterator[None]:
        """Let a chunk call a copy that no other one calls meanwhile, or the first one until there is such a copy."""
        with self._choosing:
            called = self._called[_key(chunk)]
            copy = next(number for number in itertools.count() if number not in called)
            called.add(copy)
        try:
            chunk.copy = copy if self._is_there(chunk, copy) else 0
            yield
        finally:
            with self._choosing:
                called.remove(copy)

    def _is_there(self, chunk: Chunk, copy: int) -> bool:
        """Whether there is such a copy; it is compiled where that pays, and nobody waits for that."""
        key, known = (*_key(chunk), copy), _seconds(*_key(chunk))
        if key in self._ready:
            return True
        is_due = copy in known or time.perf_counter() - self._started > COPY_PAYS * known.get(0, math.inf)
        if not (_is_on_cpu(chunk) and is_due and self._compiling.acquire(blocking=False)):
            return False
        try:
            chunk.copy = copy
            self._compile(key, chunks.compile_segment, chunk)
        finally:
            self._compiling.release()
        return True

    def _compile(self, key: tuple, function: Callable, chunk: Chunk):
        started = time.perf_counter()
        function(chunk)
        *program_and_device, copy = key
        known = _seconds(*program_and_device)
        known[copy] = max(known.get(copy, 0), time.perf_counter() - started)
        self._ready.add(key)


def _seconds(program: Program, device: jax.Device | None) -> dict[int, float]:
    """What compiling each copy took, the longest time of all runs in this process: a short run makes no copies of its own."""
    return program.kept.once(("seconds", program.split, program.width, program.mesh, device), dict)


def _key(chunk: Chunk) -> tuple:
    return chunk.run.program, chunk.run.device


def _is_on_cpu(chunk: Chunk) -> bool:
    return (chunk.run.device or jax.local_devices()[0]).platform == "cpu"
