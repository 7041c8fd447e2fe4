"""A cell of a grid: a piece of work in a folder named by a hash of all that changes its numbers, and these numbers."""

import fcntl
import hashlib
import json
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, NamedTuple

from facegm.data.files import replace_atomically
from facegm.errors import FacegmError
from facegm.identity import chosen_in
from facegm.reproduce.cell_data import DataSets, DataSize, RunConfig
from facegm.training.run_folder import LockedRunError

RESULT_FILE = "result.json"
TAKEN_EXIT_CODE = 75
"""Of a process that found its cell taken by another one, or done."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished cell has come to."""

    numbers: Mapping[str, float]
    """What its kind of cell measures, as `measure_classifier` does."""
    data: str
    """What it was made of and measured on, as `CellData` describes it."""
    machine: Mapping[str, str]
    """Device, precision of the network's products, and version of torch."""


class Outcome(NamedTuple):
    """What the work on a cell ends with."""

    numbers: Mapping[str, float]
    precision: str
    """Of the network's products, such as float32."""


class Cell(ABC):
    """A piece of a grid's work that one process does."""

    config: RunConfig
    """Of the network that is trained or looked at."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that is chosen in it and changes results, but for defaults."""
        return chosen_in(self.config)

    @cached_property
    def name(self) -> str:
        """The folder's name: 12 hexadecimal digits of the digest of its identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    @abstractmethod
    def length(self) -> str:
        """How much there is to do, in words."""

    @abstractmethod
    def share_of_training(self, size: DataSize) -> float:
        """How long it takes, as a multiple of the training of its network.

        Args:
            size: of the set that this is trained on.
        """

    @property
    def needs(self) -> Sequence["Cell"]:
        """Cells that have to be finished before."""
        return ()

    @abstractmethod
    def compute(self, cells: Path) -> Outcome:
        """Do it, from where it stands, in its folder.

        Args:
            cells: the folder of all cells.
        """

    def finish(self, cells: Path) -> None:
        """Do it, and write down what it has come to."""
        data = DataSets().open(self.config).description
        outcome = self.compute(cells)
        result = {"numbers": outcome.numbers, "data": data, "machine": _machine(outcome.precision)}
        replace_atomically(cells / self.name / RESULT_FILE, (json.dumps(result, indent=1) + "\n").encode())

    def result(self, cells: Path) -> Result | None:
        """What it has come to; None while it is not finished.

        Args:
            cells: the folder of all cells.
        """
        try:
            found = Result(**json.loads((cells / self.name / RESULT_FILE).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return found

    def is_taken(self, cells: Path) -> bool:
        """Whether another process is at work on it, of this command or another one."""
        with self.claimed(cells) as is_mine:
            return not is_mine

    @contextmanager
    def claimed(self, cells: Path) -> Iterator[bool]:
        """Keep other processes from it while this context lasts; whether that was possible.

        Args:
            cells: the folder of all cells.
        """
        with (cells / f"{self.name}.lock").open("a") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                yield False
            else:
                yield True


# ------------------------------------------------------------------------------------------------- a process


def do_cell(cell: Cell, cells: Path, log: Path, gpu: int | None) -> None:
    """Do a cell, from where it stands, in a process of its own; ends the process by an exit code.

    It ends, with a checkpoint, where the process that started it is gone.

    Args:
        cell: which.
        cells: the folder of all cells.
        log: where to put what it says.
        gpu: the one to use, of those that this process may see; None for one core.
    """
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if gpu is None else visible_gpu(gpu, os.environ)
    import logging

    import torch

    if gpu is None:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        with cell.claimed(cells) as is_mine:
            if not is_mine or cell.result(cells) is not None:
                sys.exit(TAKEN_EXIT_CODE)
            cell.finish(cells)
    except LockedRunError:
        sys.exit(TAKEN_EXIT_CODE)
    except FacegmError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def visible_gpu(number: int, environment: Mapping[str, str]) -> str:
    """What CUDA_VISIBLE_DEVICES has to be for one of the GPUs that it lets this process see, by its number there."""
    visible = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[number] if visible else str(number)


def _stop_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _machine(precision: str) -> dict[str, str]:
    import torch

    from facegm.checkup.machine import processor_name
    from facegm.training.devices import default_device

    is_gpu = default_device().type == "cuda"
    name = torch.cuda.get_device_name() if is_gpu else processor_name()
    return {"device": name, "precision": precision, "torch": torch.__version__}
