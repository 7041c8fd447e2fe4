"""What a run asks of its device: precision, settings that cost nothing, and how much of it was used."""

import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from facegm.data.machine import has_fast_bfloat16, keep_freed_memory
from facegm.data.samples import DrawnSamples, Samples
from facegm.training.config import Precision
from facegm.training.task import Task, evaluating

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12, "T4": 65e12}
"""Dense products a second in half precision, by a part of the device's name, from the makers' data sheets."""


def default_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Precision of the network's products, None for float32; auto takes the shortest that the hardware is fast in."""
    if precision != "auto":
        return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if has_fast_bfloat16() else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """The context in which a network's products are made in that precision; None for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def prepare(device: torch.device) -> None:
    """Settings of the whole process that make training faster: convolutions tried out, memory kept."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # inputs are of one size
    else:
        keep_freed_memory()


class Usage:
    """How much of a device a run takes, for the log.

    Args:
        task: on its device.
        samples: what it is trained on.
        devices: how many of them the run's images are shared among.
    """

    def __init__(self, task: Task[Any], samples: Samples, devices: int) -> None:
        self._device, self._devices = task.device, devices
        self._peak, self._flops = 0.0, 0
        if self._device.type == "cuda":
            name = torch.cuda.get_device_name(self._device)
            self._peak = next((flops for part, flops in PEAK_FLOPS.items() if part in re.split(r"\W", name)), 0.0)
            self._flops = _forward_flops(task, samples) if self._peak else 0
            torch.cuda.reset_peak_memory_stats(self._device)

    def numbers(self, images_per_second: float) -> dict[str, float]:
        """`peak_memory_gb`, on a CPU that of the whole process; `share_of_peak` where the device's peak is known."""
        if self._device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self._device)
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        named = {"peak_memory_gb": round(memory / 1e9, 3)}
        if self._peak:
            flops = 3 * self._flops * images_per_second / self._devices  # the backward pass has two products for one
            named["share_of_peak"] = round(flops / self._peak, 4)
        return named


@torch.no_grad()
def _forward_flops(task: Task[Any], samples: Samples) -> int:
    """Of one image."""
    first = np.zeros(1, np.int64)
    batch = samples[DrawnSamples(first, samples.draw(first, None))].to(task.device)
    with evaluating(task), FlopCounterMode(display=False) as counter:
        task.network.forward(task.inputs(batch))
    return int(counter.get_total_flops())


@contextmanager
def profiled(folder: Path, *, is_on: bool) -> Iterator[Any]:
    """Record a few steps by torch.profiler, for TensorBoard or a browser's trace viewer; told of the end of each step.

    Args:
        folder: where to.
        is_on: whether to record at all.
    """
    if not is_on:
        yield SimpleNamespace(step=lambda: None)
        return
    folder.mkdir(exist_ok=True)
    steps = torch.profiler.schedule(skip_first=5, wait=0, warmup=2, active=3, repeat=1)
    write = torch.profiler.tensorboard_trace_handler(str(folder))
    with torch.profiler.profile(schedule=steps, on_trace_ready=write, profile_memory=True, acc_events=True) as profiler:
        yield profiler
