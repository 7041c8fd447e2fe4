"""The whole training loop of ResNet-27 against its compute-only ceiling and a plain loop as tutorials write it.

All train the same network with the same loss on the same faces, 120x120 pixels; seconds are those of steps alone. The
ceiling repeats one batch that lies on the device already. On a GPU there are 10,575 identities.
"""

import gc
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean
from unittest.mock import patch

import cv2
import numpy as np
import torch
from interleaved import measure, write_results
from plain_loop import plain_steps, timed
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.config import find_config, parse_config
from facegm.data.samples import DrawnSamples
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import open_training_faces, train_run
from facegm.faces.samples import LabelledFaces
from facegm.faces.task import FaceTask
from facegm.schedule import Progress
from facegm.store.format import StoreFormat
from facegm.store.reader import FaceStore
from facegm.training import start
from facegm.training.compilation import compile_network
from facegm.training.devices import prepare
from facegm.training.distributed import Processes
from facegm.training.loop import Trainer
from facegm.training.run_folder import read_metrics

IS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_GPU else "cpu")
IDENTITIES, FACES_OF_EACH = (10_575, 4) if IS_GPU else (64, 6)
STEPS = {256: (20, 100), 1024: (10, 30)} if IS_GPU else {32: (4, 4)}
"""By batch size: steps to warm up, and steps that are timed."""
RUNS = 2 if IS_GPU else 3
FLOP_PER_IMAGE = 18e9
"""Forward and backward pass of the full network."""
CASIA_EPOCHS, CASIA_FACES = 20, 494_414
PLAIN, CEILING, COMPILED = "plain loop", "compute-only ceiling", ", compiled"


class EnoughError(Exception):
    """Ends a run that has been timed."""


def main() -> None:
    logging.disable(logging.INFO)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_faces(folder / "photos")
        jpeg = StoreFormat(encoding="jpeg", container="tar")
        align_photos(folder / "photos", folder / "store", AlignConfig(is_aligned=True, store_format=jpeg))
        # Without the margin's warm-up, during which no step is captured.
        asked = [f"--data.store={folder / 'store'}", "--loss.gm.warmup_fraction=0"]
        base = parse_config(find_config("casia.yaml"), FaceRunConfig, asked)
        for batch, (warm_up, steps) in STEPS.items():
            course = replace(base.train, batch_size=batch, log_every=warm_up, checkpoint_every=10**9)
            rows += compare(replace(base, train=course), warm_up, steps, folder)
    write_results("train_gpu" if IS_GPU else "train", rows)


def compare(config: FaceRunConfig, warm_up: int, steps: int, folder: Path) -> list[dict[str, object]]:
    torch.compiler.reset()  # else a second batch size would be compiled for any size
    number, images = count(), steps * config.train.batch_size
    config = replace(config, train=replace(config.train, compile=False))
    compiled = replace(config, train=replace(config.train, compile=True))
    captured = replace(config, train=replace(config.train, capture=True))
    ways = {
        PLAIN: plain_loop(folder / "photos", config, warm_up, steps),
        CEILING: ceiling(config, warm_up, steps),
        "facegm train": lambda: whole_loop(config, images, folder / f"run-{next(number)}"),
        CEILING + COMPILED: ceiling(compiled, warm_up, steps),
        "facegm train" + COMPILED: lambda: whole_loop(compiled, images, folder / f"run-{next(number)}"),
    }
    if IS_GPU:
        ways |= {
            "facegm train, captured": lambda: whole_loop(captured, images, folder / f"run-{next(number)}"),
            "facegm train, without cudnn.benchmark": lambda: without_benchmark(config, images, folder, next(number)),
        }
    gigabytes: dict[str, float] = {}
    rows = measure(
        {name: partial(with_peak_memory, way, name, gigabytes) for name, way in ways.items()},
        runs=RUNS,
        clock=lambda way: way(),
    )
    seconds = {str(row["way"]): float(str(row["median_s"])) for row in rows}
    return [
        {
            "batch_size": config.train.batch_size,
            "images_per_second": round(images / seconds[name], 1),
            "times_plain": round(1 / float(str(row["ratio_to_first"])), 2),
            "share_of_ceiling": round(
                seconds[CEILING + (COMPILED if name.endswith(COMPILED) else "")] / seconds[name], 3
            ),
            "tflop_per_second": round(images * FLOP_PER_IMAGE / seconds[name] / 1e12, 2),
            "casia_minutes": round(CASIA_EPOCHS * CASIA_FACES / images * seconds[name] / 60, 1),
            "peak_gb": round(gigabytes[name], 2),
            **row,
        }
        for name, row in zip(ways, rows, strict=True)
    ]


