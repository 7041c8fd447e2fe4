"""How long a piece of work takes."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

SECONDS = 1.0
"""How long it is timed, after a warm-up; longer where that is not enough for `REPEATS` measurements."""
REPEATS = 3


def median_seconds(
    work: Callable[[Any], object], device: torch.device, prepare: Callable[[], Any] = lambda: None
) -> float:
    """Median time of a piece of work over about `SECONDS`, after one for warm-up; what prepares it is not counted."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) <= REPEATS or time.perf_counter() < end:
        prepared = prepare()
        _wait(device)
        start = time.perf_counter()
        work(prepared)
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
