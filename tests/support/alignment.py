"""`facegm align` in a process that begins at once, as the leader of a group that its workers belong to."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from forks import forks


class Alignment:
    """An alignment, begun.

    Args:
        arguments: of `facegm align`.
        folder: working folder.
        batch: photos that are looked at together, and whose results are recorded together; None for as many as ever.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, *, batch: int | None = None) -> None:
        self._process = forks().Process(target=_align, args=(list(arguments), folder, batch))
        self._process.start()

    def poll(self) -> int | None:
        """Its exit code, once it has ended; of a signal, minus its number."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int | None:
        """Its exit code; None where it has not ended after so many seconds."""
        self._process.join(timeout)
        return self._process.exitcode

    def kill_group(self) -> None:
        """Kill it and its workers by SIGKILL, if it has not ended."""
        assert self._process.pid is not None
        while self.poll() is None and os.getpgid(self._process.pid) != self._process.pid:
            time.sleep(0.001)  # it does not lead its group yet
        if self.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()


def warm_up() -> None:
    """Have the process that others are forked from import what they need, so that the first begins at once too."""
    first = forks().Process(target=os.getpid)
    first.start()
    first.join()


def _align(arguments: list[str], folder: Path, batch: int | None) -> None:
    from facegm.align import engines, pipeline
    from facegm.cli import main

    os.setsid()
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    # Forked from here and not begun anew, where torch would have to be imported anew, too.
    engines.get_context = lambda _: multiprocessing.get_context("fork")  # type: ignore[attr-defined,assignment]
    if batch is not None:
        engines.SPAN, pipeline.BATCH = 1, batch  # type: ignore[attr-defined]
    sys.exit(main(["align", *arguments]))
