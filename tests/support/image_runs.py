"""Runs of the training loop on images that are not faces: digits that lie in memory, and photos that workers decode.

As a script: `python image_runs.py KIND DATA RUN`, under torchrun too.
"""

import argparse
import gzip
import logging
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from forks import forks
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from facegm.data.draws import DrawPlan
from facegm.data.files import replace_atomically
from facegm.data.photo_samples import LabelledPhotos
from facegm.data.resident_images import PaddedCrop, ResidentImages
from facegm.data.samples import Batch
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.losses.interface import Loss
from facegm.losses.softmax import SoftmaxLoss
from facegm.schedule import Progress
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.distributed import Processes, join_processes
from facegm.training.loop import train
from facegm.training.setup import TrainingSetup
from facegm.training.task import Task

Kind = Literal["digits", "photos"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WEIGHTS, BEST = "weights.safetensors", "weights-best.safetensors"
EPOCHS = {"digits": 12, "photos": 16}
BATCH = {"digits": 40, "photos": 12}
STEPS = {"digits": 96, "photos": 64}
VALIDATED = {"digits": [32, 64, 96], "photos": [16, 32, 48, 64]}
"""Steps with a validation."""
SIDE, RESIZE = 16, 20
"""Of photos."""
ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class ImageRunConfig:
    kind: Kind
    optimizer: OptimizerConfig
    train: TrainConfig


class ImageTask(Task[nn.Sequential]):
    """Classification; images are scaled to -0.5 to 0.5."""

    def __init__(self, network: nn.Sequential, loss: Loss, crop: PaddedCrop | None = None) -> None:
        super().__init__(network, loss)
        self._crop = crop

    def inputs(self, batch: Batch) -> Tensor:
        images = batch.images if self._crop is None else self._crop.cut(batch)
        return images.permute(0, 3, 1, 2).to(torch.get_default_dtype()) / 255 - 0.5


# ------------------------------------------------------------------------------------------------- digits


def digits(folder: Path, part: Literal["train", "t10k"], count: int, crop: PaddedCrop) -> ResidentImages:
    """The first of MNIST's, from its own files."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as images:
        pixels = np.frombuffer(images.read(16 + count * 784), np.uint8, offset=16)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as numbers:
        labels = np.frombuffer(numbers.read(8 + count), np.uint8, offset=8)
    return ResidentImages(pixels.reshape(count, 28, 28, 1), labels, classes=10, crop=crop)


def digits_setup(data: Path, course: dict[str, Any]) -> dict[str, Any]:
    """Batch normalisation, the GM loss, averaged weights, crops of padded images."""
    crop = PaddedCrop(side=28, padding=2, border="zero", mirror=False)
    samples = digits(data, "train", 320, crop)
    train_config = TrainConfig(batch_size=BATCH["digits"], ema_decay=0.8, sync_batch_norm=True, **course)
    torch.manual_seed(train_config.seed)
    network = nn.Sequential(
        *(nn.Conv2d(1, 12, 5, stride=2, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 5, stride=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(384, 16)),
    )
    return {
        "task": ImageTask(network, GMLoss(10, 16, GMLossConfig(alpha=0.1, likelihood_weight=0.05)), crop),
        "samples": samples,
        "validation": digits(data, "t10k", 300, crop),
        "optimizer": OptimizerConfig(learning_rate=0.1, schedule="cosine", warmup_fraction=0.1),
        "train": train_config,
    }


# ------------------------------------------------------------------------------------------------- photos


def make_photos(folder: Path) -> None:
    """48 JPEGs of four classes to train on and 20 to validate on, of random sizes: smooth patterns with noise."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(40, 215, (4, 1, 1, 3)) + rng.normal(0, 25, (4, 3, 3, 3))
    for part, each in (("train", 12), ("held-out", 5)):
        for label, pattern in enumerate(patterns):
            (folder / part / f"class_{label}").mkdir(parents=True)
            for number in range(each):
                width, height = rng.integers(14, 60, 2).tolist()
                photo = cv2.resize(pattern, (width, height), interpolation=cv2.INTER_CUBIC)
                photo = np.clip(photo + rng.normal(0, 15, photo.shape), 0, 255).astype(np.uint8)
                Image.fromarray(photo).save(folder / part / f"class_{label}" / f"{number}.jpg")


def photos_setup(data: Path, course: dict[str, Any]) -> dict[str, Any]:
    """No normalisation, the softmax loss, AdamW, random resized crops."""
    samples = LabelledPhotos.of_source(data / "train", side=SIDE, resize=RESIZE)
    train_config = TrainConfig(batch_size=BATCH["photos"], **course)
    torch.manual_seed(train_config.seed)
    network = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, stride=2), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(144, 16)),
    )
    return {
        "task": ImageTask(network, SoftmaxLoss(4, 16)),
        "samples": samples,
        "validation": LabelledPhotos.of_source(data / "held-out", classes=samples.classes, side=SIDE, resize=RESIZE),
        "optimizer": OptimizerConfig(name="adamw", learning_rate=0.003, schedule="cosine"),
        "train": train_config,
    }


