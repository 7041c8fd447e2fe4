"""Protects a machine and a container from more workers than they have room for, as Linux tells it."""

import os
from pathlib import Path

import pytest

from facegm.data.machine import ALIGNER_MEMORY, cores, default_workers, free_memory

OWN = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
GIB = 2**30


def _machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 99999999 kB\nMemAvailable:    8388608 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    return 64


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
        # The group that this process is in, or one above it.
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "300000 50000\n"}, 6),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/other/cpu.max": "300000 100000\n"}, 64),
        # The first version, within a container that sees its own group as the root.
        (
            {
                "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/docker/7f\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            64,
        ),
    ],
)
def test_a_containers_share_of_the_processors_counts(
    tmp_path: Path, files: dict[str, str], expected: int, many_cores: int
) -> None:
    assert cores(_machine(tmp_path, files)) == expected


def test_affinity_counts(tmp_path: Path) -> None:
    assert cores(_machine(tmp_path, {})) == OWN


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 8 * GIB),
        ({"sys/fs/cgroup/memory.max": f"{99 * GIB}\n"}, 8 * GIB),
        ({"sys/fs/cgroup/memory.max": f"{4 * GIB}\n"}, 4 * GIB),
        # What the group has taken already, but for files that are kept because there is room.
        (
            {
                "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon {1 * GIB}\nfile {2 * GIB}\ninactive_file {2 * GIB}\n",
            },
            3 * GIB,
        ),
        (
            {
                "proc/self/cgroup": "3:memory:/docker/7f\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{5 * GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
                "sys/fs/cgroup/memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {1 * GIB}\n",
            },
            3 * GIB,
        ),
        (
            {"proc/self/cgroup": "3:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"},
            8 * GIB,
        ),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{2 * GIB}\n"}, 2 * GIB),
    ],
)
def test_a_containers_memory_counts(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    """Protects a container from what the machine would have room for, and it has not."""
    assert free_memory(_machine(tmp_path, files)) == expected


def test_where_the_system_has_no_such_files_all_is_known_still(tmp_path: Path) -> None:
    assert cores(tmp_path) == OWN
    assert 2**28 < free_memory(tmp_path) < 2**50
    assert 2**28 < free_memory() < 2**50


def test_there_are_as_many_workers_as_there_are_cores_and_memory_for(tmp_path: Path, many_cores: int) -> None:
    root = _machine(tmp_path, {"sys/fs/cgroup/cpu.max": "4000000 1000000\n"})
    assert default_workers(root) == 4
    for memory, workers in [(3 * ALIGNER_MEMORY, 3), (2 * ALIGNER_MEMORY - 1, 1), (1, 1)]:
        (root / "sys/fs/cgroup/memory.max").write_text(f"{memory}\n")
        assert default_workers(root) == workers
