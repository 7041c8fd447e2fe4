"""A cell of a grid: a run in a folder named by the hash of its configuration, and the numbers that it ended with."""

import fcntl
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from facegm.classification.config import ImageRunConfig
from facegm.data.files import replace_atomically
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.identity import chosen_in
from facegm.reproduce.cell_data import DataSets
from facegm.training.log import VALIDATION
from facegm.training.run_folder import LockedRunError, read_metrics

RESULT_FILE = "result.json"
TAKEN_EXIT_CODE = 75
"""Of a process that found its cell taken by another one, or done."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished cell has come to."""

    numbers: Mapping[str, float]
    """See `measure_classifier` and `measure_embedder`."""
    data: str
    """What it was trained and measured on, as `CellData` describes it."""
    machine: Mapping[str, str]
    """Device, precision of the network's products in training, and version of torch."""


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
        """The folder's name: 12 hexadecimal digits of the digest of all that is chosen in it and changes results."""
        return hashlib.sha256(json.dumps(chosen_in(self.config), sort_keys=True).encode()).hexdigest()[:12]

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


def train_cell(cell: Cell, cells: Path, log: Path, gpu: int | None) -> None:
    """Train a cell to its end, from where it stands, in a process of its own; ends the process by an exit code.

    It ends, with a checkpoint, where the process that started it is gone.

    Args:
        cell: which.
        cells: the folder of all cells.
        log: where to put what the run says.
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
            _train(cell, cells / cell.name)
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


def _train(cell: Cell, run: Path) -> None:
    config, data = cell.config, DataSets().open(cell.config).description
    if isinstance(config, ImageRunConfig):
        from facegm.classification.run import train_run as train_classifier

        train_classifier(config, run)
        numbers = measure_classifier(run, config)
    else:
        from facegm.eval.verify_lfw import verify_lfw
        from facegm.faces.run import train_run as train_face_network

        assert cell.lfw is not None
        train_face_network(config, run)
        verify_lfw(run, cell.lfw, run / "lfw", workers=1)
        numbers = measure_embedder(run)
    result = {"numbers": numbers, "data": data, "machine": _machine(config)}
    replace_atomically(run / RESULT_FILE, (json.dumps(result, indent=1) + "\n").encode())


def _machine(config: ImageRunConfig | FaceRunConfig) -> dict[str, str]:
    import torch

    from facegm.checkup.machine import processor_name
    from facegm.training.devices import autocast_dtype, default_device

    device = default_device()
    precision = autocast_dtype(config.train.precision, device) or torch.float32
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    return {"device": name, "precision": str(precision).removeprefix("torch."), "torch": torch.__version__}


# ------------------------------------------------------------------------------------------------- numbers


def measure_classifier(run: Path, config: ImageRunConfig) -> dict[str, float]:
    """Percentages on the test images, in float32.

    They are `accuracy`, `error`, and where there are more than five classes `top5_error`, after the last epoch, and
    `best_accuracy` and so on after the validated epoch that had the best accuracy; with the GM loss also
    `mean_distance`, `distance_deviation` and `optimal_distance` of the means.

    Args:
        run: the run folder, at its end.
        config: its configuration.
    """
    from facegm.classification.classifier import BEST_FILE, MODEL_FILE, ImageClassifier, load_classifier
    from facegm.classification.data import open_images
    from facegm.classification.evaluation import evaluate
    from facegm.classification.prediction import ImageSet, predict
    from facegm.losses.gm_module import GMLoss
    from facegm.training.devices import default_device
    from facegm.training.geometry_chart import geometry_numbers
    from facegm.training.report import EVALUATION_BATCH

    classifier, device = load_classifier(run / MODEL_FILE), default_device()
    test = open_images(config.data, "test", classes=classifier.description.classes)
    images, workers = ImageSet(name="test images", samples=test.samples, crop=test.crop), config.data.workers

    def on_test_images(of: ImageClassifier) -> dict[str, float]:
        of.to(device)
        found = evaluate(predict(of, images, batch_size=EVALUATION_BATCH, workers=workers, device=device))
        numbers = {"accuracy": 100 * found.accuracy, "error": 100 * (1 - found.accuracy)}
        return numbers if found.top5 is None else numbers | {"top5_error": 100 * (1 - found.top5)}

    numbers = on_test_images(classifier)
    validated = [line[f"{VALIDATION}accuracy"] for line in read_metrics(run) if f"{VALIDATION}accuracy" in line]
    is_last_best = validated[-1] > max(validated[:-1], default=-1.0)
    best = numbers if is_last_best else on_test_images(load_classifier(run / BEST_FILE))
    numbers = numbers | {f"best_{name}": value for name, value in best.items()}
    if not isinstance(classifier.loss, GMLoss):
        return numbers
    weight = config.loss.gm.likelihood_weight if config.loss.gm.regularizer == "mixture" else 0.0
    found = geometry_numbers(classifier.loss.means.detach(), weight)
    numbers |= {"mean_distance": found.average, "distance_deviation": found.deviation}
    return numbers if found.optimum is None else numbers | {"optimal_distance": found.optimum}


def measure_embedder(run: Path) -> dict[str, float]:
    """Of a face network `lfw_accuracy` by the protocol, a percentage, from its report."""
    report: dict[str, Any] = json.loads((run / "lfw" / "report.json").read_bytes())
    return {"lfw_accuracy": 100 * float(report["variants"][0]["accuracy"])}