# ------------------------------------------------------------------------------------------------- runs


def image_setup(
    kind: Kind, data: Path, run: Path, *, epochs: int | None = None, workers: int = 0, **course: Any
) -> TrainingSetup[nn.Sequential]:
    """What the loop is given.

    Args:
        kind: which of the two.
        data: MNIST's folder, or one that `make_photos` has filled.
        run: where the weights are exported to.
        epochs: other than are usual.
        workers: processes that decode photos.
        course: other fields of `TrainConfig` that are to differ.
    """
    usual = {"precision": "float32", "compile": False, "log_every": 1, "checkpoint_every": 10}
    made = {"digits": digits_setup, "photos": photos_setup}[kind](
        data, {"epochs": epochs or EPOCHS[kind], **usual, **course}
    )
    samples, train_config = made["samples"], made["train"]

    def export(task: Task[nn.Sequential], is_best: bool) -> Path:
        file = run / (BEST if is_best else WEIGHTS)
        replace_atomically(file, save({name: tensor.contiguous() for name, tensor in task.state_dict().items()}))
        return file

    return TrainingSetup(
        title=f"{len(samples)} {kind}",
        plan=DrawPlan(
            labels=samples.labels,
            batch_size=train_config.batch_size,
            epochs=train_config.epochs,
            seed=train_config.seed,
        ),
        workers=workers,
        config=ImageRunConfig(kind=kind, optimizer=made["optimizer"], train=train_config),
        data=f"{len(samples)} {kind} ({samples.fingerprint})",
        export=export,
        validate_every=4,
        **made,
    )


def train_images(
    kind: Kind,
    data: Path,
    run: Path,
    processes: Processes = ALONE,
    *,
    dies_in: int | None = None,
    **options: Any,
) -> None:
    """Train to the end.

    Args:
        kind: see `image_setup`.
        data: likewise.
        run: the run folder, made when missing.
        processes: this process among those of the run.
        dies_in: step in which this process kills itself.
        options: see `image_setup`.
    """
    setup = image_setup(kind, data, run, **options)
    if dies_in is not None:
        setup.task.register_forward_pre_hook(partial(_die, dies_in))
    run.mkdir(exist_ok=True)
    train(setup, run, processes)


def _die(step: int, _: nn.Module, arguments: tuple[Tensor, Tensor, Progress]) -> None:
    if arguments[2].step + 1 == step:
        os.kill(os.getpid(), signal.SIGKILL)


class ForkedRun:
    """A run in a process of its own that begins at once, to be killed.

    Args:
        kind: see `image_setup`, as the rest.
        data: data.
        run: run folder.
        workers: processes that decode photos.
    """

    def __init__(self, kind: Kind, data: Path, run: Path, workers: int = 0) -> None:
        self._process = forks().Process(target=_train_alone, args=(kind, data, run, workers))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


def _train_alone(kind: Kind, data: Path, run: Path, workers: int) -> None:
    multiprocessing.set_start_method("fork", force=True)  # not by the fork server, as its children would
    torch.set_num_threads(1)
    train_images(kind, data, run, workers=workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--float64", action="store_true")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64 if asked.float64 else torch.float32)
    with join_processes() as processes:
        train_images(asked.kind, asked.data, asked.run, processes, epochs=asked.epochs, workers=asked.workers)


if __name__ == "__main__":
    main()