def with_peak_memory(way: Callable[[], float], name: str, gigabytes: dict[str, float]) -> float:
    """Run a way, and note how much more GPU memory it took at most than there was taken before."""
    before = 0
    if IS_GPU:
        gc.collect()  # a captured step is part of a cycle, and holds its memory
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    seconds = way()
    gigabytes[name] = (torch.cuda.max_memory_allocated() - before) / 1e9 if IS_GPU else float("nan")
    return seconds


def without_benchmark(config: FaceRunConfig, images: int, folder: Path, number: int) -> float:
    torch.backends.cudnn.benchmark = False  # unittest's patch cannot take it back
    try:
        with patch.object(start, "prepare", lambda _: None):
            return whole_loop(config, images, folder / f"run-{number}")
    finally:
        torch.backends.cudnn.benchmark = True


class LeaveAtValidation(LabelledFaces):
    """Training faces as a validation that ends the run."""

    def score(self, embeddings: np.ndarray) -> dict[str, float]:
        del embeddings
        raise EnoughError


def whole_loop(config: FaceRunConfig, images: int, run: Path) -> float:
    """Seconds for so many images, from the log of the first epoch of a long run without its first steps."""
    few = LeaveAtValidation(FaceStore(config.data.store), config.preprocessing)
    few.keys = few.keys[: config.train.batch_size]
    with suppress(EnoughError):
        train_run(config, run, few)
    return images * mean(1 / float(line["images_per_second"]) for line in read_metrics(run)[1:])


def ceiling(config: FaceRunConfig, warm_up: int, steps: int) -> Callable[[], float]:
    """Steps on one batch that lies on the device."""
    faces = open_training_faces(config)
    task = FaceTask(config.model, config.loss, config.preprocessing, IDENTITIES)
    prepare(DEVICE)
    task.to(DEVICE).to(memory_format=torch.channels_last)
    trainer = Trainer(task, config.optimizer, config.train, Processes(rank=0, world_size=1, device=DEVICE))
    compile_network(task.network, config.train.compile, warm_up + steps, say=False)
    numbers = np.arange(config.train.batch_size)
    batch = faces[DrawnSamples(numbers, faces.draw(numbers, np.random.default_rng(0)))].to(DEVICE)

    def take_steps() -> Iterator[None]:
        while True:
            trainer.step(batch, Progress(1, 10), lambda _: None)
            yield

    return partial(timed, take_steps(), warm_up, steps)


def plain_loop(photos: Path, config: FaceRunConfig, warm_up: int, steps: int) -> Callable[[], float]:
    """ImageFolder, PIL, float32, and the loss read at every step."""
    crop = config.preprocessing.crop_size
    transform = transforms.Compose(
        [
            transforms.RandomCrop(crop),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(photos), transform), config.train.batch_size, shuffle=True, num_workers=2, drop_last=True
    )
    task = FaceTask(config.model, config.loss, config.preprocessing, IDENTITIES).to(DEVICE)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    return partial(timed, plain_steps(task, optimizer, loader), warm_up, steps)


def make_faces(folder: Path) -> None:
    """JPEG files of 128x128 pixels; what they show does not matter to the clock."""
    rng = np.random.default_rng(0)
    pictures = [
        cv2.imencode(".jpg", cv2.resize(rng.integers(0, 256, (16, 16, 3), np.uint8), (128, 128)))[1].tobytes()
        for _ in range(64)
    ]
    for identity in range(IDENTITIES):
        (folder / f"{identity:05}").mkdir(parents=True)
        for number in range(FACES_OF_EACH):
            (folder / f"{identity:05}/{number}.jpg").write_bytes(pictures[rng.integers(len(pictures))])


if __name__ == "__main__":
    main()
