"""Where the decoded images of a data set are kept during training."""

import os
from pathlib import Path
from typing import Literal

import torch

Residency = Literal["device", "host", "stream"]
"""Decoded on the GPU; decoded in the host's memory; or decoded anew in every epoch by worker processes."""

SHARE = 0.5
"""Of the memory that is free, how much decoded images may take."""


def choose_residency(asked: Residency | Literal["auto"], size: int, device: torch.device, processes: int) -> Residency:
    """The place that is asked for, or the fastest that has room.

    Args:
        asked: `data.residency` of a configuration.
        size: bytes of all decoded images.
        device: where the network is.
        processes: how many processes of this machine keep images.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda" and size <= SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "host" if size <= SHARE * free_memory() / processes else "stream"


def free_memory() -> float:
    """Bytes that this machine could give to new data, and this process group may have."""
    free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    for limit in _lines("/sys/fs/cgroup/memory.max"):  # that of a container
        if limit.isdigit():
            free = min(free, float(limit))
    return free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
