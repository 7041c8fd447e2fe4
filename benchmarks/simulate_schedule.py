"""How busy the fused kernels keep a GPU's processors, without a GPU; by `make bench-schedule`.

The kernels are compiled for GPUs of three generations; what they take says how many programs a processor holds at a
time, and each launch is simulated: a program goes to the processor that holds the fewest, and those that are together
there share it; where programs take several tiles, all start at once. The use of a pass is the processors' busy time
over all their time until its launches have ended, one after the other. A program is busy for its products of tiles, and
for one step more that fills its pipeline.
"""

import csv
import heapq
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from compiled_kernels import GPUS, PRODUCTS, Compiled, Gpu, compile_kernel, tiles_of

from facegm.losses.fused_schedule import Tiles, device_of, plan, programs_of_products, tiles

RESULTS = Path(__file__).parent / "results"
SIZES = ((256, 10_000), (256, 1_000_000), (4_096, 20_000), (4_096, 100_000), (4_096, 1_000_000))
"""Batches and classes."""
DIM = 512
BUSY_WARPS = 8
"""Warps that keep a processor's four tensor cores busy: one of two splits operands while the other multiplies."""


class Launch(NamedTuple):
    kernel: str
    shape: Tiles
    jobs: list[int]
    """Steps of each, in their order."""
    programs: int
    """Each takes every so many-th job."""

    @property
    def works(self) -> list[float]:
        """Of each program, in steps of 128 x 128 x 32."""
        step = self.shape.rows * self.shape.columns * self.shape.step / (128 * 128 * 32)
        return [step * sum(steps + 1 for steps in self.jobs[start :: self.programs]) for start in range(self.programs)]


Passes = dict[str, list[tuple[int, Launch]]]
"""Of `forward` and `backward`, the launches and how often each is repeated."""


