"""A training step of ResNet-27 on random images, in float32 and bfloat16, at the shipped configurations' shapes."""

from functools import partial

import torch
from interleaved import measure, write_results
from torch import Tensor

from facegm.config import find_config, parse_config
from facegm.losses.interface import Progress
from facegm.training.task import FaceTask

BATCH, CLASSES = 32, 1_000


def step(task: FaceTask, images: Tensor, labels: Tensor, precision: torch.dtype | None) -> None:
    task(images, labels, Progress(1, 2), precision, False)["loss"].backward()


def main() -> None:
    rows = []
    for name in ("demo.yaml", "celeba291.yaml", "casia.yaml"):
        config = parse_config(find_config(name))
        side = config.preprocessing.crop_size
        task = FaceTask(config.model, config.loss, side, CLASSES)
        images, labels = torch.randn(BATCH, 3, side, side), torch.randint(CLASSES, (BATCH,))

        ways = {
            "float32": partial(step, task, images, labels, None),
            "bfloat16": partial(step, task, images, labels, torch.bfloat16),
        }
        for row in measure(ways, runs=5):
            rate = round(BATCH / float(str(row["median_s"])), 1)
            rows.append({"config": name, "images_per_second": rate, **row})
    write_results("training_step", rows)


if __name__ == "__main__":
    main()
