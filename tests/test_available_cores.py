"""Threads follow the processor cores that a process may use, not those that the machine has."""

import math
import os

import pytest

from gantry.benchmark.pool import available
from gantry.envs.batch import threads_for
from gantry.machine import cores
from gantry.machine.cores import available_cores, cpu_quota


@pytest.fixture
def groups(tmp_path):
    """A folder in place of /sys/fs/cgroup, with a process in a group of a group."""
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    membership = tmp_path / "membership"
    membership.write_text("1:cpu:/else\n0::/outer/inner\n")
    return tmp_path, membership


def test_smallest_quota_of_the_groups_counts(groups):
    root, membership = groups
    assert cpu_quota(root, membership) == math.inf
    (root / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(root, membership) == math.inf
    (root / "outer" / "inner" / "cpu.max").write_text("350000 100000\n")
    assert cpu_quota(root, membership) == 3.5
    (root / "outer" / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(root, membership) == 1.5
    (root / "outer" / "cpu.max").write_text("nonsense\n")
    assert cpu_quota(root, membership) == 3.5


def test_quota_of_the_first_version_of_control_groups(groups):
    root, membership = groups
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for limit, quota in (("-1\n", math.inf), ("200000\n", 2.0)):
        (root / "cpu" / "cpu.cfs_quota_us").write_text(limit)
        assert cpu_quota(root, membership) == quota
    assert cpu_quota(root / "none", root / "none") == math.inf


def test_threads_follow_affinity_and_quota(groups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "CGROUPS", groups[0])
    assert available_cores() == 8
    assert threads_for(256) == 8
    (groups[0] / "cpu.max").write_text("250000 100000\n")
    assert available_cores() == len(available()) == 3
    (groups[0] / "cpu.max").write_text("20000 100000\n")
    assert available_cores() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert threads_for(256) == 1