def launches(samples: int, classes: int, gpu: Gpu) -> Passes:
    """As `Fused` cuts them."""
    device = device_of(gpu.capability // 10, gpu.processors)
    schedule = plan(samples, classes, DIM, device)
    steps = tiles(DIM, schedule.compare.step)
    rows = tiles(samples, schedule.compare.rows)
    parts = [tiles(part, schedule.compare.columns) for part in _cut(classes, schedule.classes_of_part)]
    jobs = [steps * part for part in parts for _ in range(rows)]
    forward = [(1, Launch("evidence", schedule.compare, jobs, schedule.compare.programs(len(jobs), device)))]
    backward = []
    for width, repeats in _repeated(_cut(classes, schedule.width)):
        jobs = [tiles(DIM, schedule.weigh.step)] * schedule.weigh.cover(schedule.height, width)
        backward.append((repeats, Launch("weigh", schedule.weigh, jobs, schedule.weigh.programs(len(jobs), device))))
        of_classes, of_samples = programs_of_products(schedule, width, DIM)
        shares = [tiles(share, schedule.products.step) for share in _cut(width, schedule.share)]
        jobs = [tiles(schedule.height, schedule.products.step)] * of_classes
        jobs += [share for share in shares for _ in range(of_samples // len(shares))]
        if schedule.height < schedule.share:
            jobs.reverse()
        backward.append((repeats, Launch("products", schedule.products, jobs, len(jobs))))
    return {"forward": forward, "backward": backward}


EARLIER = Tiles(128, 128, 32, 8, 3, 1)
"""Tiles of the kernels until 2026-11-28."""
EARLIER_KERNELS = {
    80: {"evidence": Compiled(255, 432, 98_560, 0, 27, 3), "weigh": Compiled(255, 488, 98_560, 0, 27, 3),
         "products": Compiled(255, 480, 98_304, 0, 84, 48)},
    90: {"evidence": Compiled(244, 0, 114_944, 0, 27, 3), "weigh": Compiled(232, 0, 114_944, 0, 27, 3),
         "products": Compiled(240, 0, 114_688, 0, 84, 48)},
    100: {"evidence": Compiled(250, 0, 98_568, 0, 27, 3), "weigh": Compiled(214, 0, 98_568, 0, 27, 3),
          "products": Compiled(236, 0, 99_336, 0, 87, 51)},
}  # fmt: skip
"""What those took, compiled by Triton 3.8."""


def earlier_launches(samples: int, classes: int) -> Passes:
    """As those kernels were cut: 264 programs forward, and panels of at most 64 MiB and 1 % of batch x classes."""
    rows, of_dim, steps = tiles(samples, 128), tiles(DIM, 128), tiles(DIM, 32)
    parts = [tiles(part, 128) for part in _cut(classes, 128 * tiles(classes, 128 * max(1, 264 // rows)))]
    jobs = [steps * part for part in parts for _ in range(rows)]
    forward = [(1, Launch("evidence", EARLIER, jobs, len(jobs)))]
    allowed = min(2**26 / 4, 0.01 * samples * classes) / (samples + DIM)
    backward = []
    for width, repeats in _repeated(_cut(classes, 128 * max(1, int(allowed) // 128))):
        jobs = [steps] * (rows * tiles(width, 128))
        backward.append((repeats, Launch("weigh", EARLIER, jobs, len(jobs))))
        jobs = [tiles(samples, 32)] * (of_dim * tiles(width, 128)) + [tiles(width, 32)] * (of_dim * rows)
        backward.append((repeats, Launch("products", EARLIER, jobs, len(jobs))))
    return {"forward": forward, "backward": backward}


def _cut(length: int, size: int) -> list[int]:
    return [min(size, length - start) for start in range(0, length, size)]


def _repeated(lengths: list[int]) -> Iterator[tuple[int, int]]:
    for length, same in groupby(lengths):
        yield length, len(list(same))


def simulate(works: list[float], processors: int, resident: int, warps: int) -> float:
    """When the last program of a launch ends.

    Args:
        works: of each program, the time that it would take of a processor that it keeps busy.
        processors: of the GPU.
        resident: programs that a processor holds at a time.
        warps: of a program.
    """
    alone = min(1.0, warps / BUSY_WARPS)
    held: list[list[float]] = [[] for _ in range(processors)]  # what is left of each program
    waiting = list(reversed(works))
    for place in range(min(len(waiting), processors * resident)):
        held[place % processors].append(waiting.pop())

    def to_next(programs: list[float]) -> float:
        return min(programs) / min(alone, 1 / len(programs))

    ends = [(to_next(programs), place) for place, programs in enumerate(held) if programs]
    heapq.heapify(ends)
    now = 0.0
    while ends:
        now, place = heapq.heappop(ends)
        least = min(held[place])
        held[place] = [left - least for left in held[place] if left > least * (1 + 1e-9)]
        while waiting and len(held[place]) < resident:
            held[place].append(waiting.pop())
        if held[place]:
            heapq.heappush(ends, (now + to_next(held[place]), place))
    return now


def use(passes: Passes, gpu: Gpu, compiled: Callable[[Launch], Compiled]) -> dict[str, float]:
    """Share of their time for which the processors are busy, of each pass."""
    found = {}
    for name, repeated in passes.items():
        busy = total = 0.0
        for repeats, launch in repeated:
            resident = compiled(launch).resident(gpu, launch.shape.warps)
            busy += repeats * sum(launch.works)
            total += repeats * gpu.processors * simulate(launch.works, gpu.processors, resident, launch.shape.warps)
        found[name] = busy / total
    return found


@cache
def processor_use(samples: int, classes: int, gpu: Gpu) -> dict[str, float]:
    """Of the kernels as they are."""
    passes = launches(samples, classes, gpu)
    return use(passes, gpu, lambda launch: compile_kernel(launch.kernel, launch.shape, gpu.capability))


def earlier_use(samples: int, classes: int, gpu: Gpu) -> dict[str, float]:
    """Of the kernels until 2026-11-28."""
    kernels = EARLIER_KERNELS[gpu.capability]
    return use(earlier_launches(samples, classes), gpu, lambda launch: kernels[launch.kernel])


def kernel_rows() -> Iterator[dict[str, object]]:
    """What each kernel takes on each GPU."""
    for gpu in GPUS:
        versions = [("before", EARLIER, name, EARLIER_KERNELS[gpu.capability][name]) for name in PRODUCTS]
        versions += [
            ("after", shape, name, compile_kernel(name, shape, gpu.capability))
            for shape in tiles_of(gpu)
            for name in PRODUCTS
        ]
        for when, shape, name, compiled in versions:
            tile = f"{shape.rows} x {shape.columns} x {shape.step}"
            resident = compiled.resident(gpu, shape.warps)
            yield {"gpu": gpu.name, "when": when, "kernel": name, "tile": tile, "warps": shape.warps} | {
                **compiled._asdict(), "programs_of_processor": resident
            }  # fmt: skip


def use_rows() -> Iterator[dict[str, object]]:
    """Use of the processors before and after."""
    for gpu in GPUS:
        for samples, classes in SIZES:
            before, after = earlier_use(samples, classes, gpu), processor_use(samples, classes, gpu)
            yield {"gpu": gpu.name, "processors": gpu.processors, "batch": samples, "classes": classes} | {
                f"{name}_{when}": round(share[name], 3)
                for name in ("forward", "backward")
                for when, share in (("before", before), ("after", after))
            }


def write(name: str, rows: list[dict[str, object]]) -> None:
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


def main() -> None:
    write("schedule_kernels", list(kernel_rows()))
    write("schedule", list(use_rows()))


if __name__ == "__main__":
    main()
