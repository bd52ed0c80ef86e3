"""A library's first fits, in a process of its own: what they take besides a fit's time, and how much memory.

The arguments are a library, rows, features, trees and depth; a line of JSON flows out.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from experiments.bench.boosters import GRADKIT, Size, contenders, make_data
from gradkit.boosting import native

ROOT = pathlib.Path(__file__).absolute().parents[2]
STATUS = pathlib.Path("/proc/self/statm")


def ask(name: str, rows: int, features: int, size: Size, *, is_cold: bool = False) -> dict[str, float]:
    """The figures of a library: ``kernel``, ``first`` and ``second`` in seconds, ``memory`` in MiB above what held the data.

    Args:
        is_cold: Whether nothing that was compiled before may be used.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() if is_cold else contextlib.nullcontext() as folder:
        settings = os.environ | {"PYTHONPATH": path} | ({"GRADKIT_CACHE_DIR": folder} if folder else {})
        command = [sys.executable, "-m", "experiments.bench.boosting_probe", name, *map(str, (rows, features, *size))]
        told = subprocess.run(command, check=True, capture_output=True, text=True, env=settings)
    return json.loads(told.stdout.splitlines()[-1])


def resident() -> float:
    """Memory of this process in MiB; NaN where the system does not say."""
    try:
        return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return float("nan")


@contextlib.contextmanager
def watched():
    """Yields a function that says how far memory rose at most since the beginning."""
    start, seen, is_over = resident(), [], threading.Event()

    def watch():
        while not is_over.wait(0.002):
            seen.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: float(np.max([*seen, resident()]) - start)
    finally:
        is_over.set()
        thread.join()


def main() -> None:
    """Fit a thousand examples, so that all code is loaded; then twice the examples that were asked for."""
    name, (rows, features, trees, depth) = sys.argv[1], map(int, sys.argv[2:])
    own = next(each for each in contenders() if each.name == name)
    started = time.perf_counter()
    is_ours = name == GRADKIT and native.is_there()
    told = {"kernel": time.perf_counter() - started if is_ours else 0.0}
    own.fit(make_data(1000, features), Size(1, depth), 0.1)
    data = make_data(rows, features)
    for turn in ("first", "second"):
        with watched() as rise:
            started = time.perf_counter()
            own.fit(data, Size(trees, depth), 0.1)
            told[turn] = time.perf_counter() - started
            told.setdefault("memory", rise())
    print(json.dumps(told))


if __name__ == "__main__":
    main()
