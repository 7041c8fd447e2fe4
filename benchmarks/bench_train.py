"""The whole training loop of ResNet-27 against its compute-only ceiling and a plain loop as tutorials write it.

All three train the same network with the same loss on the same faces, 120x120 pixels; seconds are those of steps alone,
without the start. The ceiling repeats one batch that lies on the device already. On a GPU there are 10,575 identities.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from interleaved import measure, write_results
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.config import find_config, parse_config
from facegm.data.batch import Batch
from facegm.data.face_files import StoreFormat
from facegm.losses.interface import Progress
from facegm.training.config import RunConfig
from facegm.training.distributed import Processes
from facegm.training.optimization import Optimization
from facegm.training.run import train_run
from facegm.training.run_folder import read_metrics
from facegm.training.task import FaceTask

IS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_GPU else "cpu")
IDENTITIES, FACES_OF_EACH = (10_575, 4) if IS_GPU else (64, 8)
BATCHES = (256, 1024) if IS_GPU else (32,)
WARM_UP, STEPS, RUNS = (20, 100, 3) if IS_GPU else (2, 8, 3)
FLOP_PER_IMAGE = 18e9
"""Forward and backward pass of the full network."""
CASIA_EPOCHS, CASIA_FACES = 20, 494_414


def main() -> None:
    logging.disable(logging.INFO)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_faces(folder / "photos")
        jpeg = StoreFormat(encoding="jpeg", container="tar")
        align_photos(folder / "photos", folder / "store", AlignConfig(is_aligned=True, store_format=jpeg))
        base = parse_config(find_config("casia.yaml"), [f"--data.store={folder / 'store'}"])
        for batch in BATCHES:
            for compiled in (False, True):
                course = replace(
                    base.train, batch_size=batch, compile=compiled, log_every=WARM_UP, checkpoint_every=10**9
                )
                rows += compare(replace(base, train=course), folder)
    write_results("train_gpu" if IS_GPU else "train", rows)


def compare(config: RunConfig, folder: Path) -> list[dict[str, object]]:
    runs = count()
    images = STEPS * config.train.batch_size
    ways: dict[str, Callable[[], float]] = {
        "plain loop": plain_loop(folder / "photos", config),
        "compute-only ceiling": ceiling(config),
        "facegm train": lambda: whole_loop(config, folder / f"run-{next(runs)}"),
    }
    rows = measure(ways, runs=RUNS, clock=lambda way: way())
    compute_only = float(str(rows[1]["median_s"]))
    memory = torch.cuda.max_memory_allocated() / 2**30 if IS_GPU else float("nan")
    return [
        {
            "batch_size": config.train.batch_size,
            "compile": config.train.compile,
            "images_per_second": round(images / (seconds := float(str(row["median_s"]))), 1),
            "times_plain": round(1 / float(str(row["ratio_to_first"])), 2),
            "share_of_ceiling": round(compute_only / seconds, 3),
            "tflop_per_second": round(images * FLOP_PER_IMAGE / seconds / 1e12, 2),
            "casia_minutes": round(CASIA_EPOCHS * CASIA_FACES / images * seconds / 60, 1),
            "peak_gib": round(memory, 2),
            **row,
        }
        for row in rows
    ]


def whole_loop(config: RunConfig, run: Path) -> float:
    """Seconds of the last steps of a run of facegm; the first ones warm up."""
    steps_per_epoch = IDENTITIES * FACES_OF_EACH // config.train.batch_size
    epochs = -(-(WARM_UP + STEPS) // steps_per_epoch)
    train_run(replace(config, train=replace(config.train, epochs=epochs)), run)
    rates = [line["images_per_second"] for line in read_metrics(run)][1:]
    return STEPS * config.train.batch_size * float(np.mean([1 / rate for rate in rates]))


def ceiling(config: RunConfig) -> Callable[[], float]:
    """Steps of the same optimisation on one batch that lies on the device."""
    size, side = config.train.batch_size, config.preprocessing.face_size
    task = FaceTask(config.model, config.loss, config.preprocessing.crop_size, IDENTITIES)
    task.to(DEVICE).to(memory_format=torch.channels_last)
    optimization = Optimization(task, config, Processes(rank=0, world_size=1, device=DEVICE))
    faces, zeros = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8), torch.zeros(size)
    corner = zeros.to(torch.int64)
    label = torch.randint(IDENTITIES, (size,))
    batch = Batch(faces, label, corner, corner, zeros.to(torch.bool), zeros + 1, zeros).to(DEVICE)

    def steps() -> Iterator[None]:
        while True:
            optimization.backward(batch, Progress(1, 10), monitor=False)
            optimization.step()
            yield

    return partial(timed, steps())


def plain_loop(photos: Path, config: RunConfig) -> Callable[[], float]:
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
    task = FaceTask(config.model, config.loss, crop, IDENTITIES).to(DEVICE)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def steps() -> Iterator[None]:
        for images, labels in (batch for epoch in cycle([loader]) for batch in epoch):
            loss = task(images.to(DEVICE), labels.to(DEVICE), Progress(1, 10), None, False)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield

    return partial(timed, steps())


def timed(steps: Iterator[None]) -> float:
    list(islice(steps, WARM_UP))
    if IS_GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    list(islice(steps, STEPS))
    if IS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
