"""The limits of control groups, from files as the kernel writes them."""

import math
import os
import pathlib

import pytest

from gradkit.engine import cgroups, memory
from gradkit.engine import plan as plans

GIB = 2**30


@pytest.fixture
def system(tmp_path):
    """``system(membership, {path: content})``: the files of a system, and where they are."""

    def write(membership, files):
        (tmp_path / "self").write_text(membership)
        for name, content in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return tmp_path / "fs", tmp_path / "self"

    return write


V1 = "12:memory:/jobs/7\n4:cpu,cpuacct:/jobs/7\n1:name=systemd:/jobs/7\n"
CASES = {
    "no limit, version 2": ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, math.inf, math.inf),
    "version 2": ("0::/job\n", {"job/cpu.max": "150000 100000", "job/memory.max": 3 * GIB}, 1.5, 3 * GIB),
    "a group above is tighter": (
        "0::/slice/job\n",
        {
            "slice/job/cpu.max": "max 100000",
            "slice/cpu.max": "200000 100000",
            "slice/job/memory.max": 8 * GIB,
            "slice/memory.max": 2 * GIB,
        },
        2.0,
        2 * GIB,
    ),
    "a container sees its own group as the root": ("0::/far/away\n", {"cpu.max": "50000 100000", "memory.max": GIB}, 0.5, GIB),
    "throttled before it is killed": ("0::/job\n", {"job/memory.max": 4 * GIB, "job/memory.high": GIB}, math.inf, GIB),
    "version 1": (
        V1,
        {
            "cpu,cpuacct/jobs/7/cpu.cfs_quota_us": 300000,
            "cpu,cpuacct/jobs/7/cpu.cfs_period_us": 100000,
            "memory/jobs/7/memory.limit_in_bytes": 9223372036854771712,
            "memory/jobs/memory.limit_in_bytes": 5 * GIB,
        },
        3.0,
        5 * GIB,
    ),
    "version 1 without a quota, linked by one name": (
        V1,
        {
            "cpu/jobs/7/cpu.cfs_quota_us": -1,
            "cpu/jobs/7/cpu.cfs_period_us": 100000,
            "cpu/jobs/cpu.cfs_quota_us": 100000,
            "cpu/jobs/cpu.cfs_period_us": 50000,
        },
        2.0,
        math.inf,
    ),
    "both versions": (
        "5:memory:/a\n0::/b\n",
        {"memory/a/memory.limit_in_bytes": GIB, "b/cpu.max": "400000 100000"},
        4.0,
        GIB,
    ),
    "no files": ("0::/job\n", {}, math.inf, math.inf),
    "nonsense": ("0::/job\n", {"job/cpu.max": "0 0", "job/memory.max": "much"}, math.inf, math.inf),
    "a group's name with a colon": ("0::/a:b\n", {"a:b/cpu.max": "100000 100000"}, 1.0, math.inf),
}


@pytest.mark.parametrize(("membership", "files", "cores", "num_bytes"), list(CASES.values()), ids=list(CASES))
def test_limits_are_the_least_of_a_group_and_those_above_it(system, membership, files, cores, num_bytes):
    where = system(membership, files)
    assert cgroups.cores(*where) == cores
    assert cgroups.num_bytes(*where) == num_bytes


def test_a_system_without_groups_has_no_limits(tmp_path):
    assert cgroups.cores(tmp_path, tmp_path / "none") == cgroups.num_bytes(tmp_path, tmp_path / "none") == math.inf


def test_cores_and_memory_of_a_plan_stay_within_the_limits(system, monkeypatch):
    class Cpu:
        platform = "cpu"

        def memory_stats(self):
            return None

    root, membership = system("0::/job\n", {"job/cpu.max": "150000 100000", "job/memory.max": 2**20})
    for name, here in (("cores", cgroups.cores), ("num_bytes", cgroups.num_bytes)):
        monkeypatch.setattr(cgroups, name, lambda here=here: here(root, membership))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)
    assert plans.num_cores() == 2
    assert memory.available(Cpu()) == memory.SHARE * 2**20
    (pathlib.Path(root) / "job" / "cpu.max").write_text("1000 100000\n")
    assert plans.num_cores() == 1
    (pathlib.Path(root) / "job" / "cpu.max").write_text("max 100000\n")
    assert plans.num_cores() == 8
