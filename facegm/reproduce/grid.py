"""Does the cells of a grid side by side, each in a process of its own; several commands and machines may share one."""

import logging
import time
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from facegm.errors import FacegmError, StoppedError
from facegm.reproduce.cells import TAKEN_EXIT_CODE, Cell, do_cell
from facegm.training.interruption import StopSignals

logger = logging.getLogger(__name__)
LOOK_EVERY = 2.0
"""Seconds between two looks at cells that others are working on."""
SAID = ("error", "lfw_accuracy", "success", "undetected_at_5")
"""Numbers of a finished cell that are logged."""
TAKEN_FOR = 60.0
"""Seconds for which a cell is left alone whose folder was found taken."""


class Job(NamedTuple):
    """A cell that is being done."""

    cell: Cell
    process: BaseProcess
    slot: int
    """Which of the jobs side by side."""


class Grid:
    """The cells of a grid that are to be done, and their processes.

    Args:
        cells: each with a title for the log; those that others need are among them.
        folder: of all cells, made when missing.
        jobs: processes side by side.
        gpus: how many there are; the processes take turns at them. Without any each has one core.
    """

    def __init__(self, cells: dict[Cell, str], folder: Path, *, jobs: int, gpus: int) -> None:
        self._titles, self._folder, self._slots, self._gpus = cells, folder, list(range(jobs)), gpus
        self._waiting, self._running, self._failed = list(cells), list[Job](), list[Cell]()
        self._left_out: list[Cell] = []
        self._taken: dict[Cell, float] = {}
        self._said_to_wait = False
        self._context = get_context("spawn")  # a fork would inherit this process's threads and signals

    def run(self) -> None:
        """Do all cells that are not finished, and wait for those that others are working on.

        Raises:
            FacegmError: cells have failed; the others are done.
            StoppedError: SIGTERM, SIGHUP or Ctrl-C came; what was begun is saved.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with StopSignals(is_alone=True) as signals:
            try:
                while self._waiting or self._running:
                    self._start()
                    self._wait()
                    if signals.received:
                        raise StoppedError(f"stopped by {signals.received}; the same command goes on with what is left")
            finally:
                self._stop()
        if self._failed:
            logs = ", ".join(str(self._log(cell)) for cell in self._failed[:3])
            left_out = f"; {len(self._left_out)} that need them are not done" if self._left_out else ""
            raise FacegmError(f"{len(self._failed)} of {len(self._titles)} cells have failed; see {logs}{left_out}")

    def _start(self) -> None:
        """Begin with cells that nobody has begun with, as long as there is room for another process."""
        failed = {cell.name for cell in self._failed}
        for cell in list(self._waiting):
            if cell.result(self._folder) is not None:
                self._waiting.remove(cell)
            elif any(one.name in failed for one in cell.needs):
                self._waiting.remove(cell)
                self._left_out.append(cell)
            elif self._slots and all(one.result(self._folder) for one in cell.needs) and self._is_free(cell):
                self._waiting.remove(cell)
                self._said_to_wait = False
                slot = self._slots.pop(0)
                gpu = slot % self._gpus if self._gpus else None
                process = self._context.Process(target=do_cell, args=(cell, self._folder, self._log(cell), gpu))
                process.start()
                self._running.append(Job(cell, process, slot))
                logger.info(f"begins  {cell.name}  {self._titles[cell]}")

    def _is_free(self, cell: Cell) -> bool:
        """Whether nobody is at work on it, nor was a moment ago, such as `facegm train` in its folder."""
        return time.monotonic() > self._taken.get(cell, 0.0) and not cell.is_taken(self._folder)

    def _wait(self) -> None:
        """Until a process ends, or it is time to look again at what others do."""
        if not self._running:
            if self._waiting and not self._said_to_wait:
                names = ", ".join(cell.name for cell in self._waiting[:5])
                logger.info(f"waits for {len(self._waiting)} cells that others work on: {names}")
                self._said_to_wait = True
            if self._waiting:
                time.sleep(LOOK_EVERY)
            return
        connection.wait([job.process.sentinel for job in self._running], timeout=LOOK_EVERY)
        for job in [job for job in self._running if job.process.exitcode is not None]:
            self._running.remove(job)
            self._slots.append(job.slot)
            self._conclude(job)

    def _conclude(self, job: Job) -> None:
        result = job.cell.result(self._folder)
        if job.process.exitcode == TAKEN_EXIT_CODE:
            self._waiting.append(job.cell)
            self._taken[job.cell] = time.monotonic() + TAKEN_FOR
        elif result is not None:
            left, found = len(self._waiting) + len(self._running), result.numbers
            numbers = ", ".join(f"{name} {found[name]:.2f}" for name in SAID if name in found)
            logger.info(f"done    {job.cell.name}  {self._titles[job.cell]}: {numbers}; {left} cells are left")
        else:
            self._failed.append(job.cell)
            reason = self._log(job.cell).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            logger.error(f"failed  {job.cell.name}  {self._titles[job.cell]}: {reason}")

    def _stop(self) -> None:
        """End what runs, each with a checkpoint."""
        for job in self._running:
            job.process.terminate()
        for job in self._running:
            job.process.join()

    def _log(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.log"
