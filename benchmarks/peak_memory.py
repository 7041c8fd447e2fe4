"""How much memory a computation takes at its peak beyond what there was before."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

ENVIRONMENT = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""For a process that measures: what is freed goes back to the system at once, and counts no longer."""


def peak_bytes(way: Callable[[], object]) -> int:
    """Bytes at the peak of one run: of the GPU's allocator, or else of this process as the kernel counts them."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        way()
        return torch.cuda.max_memory_allocated() - before
    before = resident_bytes()
    reset_peak()
    way()
    return resident_bytes("VmHWM") - before


def reset_peak() -> None:
    """Let the most that this process held begin anew with what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM, the high-water mark, to VmRSS


def resident_bytes(field: str = "VmRSS") -> int:
    """Bytes of memory that this process holds now, or by `VmHWM` held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
