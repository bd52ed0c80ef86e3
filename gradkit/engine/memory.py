"""The memory that a chunk needs: what the compiler says at the widths compiled, a line between and beyond them."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from gradkit import checks, trees
from gradkit.engine import cgroups
from gradkit.engine.plan import Plan
from gradkit.engine.rates import Sample
from gradkit.engine.runs import Run

SHARE = 0.9  # of a device's free memory, or of a computer's memory, that a run may fill
STATES_HELD = 2  # of a chunk at once: the state at the start of a segment, and the one that moves

EXHAUSTED = re.compile("RESOURCE_EXHAUSTED|out.of.memory", re.IGNORECASE)


def num_bytes(compiled: Any) -> int | None:
    """Arguments, results and temporaries of a compiled program; ``None`` where the compiler does not tell."""
    told = compiled.memory_analysis()
    if told is None:
        return None
    held = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes - told.alias_size_in_bytes
    return int(held)


def of_chunk(run: Run, settled: Plan, width: int, samples: dict[int, Sample]) -> int:
    """Bytes of one chunk at a width: on the line through two measured widths, or at least what its states take."""
    state = trees.num_bytes(run.outline.state)
    growth = run.num_steps * trees.num_bytes(run.outline.growth)
    least = width * (STATES_HELD * state + growth)
    known = {each: sample.num_bytes for each, sample in samples.items() if sample.num_bytes}
    if not known:
        return least
    if len(known) == 1:
        [(only, told)] = known.items()
        return max(least, int(told * max(width / only, 1)))
    slope, fixed = np.polyfit(list(known), list(known.values()), 1)
    return max(least, round(fixed + slope * width))


def is_exhausted(error: Exception) -> bool:
    """Whether an error of the compiler or the runtime says that memory ran out; on a CPU its code may be ``INTERNAL``."""
    return EXHAUSTED.search(str(error)) is not None


def fits(run: Run, settled: Plan, width: int, samples: dict[int, Sample]) -> bool:
    """Whether all chunks in flight at that width have room on each device."""
    limit = available(settled.devices[0])
    per_device = 1 if settled.spans else -(-settled.threads // len(settled.devices))
    return limit is None or per_device * of_chunk(run, settled, width, samples) <= limit


def check(run: Run, settled: Plan, width: int, samples: dict[int, Sample]):
    """Refuse a width that cannot fit."""
    needed, limit = of_chunk(run, settled, width, samples), available(settled.devices[0])
    checks.require(fits(run, settled, width, samples), "plan.width",
                   f"fit the memory, {_gigabytes(limit)} for {settled.threads} chunks in flight",
                   checks.Described(f"{width}, which needs {_gigabytes(needed)} a chunk"),
                   "Leave it out, make it smaller, or give gk.Plan(threads=1).")  # fmt: skip


def _gigabytes(number: float | int | None) -> str:
    return "?" if number is None else f"{number / 2**30:.3g} GiB"


def available(device: Any) -> float | None:
    """Bytes that a run may use on a device; ``None`` if unknown."""
    told = device.memory_stats()
    if told and "bytes_limit" in told:
        return SHARE * (told["bytes_limit"] - told.get("bytes_in_use", 0))
    if device.platform == "cpu" and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return SHARE * min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), cgroups.num_bytes())
    return None
