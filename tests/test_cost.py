"""The choice among the engines, against what was measured on a GPU."""

import csv
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from facegm.losses.blocks import Chunked, Dense
from facegm.losses.cost import Way, cheapest, seconds, use_of_processors
from facegm.losses.engine import choose_engine

MEASURED = Path(__file__).parents[1] / "benchmarks/results/gm_loss_h100.csv"
H100, PROCESSORS, DIM = 9, 132, 512
WAYS: tuple[Way, ...] = ("dense", "chunked")
"""Those of which the file says something that still holds: its fused kernels were others."""


def measured() -> dict[tuple[int, int], dict[str, float]]:
    """Seconds of each engine's kernels by batch and classes."""
    found: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    with MEASURED.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[int(row["batch"]), int(row["classes"])][row["way"].removeprefix("facegm ")] = float(row["kernels_s"])
    return found


def test_the_model_is_near_what_was_measured() -> None:
    """Protects the constants: each size within a twentieth, over a range of 800 in time."""
    for (samples, classes), times in measured().items():
        for way in WAYS:
            assert seconds(way, samples, classes, DIM, H100, PROCESSORS) == pytest.approx(times[way], rel=0.05)


@pytest.mark.parametrize("can_fuse", [False, True])
def test_the_slowest_is_never_chosen(can_fuse: bool) -> None:
    """Protects from the fault that the choice once had, on whichever GPU; without fused it is dense where that fits."""
    for samples, classes in measured():
        for capability, processors in ((8, 108), (H100, PROCESSORS), (10, 148), (7, 80)):
            ways: tuple[Way, ...] = (*WAYS, "fused") if can_fuse else WAYS
            times = {way: seconds(way, samples, classes, DIM, capability, processors) for way in ways}
            chosen = cheapest(samples, classes, DIM, capability, processors, can_fuse=can_fuse)
            is_too_large = samples * classes > 2**29
            assert times[chosen] < max(times.values()) or (chosen == "chunked" and is_too_large)
            if not can_fuse:
                assert chosen == ("chunked" if is_too_large else "dense")


def test_the_use_of_processors_is_what_the_last_programs_leave() -> None:
    """Protects the formula by a case worked out by hand: 4,096 x 4,096 in tiles of 64 x 128 on 132 processors.

    2,048 tiles are 15.5 for each, hence 16 for some, in the comparison and in the panel; and 256 of the classes and
    1,024 of the samples are 9.7, hence 10.
    """
    expected = 4 / (2 * 16 * 132 / 2_048 + 2 * 10 * 132 / 1_280)
    assert use_of_processors(4_096, 4_096, DIM, H100, PROCESSORS) == pytest.approx(expected)


def test_on_a_cpu_memory_alone_chooses() -> None:
    small, large = torch.empty(16, 4), torch.empty(4_096, 4)
    assert isinstance(choose_engine("auto", small, 10_000), Dense)
    assert isinstance(choose_engine("auto", large, 100_000), Chunked)
