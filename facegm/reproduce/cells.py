"""A cell of a grid: a run in a folder named by the hash of its configuration, and the numbers that it ended with."""

import fcntl
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import connection, parent_process
from pathlib import Path

from facegm.classification.config import ImageRunConfig
from facegm.data.files import replace_atomically
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.identity import identity_of
from facegm.training.log import VALIDATION
from facegm.training.run_folder import LockedRunError, read_metrics

RESULT_FILE = "result.json"
TAKEN_EXIT_CODE = 75
"""Of a process that found its cell taken by another one."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A run of a grid.

    Args:
        config: what is trained.
        lfw: of a face network, the photos or the store that it is verified on.
    """

    config: ImageRunConfig | FaceRunConfig
    lfw: Path | None = None

    @cached_property
    def name(self) -> str:
        """The folder's name: 12 hexadecimal digits of the digest of all of the configuration that changes results."""
        return hashlib.sha256(json.dumps(identity_of(self.config), sort_keys=True).encode()).hexdigest()[:12]

    def result(self, cells: Path) -> dict[str, float] | None:
        """The numbers of a finished cell, as `measure` gives them; None while it is not finished.

        Args:
            cells: the folder of all cells.
        """
        try:
            found: dict[str, float] = json.loads((cells / self.name / RESULT_FILE).read_bytes())
        except (OSError, ValueError):
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


def train_cell(cell: Cell, cells: Path, log: Path, gpu: int | None) -> None:
    """Train a cell to its end, from where it stands, in a process of its own; ends the process by an exit code.

    It ends, with a checkpoint, where the process that started it is gone.

    Args:
        cell: which.
        cells: the folder of all cells.
        log: where to put what the run says.
        gpu: the one to use; None for one core.
    """
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if gpu is None else str(gpu)
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
            _train(cell, cells / cell.name)
    except LockedRunError:
        sys.exit(TAKEN_EXIT_CODE)
    except FacegmError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def _train(cell: Cell, run: Path) -> None:
    if isinstance(cell.config, ImageRunConfig):
        from facegm.classification.run import train_run as train_classifier

        train_classifier(cell.config, run)
    else:
        from facegm.eval.verify_lfw import verify_lfw
        from facegm.faces.run import train_run as train_face_network

        assert cell.lfw is not None
        train_face_network(cell.config, run)
        verify_lfw(run, cell.lfw, run / "lfw", workers=1)
    replace_atomically(run / RESULT_FILE, (json.dumps(measure(run), indent=1) + "\n").encode())


def _stop_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def measure(run: Path) -> dict[str, float]:
    """What a run has come to.

    Of a classifier, as percentages on the test images: `accuracy`, `error`, and where there are more than five classes
    `top5_error`, after the last epoch, and `best_accuracy` and so on, those of the epoch that was best by each; of
    means also `mean_distance`, `distance_deviation` and `optimal_distance`. Of a verified face network `lfw_accuracy`.

    Args:
        run: the run folder, at its end.
    """
    report = run / "lfw" / "report.json"
    if report.is_file():
        return {"lfw_accuracy": 100 * float(json.loads(report.read_bytes())["variants"][0]["accuracy"])}
    validations = [line for line in read_metrics(run) if f"{VALIDATION}accuracy" in line]
    numbers: dict[str, float] = {}
    for name, opposite in (("accuracy", "error"), ("top5", "top5_error")):
        shares = [line[f"{VALIDATION}{name}"] for line in validations if f"{VALIDATION}{name}" in line]
        for which, share in (("", shares[-1]), ("best_", max(shares))) if shares else ():
            numbers |= {f"{which}{name}": 100 * share, f"{which}{opposite}": 100 * (1 - share)}
    return numbers | _geometry(run)


def _geometry(run: Path) -> dict[str, float]:
    """Distances between the means of a classifier that was trained with the GM loss."""
    from facegm.classification.classifier import load_classifier
    from facegm.losses.gm_module import GMLoss
    from facegm.training.geometry_chart import geometry_numbers

    classifier = load_classifier(run)
    if not isinstance(classifier.loss, GMLoss):
        return {}
    settings = classifier.description.loss.gm
    weight = settings.likelihood_weight if settings.regularizer == "mixture" else 0.0
    found = geometry_numbers(classifier.loss.means.detach(), weight)
    numbers = {"mean_distance": found.average, "distance_deviation": found.deviation}
    return numbers if found.optimum is None else numbers | {"optimal_distance": found.optimum}
