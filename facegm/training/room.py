"""Whether the system has room for the batches on their way from workers, which would end in the middle of the run."""

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from facegm.data.samples import Samples
from facegm.errors import FacegmError

SHARED_MEMORY = Path("/dev/shm")
"""What workers hand over their batches in, where the system has it."""
BATCHES_OF_A_WORKER = 3
"""Batches of each worker that are in shared memory at a time: two ahead, and one in use."""
FILES_OF_A_WORKER = 8 * BATCHES_OF_A_WORKER + 4
"""Files that a process has open for each of its workers: those of the tensors of its batches, and pipes."""
OTHER_FILES = 64
"""Files that a process has open beside."""


def check_room(streamed: Sequence[tuple[Samples, int]], workers: int) -> None:
    """Refuse more batches on their way than shared memory and open files there is room for.

    Args:
        streamed: data sets that workers load, and of each the images of a batch, of all processes of this machine.
        workers: of each process, for each data set.

    Raises:
        FacegmError: there is too little; the message says how to get more.
    """
    if streamed and workers:
        _check_shared_memory(sum(samples.image_bytes * images for samples, images in streamed), workers)
        _check_open_files(OTHER_FILES + FILES_OF_A_WORKER * workers * len(streamed), workers)


def _check_shared_memory(batch_bytes: int, workers: int) -> None:
    if not SHARED_MEMORY.is_dir():
        return
    need, found = batch_bytes * workers * BATCHES_OF_A_WORKER, os.statvfs(SHARED_MEMORY)
    if found.f_bavail * found.f_frsize < need:
        raise FacegmError(
            f"{SHARED_MEMORY} has {found.f_bavail * found.f_frsize / 1e6:.0f} MB free, but {workers} worker(s) have "
            f"{need / 1e6:.0f} MB of batches on their way: give the container more (docker run --shm-size="
            f"{max(1, round(2 * need / 1e9))}g), or lower data.workers (0 needs none)"
        )


def _check_open_files(need: int, workers: int) -> None:
    """Raise this process's own limit as far as it may."""
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != limit < need:
        if resource.RLIM_INFINITY != highest < need:
            raise FacegmError(
                f"this process may have {highest} files open, but takes over the batches of {workers} worker(s) by "
                f"{need}: raise the limit (ulimit -n {2 * need}; docker run --ulimit nofile={2 * need}), or lower "
                "data.workers (0 needs none)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, highest))
