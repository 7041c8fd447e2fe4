"""The share of a machine that this process may use, a container's cores and memory included, and how it keeps it."""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ALIGNER_MEMORY = 1792 * 2**20
"""Bytes that one worker process of an alignment takes at most, on photos of any size; a test holds it to that."""

KEPT_BLOCK = 2**24
"""Bytes of the largest block of memory that such a process keeps when it is freed: what its networks make of faces, but
not large photos."""

ROOT = Path("/")
"""Where Linux keeps its files on processes and control groups, under `proc` and `sys`."""


def default_workers(root: Path = ROOT) -> int:
    """Worker processes of an alignment for which there are cores and memory; at least one."""
    return max(1, min(cores(root), int(free_memory(root) // ALIGNER_MEMORY)))


def cores(root: Path = ROOT) -> int:
    """Cores that this process may use: by its affinity, and by the time that its control groups are given.

    A part of a core counts as one, so that it is used.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups("cpu", root):
        quota, period = _quota(group)
        if quota > 0 and period > 0:  # -1 or "max": no limit
            found = min(found, math.ceil(quota / period))
    return found


def free_memory(root: Path = ROOT) -> float:
    """Bytes that this machine could give to new data, and the control groups of this process may still have."""
    free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    for group in _control_groups("memory", root):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if limit:
            used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes")
            free = min(free, max(0, limit - used + _reclaimable(group)))
    return free


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by instructions of its own; unknown, and False, before torch 2.11."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def keep_freed_memory(*, most: int | None = None) -> None:
    """Let glibc's allocator keep what is freed, for the whole process.

    Else each batch pays for the pages that the one before gave back: a third of the time of an aligner's networks.

    Args:
        most: bytes of the largest block that is kept, so that photos of all sizes do not add up; None for any.
    """
    if sys.platform == "linux" and hasattr(allocator := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4
        allocator.mallopt(*((m_mmap_max, 0) if most is None else (m_mmap_threshold, most)))
        allocator.mallopt(m_trim_threshold, 2**31 - 1)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control groups, of both versions, from its own up to the root.

    A container's own group often is the root that it sees, while `/proc/self/cgroup` names a path outside of it.
    """
    for line in _lines(root / "proc/self/cgroup") or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = mount / path.lstrip("/")
        yield group
        while group != mount and mount in group.parents:
            group = group.parent
            yield group


def _quota(group: Path) -> tuple[float, float]:
    """Microseconds of the processors in each period, and the period; 0 where there is no limit."""
    for line in _lines(group / "cpu.max"):
        quota, _, period = line.partition(" ")
        return float(quota) if quota.isdigit() else 0.0, float(period or 100_000)
    return _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")


def _reclaimable(group: Path) -> float:
    """Bytes of files that the kernel keeps for a group as long as nothing else wants the room."""
    names = ("inactive_file", "total_inactive_file")
    counts = [line.split() for line in _lines(group / "memory.stat")]
    return max((float(count) for name, count in counts if name in names), default=0.0)


def _number(path: Path) -> float:
    """What a file says; 0 where there is none, or where it says that there is no limit."""
    text = "".join(_lines(path)).strip()
    return float(text) if text.isdigit() else 0.0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
