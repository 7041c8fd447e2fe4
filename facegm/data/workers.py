"""Processes that decode ahead: how they begin, and how they end, whatever they or the system are busy with."""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import TypeVar

import cv2
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from facegm.errors import FacegmError

Item = TypeVar("Item")
_FAILURES = re.compile(r"DataLoader worker \(pid|Pin memory thread|received 0 items of ancdata|Too many open files")
"""What torch says of a worker that has died, and of a batch that cannot be taken over from one."""


def start_worker(_: int) -> None:
    """Prepare a new worker process, within it."""
    cv2.setNumThreads(0)  # the workers share the processors among themselves
    # A signal to all processes of a group is the main one's to act on, which may want a batch more of its workers. So
    # they leave the group, and die of a signal that is meant for them: the main one ends those that do not end.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # A batch that cannot be handed over would be lost, and the main process wait for it for ever.
    setattr(Queue, "_on_queue_feeder_error", staticmethod(_die))  # noqa: B010 - not in the standard library's stubs
    # The thread that hands over batches would show a trace where the main process breaks off to stop.
    sys.excepthook = lambda *_: None


def _die(error: Exception, _: object) -> None:
    os.write(2, f"a process that decodes images cannot hand over a batch: {error}\n".encode(errors="replace"))
    os._exit(1)


@contextmanager
def ended_workers(loader: DataLoader[Item]) -> Iterator[Iterator[Item]]:
    """What a loader gives; at the context's end its workers end at once, also those that wait for a disk.

    torch would wait 5 seconds for each of them.
    """
    items = iter(loader)
    try:
        yield items
    finally:
        is_main_thread = threading.current_thread() is threading.main_thread()  # others have no say over signals
        if isinstance(items, _MultiProcessingDataLoaderIter) and is_main_thread:
            watch = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own would take it for a failure
            for worker in items._workers:
                worker.terminate()
            items._shutdown_workers()
            signal.signal(signal.SIGCHLD, watch)


@contextmanager
def named_worker_failures(*, has_workers: bool = False) -> Iterator[None]:
    """Say what to do where a worker has died, which torch tells at any moment after, or cannot hand over a batch.

    Args:
        has_workers: whether what the system refuses here is something of a worker's.

    Raises:
        FacegmError: in place of torch's or the system's error.
    """
    try:
        yield
    except (RuntimeError, EOFError, OSError) as error:
        text = _failure_behind(error) or str(error) or type(error).__name__
        is_of_dataset = text.startswith("Caught ")  # an error in a worker's own work comes with its trace
        is_of_system = has_workers and not isinstance(error, RuntimeError)
        if is_of_dataset or not (is_of_system or _FAILURES.search(text)):
            raise
        reason = text.splitlines()[0].split(". ")[0].rstrip(". ")
        raise FacegmError(
            f"a process that decodes images has ended, or cannot hand over its images ({reason}): most likely memory "
            "was short; lower data.workers, give the machine or container more (docker run --memory, --shm-size; "
            "ulimit -n for files), or keep decoded images in memory (data.residency). The same command goes on from "
            "the newest checkpoint"
        ) from error


def _failure_behind(error: BaseException) -> str | None:
    """What torch said of a worker while something else went on, such as the writing of a file, which failed of it."""
    behind = error.__context__
    while behind is not None:
        if _FAILURES.search(str(behind)):
            return str(behind)
        behind = behind.__context__
    return None
