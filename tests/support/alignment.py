"""`facegm align` in a process that begins at once, as the leader of a group that its workers belong to."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from forks import forks

if TYPE_CHECKING:  # slow to import
    import numpy as np

    from facegm.align.photo_job import Groups, PhotoJob

Outcome = TypeVar("Outcome")


DYING = 10.0
"""Seconds that are given to killed processes."""


class Alignment:
    """An alignment, begun.

    Args:
        arguments: of `facegm align`.
        folder: working folder.
        batch: photos that are looked at together, and whose results are recorded together; None for as many as ever.
        killing: bytes of a photo that kill the worker that decodes them, by SIGKILL.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, *, batch: int | None = None, killing: bytes | None = None
    ) -> None:
        self._process = forks().Process(target=_align, args=(list(arguments), folder, batch, killing))
        self._process.start()

    def poll(self) -> int | None:
        """Its exit code, once it has ended; of a signal, minus its number."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int | None:
        """Its exit code; None where it has not ended after so many seconds."""
        self._process.join(timeout)
        return self._process.exitcode

    def kill_group(self) -> None:
        """Kill it and its workers by SIGKILL, if it has not ended, and wait for the end of all.

        Workers that are forked, as here, share its locks until they are gone.
        """
        self.signal_group(signal.SIGKILL)
        self._process.join()
        end = time.monotonic() + DYING
        while _has_members(self._process.pid or 0) and time.monotonic() < end:
            time.sleep(0.001)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to it and its workers, as a terminal does, if it has not ended."""
        assert self._process.pid is not None
        while self.poll() is None and os.getpgid(self._process.pid) != self._process.pid:
            time.sleep(0.001)  # it does not lead its group yet
        if self.poll() is None:
            os.killpg(self._process.pid, number)


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def warm_up() -> None:
    """Have the process that others are forked from import what they need, so that the first begins at once too."""
    first = forks().Process(target=os.getpid)
    first.start()
    first.join()


def kill_at(mark: bytes) -> None:
    """From now on, decoding a photo that holds these bytes kills this process and those forked from it."""
    from facegm.align import worker
    from facegm.data.decoding import decode

    def decode_or_die(data: bytes) -> "tuple[np.ndarray, int]":
        if mark in data:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(data)

    worker.decode = decode_or_die  # type: ignore[attr-defined]


def _align(arguments: list[str], folder: Path, batch: int | None, killing: bytes | None) -> None:
    from facegm.align import engines, pipeline
    from facegm.cli import main

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    # Forked from here and not begun anew, where torch would have to be imported anew, too.
    engines.get_context = lambda _: multiprocessing.get_context("fork")  # type: ignore[attr-defined,assignment]
    if batch is not None:
        engines.SPAN, pipeline.BATCH = 1, batch  # type: ignore[attr-defined]
    if killing is not None:
        kill_at(killing)
    sys.exit(main(["align", *arguments]))


class InThisProcess(Generic[Outcome]):
    """Stands in for `facegm.align.engines.LocalWorker`: works in the thread that would wait for a process."""

    def __init__(self, _: object, job: "PhotoJob[Outcome]", gpu: int) -> None:
        self._job, self._gpu = job, gpu

    def wait_until_ready(self) -> None:
        self._processor = self._job.begin(self._gpu)

    def process(self, groups: "Groups") -> "Iterator[list[Outcome]]":
        return self._processor.process(groups)

    def check(self) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...
