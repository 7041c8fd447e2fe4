"""Time several ways to do the same thing in turn, A B A B ..., and write medians and ratios as CSV."""

import csv
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from facegm.checkup.machine import processor_name
from facegm.data.machine import keep_freed_memory

RESULTS = Path(__file__).parent / "results"


def wall_clock(way: Callable[[], object]) -> float:
    """Seconds that a way takes."""
    start = time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def processor_seconds(way: Callable[[], object]) -> float:
    """Seconds that the processor spends on this process for a way, so that others on the machine count little."""
    start = time.process_time()
    way()
    return time.process_time() - start


def measure(
    ways: Mapping[str, Callable[[], object]],
    *,
    runs: int,
    clock: Callable[[Callable[[], Any]], float] = wall_clock,
    is_warm: bool = True,
) -> list[dict[str, object]]:
    """Run every way once to warm up, then `runs` times in turn; ratios are to the first way, pair by pair.

    Args:
        ways: what to time, by name.
        runs: times of each.
        clock: runs a way and returns its seconds.
        is_warm: whether to run each once before; where a way takes minutes, that would cost more than it gives.
    """
    keep_freed_memory()
    for way in ways.values() if is_warm else ():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            seconds[name].append(clock(way))
    first = next(iter(seconds.values()))
    return [
        {
            "way": name,
            "runs": runs,
            "median_s": round(median(times), 6),
            "min_s": round(min(times), 6),
            "max_s": round(max(times), 6),
            "ratio_to_first": round(median(a / b for a, b in zip(times, first, strict=True)), 3),
        }
        for name, times in seconds.items()
    ]


def write_results(name: str, rows: list[dict[str, object]]) -> None:
    """Write `results/NAME.csv` with the machine and versions in each row, and print it; rows may lack columns."""
    machine = {
        "processor": torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "facenet_pytorch": version("facenet-pytorch"),
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*dict.fromkeys(column for row in rows for column in row), *machine])
        writer.writeheader()
        writer.writerows(row | machine for row in rows)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
