"""How members are laid out: lanes in a chunk, chunks in flight, devices per chunk. Numbers in, a ``Plan`` out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from gradkit import checks

CACHE_BYTES = 2**20  # fast memory of one core: what the lanes of a chunk should fit into
WORKING_SHARE = 4 / 3  # a state (parameters and two moments) and the gradient beside it
LANES_ON_ACCELERATOR = 1024


class Plan(NamedTuple):
    """How a sweep is laid out; what is ``None`` is settled for the machine.

    Attributes:
        width: Members that one device runs side by side in a chunk; 1 is the loop without vmap. Results depend on it in the
            last bits.
        threads: Chunks in flight at once; changes no bit.
        devices: The devices that share the work.
        spans: Whether each chunk spans all devices, ``width`` lanes on each, in one program (by default on accelerators), or each
            device takes chunks of its own (by default on CPUs). Without spanning, the number of devices changes no bit; the
            program of a spanning chunk comes from XLA's partitioner and may differ in the last bits from that of one device.

    With keys of another generator than jax's default (``rbg``), draws under ``vmap`` depend on the neighbors: only a width of 1
    keeps the promises about bits.
    """

    width: int | None = None
    threads: int | None = None
    devices: tuple[jax.Device, ...] | None = None
    spans: bool | None = None

    @property
    def lanes(self) -> int:
        """Members in one chunk, padding included."""
        return self.width * (len(self.devices) if self.spans else 1)


def settle(plan: Plan, num_members: int, state_bytes: int) -> Plan:
    """Fill in what a plan leaves open.

    The width is a power of two whose lanes fit the cache of a core, and leaves no core idle.

    Raises:
        TypeError: If ``width`` or ``threads`` is not a whole number.
        ValueError: If one of them is below 1, or there is no device.
    """
    devices = tuple(jax.local_devices()) if plan.devices is None else tuple(plan.devices)
    checks.require(len(devices) > 0, "plan.devices", "name a device", devices, "Leave it out to use all local ones.")
    is_cpu = devices[0].platform == "cpu"
    spans = len(devices) > 1 and (not is_cpu if plan.spans is None else plan.spans)
    usual_threads = 1 if spans else max(len(devices), _num_cores() if is_cpu else 1)
    threads = usual_threads if plan.threads is None else plan.threads
    threads = checks.whole_number("plan.threads", threads, at_least=1, remedy="It counts the chunks in flight.")
    share = -(-num_members // (len(devices) if spans else 1))
    if plan.width is None:
        width = min(LANES_ON_ACCELERATOR if not is_cpu else _fitting_lanes(state_bytes), -(-share // threads))
    else:
        remedy = "It counts the members side by side on a device."
        width = min(checks.whole_number("plan.width", plan.width, at_least=1, remedy=remedy), share)
    return Plan(width, threads, devices, spans)


def _num_cores() -> int:
    """Cores that this process may use: threads that send chunks to the one CPU device keep them all busy."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fitting_lanes(state_bytes: int) -> int:
    return 2 ** int(np.log2(max(CACHE_BYTES / (max(state_bytes, 1) * WORKING_SHARE), 1)))


def lay_out(members: Sequence[int], lanes: int) -> np.ndarray:
    """Cut members into chunks of a fixed number of lanes, the last one padded with its last member.

    Returns:
        int array of shape (num_chunks, lanes): the member in each lane.

    >>> lay_out([0, 1, 2, 3, 4], 2).tolist()
    [[0, 1], [2, 3], [4, 4]]
    """
    num_chunks = -(-len(members) // lanes)
    return np.pad(np.asarray(members), (0, num_chunks * lanes - len(members)), mode="edge").reshape(num_chunks, lanes)
