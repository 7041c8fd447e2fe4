"""Where the decoded images of a data set are kept during training, and their one copy in a machine's memory."""

import mmap
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from facegm.data.machine import free_memory
from facegm.data.progress import Progress
from facegm.errors import FacegmError

Residency = Literal["device", "host", "stream"]
"""Decoded on the GPU; decoded in the host's memory; or decoded anew in every epoch by worker processes."""

SHARE = 0.5
"""Of the memory that is free, how much decoded images may take."""
_BLOCK = 1024
"""Images that are decoded together."""

Image = UInt8[np.ndarray, "height width channels"]


def choose_residency(asked: Residency | Literal["auto"], size: float, device: torch.device) -> Residency:
    """The place that is asked for, or the fastest that has room in all processes of the run, all of which call it.

    Args:
        asked: `data.residency` of a configuration.
        size: bytes of all decoded images; infinite where they cannot be kept.
        device: where the network is.
    """
    if asked != "auto":
        return asked
    found: Residency = "host" if size <= SHARE * free_memory() else "stream"
    if device.type == "cuda" and size <= SHARE * torch.cuda.mem_get_info(device)[0]:
        found = "device"
    of_all, from_slowest = _gathered(found), get_args(Residency)[::-1]
    return next(place for place in from_slowest if place in of_all)


def decode_to(
    device: torch.device, load: Callable[[int], Image], count: int, shape: tuple[int, int, int]
) -> UInt8[Tensor, "images height width channels"]:
    """Decode images, of one size, into the memory of a device.

    Called by all processes of a run. On a CPU those of one machine share the memory, and each decodes a part.

    Args:
        device: where to.
        load: gives the image of a number.
        count: how many there are.
        shape: height, width and channels.

    Raises:
        FacegmError: an image is missing or damaged; all processes raise it.
    """
    if device.type != "cpu":
        images = torch.empty(count, *shape, dtype=torch.uint8, device=device)
        first, last = 0, count
    else:
        rank, size = _place_on_machine()
        images = _shared(count, shape)
        first, last = rank * count // size, (rank + 1) * count // size
    error = ""
    try:
        _decode(images, load, first, last)
    except FacegmError as found:
        error = str(found)
    errors = [found for found in _gathered(error) if found]  # none goes on before all have done their part
    if errors:
        raise FacegmError(errors[0])
    return images


def _decode(images: Tensor, load: Callable[[int], Image], first: int, last: int) -> None:
    with (
        ThreadPoolExecutor() as threads,
        Progress("decode", last - first, "images", is_shown=first == 0) as progress,
    ):
        for start in range(first, last, _BLOCK):  # all of those for a GPU would take as much of the host's memory
            end = min(start + _BLOCK, last)
            images[start:end] = torch.from_numpy(np.stack([*threads.map(load, range(start, end))]))
            progress.update(end - start)


def _shared(count: int, shape: tuple[int, int, int]) -> UInt8[Tensor, "images height width channels"]:
    """Memory that all processes of this machine write and read.

    It is a file without a name, which takes none of /dev/shm, of which containers have little.
    """
    size = count * int(np.prod(shape))
    if not _are_several():
        return torch.empty(count, *shape, dtype=torch.uint8)
    rank, _ = _place_on_machine()
    file, name = (-1, "") if rank else _unnamed_file()
    if rank == 0:
        os.ftruncate(file, size)
    of_all = _gathered(name)
    with open(of_all[dist.get_rank() - rank], "r+b") as shared:
        memory = mmap.mmap(shared.fileno(), size)
    _gathered("")  # all have opened it
    if rank == 0:
        os.close(file)
        if not name.startswith("/proc/"):
            os.unlink(name)
    return torch.frombuffer(memory, dtype=torch.uint8).view(count, *shape)


def _unnamed_file() -> tuple[int, str]:
    """A file in memory, where the system has such, else a temporary one, and where other processes find it."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("facegm-images")
        return file, f"/proc/{os.getpid()}/fd/{file}"
    return tempfile.mkstemp()


def _are_several() -> bool:
    """Whether this is one of the processes of a run."""
    return dist.is_available() and dist.is_initialized()


def _place_on_machine() -> tuple[int, int]:
    """Number of this process among those of the run on this machine, and how many they are."""
    if not _are_several():
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _gathered(text: str) -> list[str]:
    """What each process of the run says, in the order of their ranks."""
    if not _are_several():
        return [text]
    texts = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return texts
