"""What a control group allows: cores and bytes, read from its files. Containers and batch systems bound a process so.

A process is in a group of each hierarchy, whose limits and those of all groups above hold together. Version 2 has one hierarchy
(``cpu.max``, ``memory.max``), version 1 one per controller (``cpu.cfs_quota_us``, ``memory.limit_in_bytes``).

References:
    https://docs.kernel.org/admin-guide/cgroup-v2.html
    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Iterator

ROOT = pathlib.Path("/sys/fs/cgroup")
MEMBERSHIP = pathlib.Path("/proc/self/cgroup")
UNLIMITED = 2**60  # bytes; version 1 writes a number near 2**63 for no limit


def cores(root: pathlib.Path = ROOT, membership: pathlib.Path = MEMBERSHIP) -> float:
    """Cores that the groups of this process may keep busy, on average; infinite without a limit."""
    return _least(_cores, root, membership, "cpu")


def num_bytes(root: pathlib.Path = ROOT, membership: pathlib.Path = MEMBERSHIP) -> float:
    """Bytes that the groups of this process may hold; infinite without a limit."""
    return _least(_bytes, root, membership, "memory")


def _least(limit: Callable[[pathlib.Path], float], root: pathlib.Path, membership: pathlib.Path, controller: str) -> float:
    return min(map(limit, _folders(root, membership, controller)), default=math.inf)


def _folders(root: pathlib.Path, membership: pathlib.Path, controller: str) -> Iterator[pathlib.Path]:
    """The folders of the process's group and of those above it; in a container the group may be the root of what is seen."""
    for line in _text(membership).splitlines():
        number, controllers, path = line.split(":", 2)
        is_unified = number == "0" and not controllers
        if not (is_unified or controller in controllers.split(",")):
            continue
        for base in [root] if is_unified else [root / controller, root / controllers]:
            group = pathlib.PurePosixPath(path.lstrip("/"))
            yield from (base / each for each in (group, *group.parents))


def _cores(folder: pathlib.Path) -> float:
    quota, period = [*_text(folder / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    quota, period = _number(quota), _number(period)
    return quota / period if 0 < quota < math.inf and 0 < period < math.inf else math.inf


def _bytes(folder: pathlib.Path) -> float:
    limit = min(_number(_text(folder / name)) for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))
    return limit if 0 < limit < UNLIMITED else math.inf


def _number(text: str) -> float:
    """A number of a file; infinite for ``max``, for -1, and where there is none."""
    text = text.strip()
    return float(text) if text.isdecimal() else math.inf


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another system, another version, or not allowed
        return ""
