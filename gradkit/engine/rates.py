"""What widths were measured to reach, kept in a file per program in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any, NamedTuple

import jax
import jaxlib

from gradkit import folders, settings
from gradkit.engine.plan import Plan, num_cores
from gradkit.engine.runs import Run

VERSION = 1  # of the engine's segment and of the file: raise it where either changes


MOST = 1e18  # of anything that is measured
MOST_WIDTH = 2**24


class Sample(NamedTuple):
    """What was measured at one width.

    Attributes:
        rate: Member-steps per second, with all threads at work.
        compile_seconds: From the first trace to the compiled programs.
        num_bytes: Arguments, results and temporaries of a chunk; ``None`` if the compiler does not tell.
    """

    rate: float
    compile_seconds: float
    num_bytes: int | None


def fingerprint(run: Run, settled: Plan) -> str:
    """A digest of all that the rates depend on: the step, the shapes, the devices, the cores, the settings, the versions."""
    shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), (run.outline.state, run.source.example()))
    machine = (settled.devices[0].device_kind, len(settled.devices), settled.spans, settled.threads, num_cores())
    versions = (jax.__version__, jaxlib.__version__, VERSION)
    told = (run.outline.digest, shapes, run.program.is_ordered, machine, settings.current(), versions)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def _path(name: str):
    folder = folders.cache_folder()
    return None if folder is None else folder / "rates" / f"{name}.json"


def load(name: str) -> dict[int, Sample]:
    """The samples of a fingerprint; empty if there are none. A file that holds anything else is dropped."""
    path = _path(name)
    if path is None or not path.exists():
        return {}
    try:
        return {_width(width): _sample(*values) for width, values in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        with contextlib.suppress(OSError):
            path.unlink()
        return {}


def _width(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MOST_WIDTH):
        raise ValueError(text)
    return int(text)


def _sample(rate: Any, compile_seconds: Any, num_bytes: Any) -> Sample:
    """A sample of numbers that can be measured."""
    is_whole = num_bytes is None or (type(num_bytes) is int and 0 <= num_bytes < MOST)
    is_time = type(compile_seconds) in (int, float) and 0 <= compile_seconds < MOST
    if not (type(rate) in (int, float) and 0 < rate < MOST and is_time and is_whole):
        raise ValueError(rate, compile_seconds, num_bytes)
    return Sample(float(rate), float(compile_seconds), num_bytes)


def save(name: str, samples: dict[int, Sample]):
    """Keep the samples, whole or not at all; a folder that cannot be written is no error."""
    path = _path(name)
    if path is None or not samples:
        return
    scratch = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(samples))
        scratch.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
