"""Training of small classifiers, images per second, against a plain loop as torchvision's examples write it.

Both train the same network with the same loss and batch on the same random images; seconds are those of steps alone.
The plain loop takes single images through PIL and torchvision's transforms, in float32. On a CPU each is timed on one
core, and on all: there also as `facegm reproduce` uses them, by runs side by side on a core each.
"""

import logging
import struct
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from interleaved import measure, write_results
from PIL import Image
from plain_loop import plain_steps, timed
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from facegm.classification.classifier import Description, ImageClassifier
from facegm.classification.config import ImageRunConfig
from facegm.classification.run import train_run
from facegm.classification.task import ImageTask
from facegm.config import find_config, parse_config
from facegm.data.machine import cores
from facegm.data.readers.arrays import LabelledArrays
from facegm.data.readers.cifar import read_cifar
from facegm.data.readers.idx import read_mnist
from facegm.training.run_folder import read_metrics

IS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_GPU else "cpu")
WARM_UP, STEPS = (50, 400) if IS_GPU else (4, 20)
RUNS = 3
SIDE_BY_SIDE = 4 if IS_GPU else cores()
"""Runs at once, as `facegm reproduce --jobs` has them."""
IMAGES = 60_000 if IS_GPU else 10_000
PLAIN = "plain loop"


class SingleImages(Dataset[tuple[torch.Tensor, int]]):
    """What torchvision's MNIST and CIFAR10 do: one image at a time through PIL and the transforms."""

    def __init__(self, config: ImageRunConfig, arrays: LabelledArrays) -> None:
        mean, std = config.preprocessing.mean, config.preprocessing.std
        padding = config.data.padding
        augmentations = [
            transforms.RandomCrop(arrays.images.shape[1], padding, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
        ]
        self._images, self._labels = arrays.images.squeeze(), arrays.labels
        self._transform = transforms.Compose(
            [*(augmentations if padding else []), transforms.ToTensor(), transforms.Normalize(mean, std)]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[number])), int(self._labels[number])


def main() -> None:
    logging.disable(logging.INFO)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mnist(folder / "mnist")
        write_cifar10(folder / "cifar10")
        for kind in ("mnist", "cifar10"):
            config = parse_config(find_config(f"{kind}.yaml"), ImageRunConfig, [f"--data.folder={folder / kind}"])
            for threads in {1, SIDE_BY_SIDE} if not IS_GPU else {SIDE_BY_SIDE}:
                rows += compare(config, folder, threads)
    write_results("classify_gpu" if IS_GPU else "classify", rows)


def compare(config: ImageRunConfig, folder: Path, threads: int) -> list[dict[str, object]]:
    """On so many cores, or one GPU."""
    torch.set_num_threads(threads)
    epochs = (WARM_UP + STEPS) / (IMAGES // config.train.batch_size)
    course = replace(config.train, epochs=epochs, log_every=WARM_UP, checkpoint_every=10**9, compile=False)
    # Without the margin's warm-up, during which no step is captured.
    loss = replace(config.loss, gm=replace(config.loss.gm, warmup_fraction=0.0))
    config = replace(config, train=course, loss=loss, optimizer=replace(config.optimizer, learning_rate=0.001))
    compiled = replace(config, train=replace(course, compile=True))
    number = count()

    def run(of: ImageRunConfig) -> float:
        return whole_loop(of, folder / f"{config.data.set}-{threads}-{next(number)}")

    ways: dict[str, Callable[[], float]] = {
        PLAIN: plain_loop(config, workers=0 if threads == 1 else 2),
        "facegm train": partial(run, config),
        "facegm train, compiled": partial(run, compiled),
    }
    if IS_GPU:
        ways["facegm train, captured"] = partial(run, replace(config, train=replace(course, capture=True)))
        ways["facegm train, compiled and captured"] = partial(
            run, replace(config, train=replace(compiled.train, capture=True))
        )
    images = STEPS * config.train.batch_size
    with ProcessPoolExecutor(SIDE_BY_SIDE, get_context("spawn")) as pool:
        if threads > 1:

            def runs_at_once() -> float:
                folders = [folder / f"{config.data.set}-{threads}-{next(number)}" for _ in range(SIDE_BY_SIDE)]
                return mean(pool.map(partial(whole_loop_on_one_core, compiled), folders)) / SIDE_BY_SIDE

            ways[f"facegm train, compiled, {SIDE_BY_SIDE} runs side by side"] = runs_at_once
        rows = measure(ways, runs=RUNS, clock=lambda way: way())
    return [
        {
            "network": config.model.name,
            "batch_size": config.train.batch_size,
            "cores": threads,
            "images_per_second": round(images / float(str(row["median_s"])), 1),
            "times_plain": round(1 / float(str(row["ratio_to_first"])), 2),
            **row,
        }
        for row in rows
    ]


def whole_loop(config: ImageRunConfig, run: Path) -> float:
    """Seconds of the steps after the first ones, from the run's log."""
    train_run(config, run)
    lines = [line for line in read_metrics(run) if line["step"] > WARM_UP]
    return STEPS * config.train.batch_size * mean(1 / float(line["images_per_second"]) for line in lines)


def whole_loop_on_one_core(config: ImageRunConfig, run: Path) -> float:
    """The same in a process beside others."""
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    return whole_loop(config, run)


def plain_loop(config: ImageRunConfig, workers: int) -> Callable[[], float]:
    """A DataLoader of single images, float32, and the loss read at every step."""
    read = read_mnist if config.data.set == "mnist" else partial(read_cifar, name="cifar10")
    arrays = read(config.data.folder, part="train")
    loader = DataLoader(SingleImages(config, arrays), config.train.batch_size, shuffle=True, num_workers=workers)
    description = Description(
        model=config.model,
        loss=config.loss,
        preprocessing=config.preprocessing,
        classes=arrays.classes,
        channels=arrays.images.shape[3],
        side=arrays.images.shape[1],
    )
    task = ImageTask(ImageClassifier(description), None).to(DEVICE)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return partial(timed, plain_steps(task, optimizer, loader), WARM_UP, STEPS)


# ------------------------------------------------------------------------------------------------- random images


def write_mnist(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, size in (("train", IMAGES), ("t10k", 64)):
        pixels, labels = rng.integers(256, size=(size, 28, 28)), np.arange(size) % 10
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())


def write_cifar10(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        size = 64 if name == "test_batch" else IMAGES // 5
        records = rng.integers(256, size=(size, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(size) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())


if __name__ == "__main__":
    main()
