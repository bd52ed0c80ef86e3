"""How members are laid out: lanes in a chunk, chunks in flight, devices per chunk. Numbers in, a ``Plan`` out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from gradkit import checks, travels
from gradkit.engine import cgroups

CACHE_BYTES = 2**20  # fast memory of one core: what the lanes of a chunk should fit into
WORKING_SHARE = 4 / 3  # a state (parameters and two moments) and the gradient beside it
LANES_ON_ACCELERATOR = 1024


class ProgramPlan(NamedTuple):
    """The layout of the members of one program.

    Attributes:
        name: What tells it from the other programs, in words.
        fingerprint: Of the program, the shapes it meets, the device and the versions.
        num_members: Members.
        widths: Lanes per device: from the start on, and after each rung of a halving.
        num_chunks: Chunks from the start on.
        rates: What was measured, ``{width: member-steps per second}``; empty if nothing was.
        num_bytes: Memory that a chunk needs, or ``None`` if unknown.
        compile_seconds, run_seconds: Estimates, or ``None`` if nothing was measured.
    """

    name: str
    fingerprint: str
    num_members: int
    widths: tuple[int, ...]
    num_chunks: int
    rates: dict[int, float] = {}  # noqa: RUF012
    num_bytes: int | None = None
    compile_seconds: float | None = None
    run_seconds: float | None = None


class Plan(NamedTuple):
    """How a sweep is laid out; what is ``None`` is settled for the machine. ``print`` it.

    Attributes:
        width: Members that one device runs side by side in a chunk; 1 is the loop without vmap. Results depend on it in the
            last bits. ``None`` after settling where programs differ: see ``programs``.
        threads: Chunks in flight at once; changes no bit.
        devices: The devices that share the work.
        spans: Whether each chunk spans all devices, ``width`` lanes on each, in one program (by default on accelerators), or each
            device takes chunks of its own (by default on CPUs). Without spanning, the number of devices changes no bit; the
            program of a spanning chunk comes from XLA's partitioner and may differ in the last bits from that of one device.
        programs: One entry per program, once settled. A plan that has them fits one sweep on one machine.
        planning_seconds: What it took to measure.

    With keys of another generator than jax's default (``rbg``), draws under ``vmap`` depend on the neighbors: only a width of 1
    keeps the promises about bits.
    """

    width: int | None = None
    threads: int | None = None
    devices: tuple[jax.Device, ...] | None = None
    spans: bool | None = None
    programs: tuple[ProgramPlan, ...] = ()
    planning_seconds: float = 0.0

    def lanes(self, width: int) -> int:
        """Members in a chunk of a width, padding included."""
        return width * (len(self.devices) if self.spans else 1)

    @property
    def run_seconds(self) -> float | None:
        """Estimate of the whole run without compilation; ``None`` if nothing was measured."""
        seconds = [program.run_seconds for program in self.programs]
        return None if None in seconds or not seconds else sum(seconds)

    def __reduce__(self):
        """Devices travel by their names; one that is not there arrives as its name, and is refused when the plan is used."""
        devices = self.devices and tuple(map(travels.device_name, self.devices))
        return Plan, tuple(self._replace(devices=devices))

    def __copy__(self) -> Plan:
        return self

    def __deepcopy__(self, memo) -> Plan:
        return self

    def __str__(self) -> str:
        if not self.programs:
            given = {name: value for name, value in zip(self._fields[:4], self) if value is not None}
            return f"Plan, not settled yet: {given or 'everything is left to the machine'}"
        return _table(self)


def _table(plan: Plan) -> str:
    device = plan.devices[0]
    where = f"{_count(len(plan.devices), device.platform + ' device')} ({getattr(device, 'device_kind', '')})"
    how = "each chunk spans all devices" if plan.spans else f"{_count(plan.threads, 'chunk')} in flight"
    members = sum(program.num_members for program in plan.programs)
    head = f"{_count(members, 'member')} in {_count(len(plan.programs), 'program')} on {where}; {how}"
    columns = ("program", "members", "width", "chunks", "memory", "compile", "run", "measured (member-steps/s)")
    rows = [columns, *(_row(program) for program in plan.programs)]
    sizes = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, sizes)).rstrip() for row in rows]
    if plan.planning_seconds:
        lines.append(f"planned in {plan.planning_seconds:.1f} s")
    return "\n".join([head, *lines])


def _row(program: ProgramPlan) -> tuple[str, ...]:
    rates = ", ".join(f"{width}: {rate:,.0f}" for width, rate in sorted(program.rates.items()))
    return (
        program.name,
        str(program.num_members),
        " > ".join(str(width) for width in program.widths),
        str(program.num_chunks),
        "?" if program.num_bytes is None else f"{program.num_bytes / 2**20:.3g} MiB",
        "?" if program.compile_seconds is None else f"{program.compile_seconds:.1f} s",
        "?" if program.run_seconds is None else f"{program.run_seconds:.3g} s",
        rates or "nothing",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def settle(plan: Plan) -> Plan:
    """Fill in devices, threads and spanning.

    Raises:
        TypeError: If ``width`` or ``threads`` is not a whole number.
        ValueError: If one of them is below 1, or there is no device.
    """
    devices = tuple(jax.local_devices()) if plan.devices is None else tuple(plan.devices)
    checks.require(len(devices) > 0, "plan.devices", "name a device", devices, "Leave it out to use all local ones.")
    missing = [device for device in devices if isinstance(device, travels.DeviceName)]
    checks.require(not missing, "plan.devices", "be there", checks.Described(", ".join(map(str, missing))),
                   "The plan was made elsewhere: give gk.Plan(width=...) alone.")  # fmt: skip
    is_cpu = devices[0].platform == "cpu"
    spans = len(devices) > 1 and (not is_cpu if plan.spans is None else plan.spans)
    usual_threads = 1 if spans else max(len(devices), num_cores() if is_cpu else 1)
    threads = usual_threads if plan.threads is None else plan.threads
    threads = checks.whole_number("plan.threads", threads, at_least=1, remedy="It counts the chunks in flight.")
    if plan.width is not None:
        remedy = "It counts the members side by side on a device."
        plan = plan._replace(width=checks.whole_number("plan.width", plan.width, at_least=1, remedy=remedy))
    return plan._replace(threads=threads, devices=devices, spans=spans)


def guess(plan: Plan, num_members: int, state_bytes: int, largest: int = 0) -> int:
    """A first width: a power of two whose lanes fit the cache of a core, and leaves no core idle.

    Args:
        plan: With devices and threads.
        num_members: Members.
        state_bytes: Of one member.
        largest: Bytes of the largest value that a step of one member makes.
    """
    is_cpu = plan.devices[0].platform == "cpu"
    lanes = _fitting_lanes(state_bytes * WORKING_SHARE + largest) if is_cpu else LANES_ON_ACCELERATOR
    return min(lanes, most(plan, num_members))


def most(plan: Plan, num_members: int) -> int:
    """The widest chunk that leaves no thread and no device idle."""
    share = -(-num_members // (len(plan.devices) if plan.spans else 1))
    return -(-share // plan.threads)


def num_cores() -> int:
    """Cores that this process may use: threads that send chunks to the one CPU device keep them all busy."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, cgroups.cores())))


def _fitting_lanes(lane_bytes: float) -> int:
    return 2 ** int(np.log2(max(CACHE_BYTES / max(lane_bytes, 1), 1)))


def lay_out(members: Sequence[int] | np.ndarray, lanes: int) -> np.ndarray:
    """Cut members into chunks of a fixed number of lanes, the last one padded with its last member.

    Returns:
        int array of shape (num_chunks, lanes): the member in each lane.

    >>> lay_out([0, 1, 2, 3, 4], 2).tolist()
    [[0, 1], [2, 3], [4, 4]]
    """
    num_chunks = -(-len(members) // lanes)
    return np.pad(np.asarray(members), (0, num_chunks * lanes - len(members)), mode="edge").reshape(num_chunks, lanes)
