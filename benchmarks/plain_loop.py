"""The steps of a training loop as tutorials write it, and their time."""

import time
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from facegm.schedule import Progress
from facegm.training.task import Task


def plain_steps(task: Task[Any], optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> Iterator[None]:
    """Take steps for ever, in float32, and read the loss at every one."""
    for images, labels in (batch for epoch in cycle([loader]) for batch in epoch):
        loss = task(images.to(task.device), labels.to(task.device), Progress(1, 10))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        yield


def timed(taken: Iterator[None], warm_up: int, steps: int) -> float:
    """Seconds of so many steps after the first ones."""
    list(islice(taken, warm_up))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    list(islice(taken, steps))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
