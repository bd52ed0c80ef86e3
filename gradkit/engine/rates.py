"""What widths were measured to reach, kept in a file per program in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from typing import NamedTuple

import jax
import jaxlib

from gradkit import folders, settings
from gradkit.engine.plan import Plan, num_cores
from gradkit.engine.runs import Run

VERSION = 1  # of the engine's segment and of the file: raise it where either changes


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
    """The samples of a fingerprint; empty if there are none, or none that can be read."""
    path = _path(name)
    try:
        told = json.loads(path.read_text()) if path else {}
        return {int(width): Sample(*values) for width, values in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save(name: str, samples: dict[int, Sample]):
    """Keep the samples, whole or not at all; a folder that cannot be written is no error."""
    path = _path(name)
    if path is None or not samples:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(samples))
        scratch.replace(path)
    except OSError:
        return
