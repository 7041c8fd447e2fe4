"""How the fused kernels are cut into programs, so that these fill a GPU's processors: arithmetic alone.

`benchmarks/simulate_schedule.py` compiles the kernels and simulates what comes of it.
"""

from functools import lru_cache
from typing import NamedTuple

PANEL_BYTES, PANEL_SHARE = 2**26, 0.01
"""Largest panel of weights, which `gradients` writes and reads: this much, or this share of batch x classes numbers."""
PARTIAL_BYTES = 2**25
"""Largest partial sums of the samples' gradients."""
LEAST_SHARE = 512
"""Classes of a panel that one program sums up at the least: fewer cost more to add up than to sum."""
TILES_OF_PROCESSOR = 4
"""Tiles of a product that each processor should get at the least: else they are taken smaller."""
SURVEYED = 4096
"""Numbers that a program of `survey` looks at in one go."""


class Tiles(NamedTuple):
    """The tile of a product that one program computes, and what it takes to."""

    rows: int
    columns: int
    step: int
    """Summands that it takes at a time; the sides of all tiles of a device are multiples of it."""
    warps: int
    stages: int
    """Steps whose operands are on their way."""
    resident: int
    """Programs that a processor is to hold at a time."""

    @property
    def registers(self) -> int:
        """Of a thread, so that so many programs find room among a processor's 65,536."""
        return min(255, 65_536 // (32 * self.warps * self.resident) // 8 * 8)

    def cover(self, rows: int, columns: int) -> int:
        """Tiles of a matrix."""
        return tiles(rows, self.rows) * tiles(columns, self.columns)

    def programs(self, jobs: int, device: "Device") -> int:
        """Programs that share so many jobs, all of them at work at a time."""
        return min(jobs, self.resident * device.processors)


class Device(NamedTuple):
    """A GPU as far as the schedule goes."""

    processors: int
    large: Tiles
    small: Tiles

    @property
    def unit(self) -> int:
        """A length that all tiles divide."""
        return max(*self.large[:2], *self.small[:2])

    def tiles_for(self, large_ones: int) -> Tiles:
        """The tiles of a product that has so many large ones."""
        return self.large if large_ones >= TILES_OF_PROCESSOR * self.processors else self.small


AMPERE = Tiles(64, 128, 16, 4, 3, 2), Tiles(64, 64, 16, 4, 4, 3)
HOPPER = Tiles(64, 128, 32, 4, 3, 2), Tiles(64, 64, 32, 4, 3, 3)
BLACKWELL = Tiles(128, 64, 32, 4, 3, 2), Tiles(64, 64, 32, 4, 3, 3)
TILES = {8: AMPERE, 9: HOPPER, 10: BLACKWELL, 12: AMPERE}
"""Large and small tiles by the major number of a GPU's compute capability: the largest with which the loops spill no
registers and a processor holds two programs at least, so that one's products hide the other's splitting of operands."""
INTERPRETED = Device(3, Tiles(32, 64, 32, 4, 1, 2), Tiles(32, 32, 32, 4, 1, 2))
"""For Triton's interpreter, which runs small cases."""


def device_of(capability: int, processors: int) -> Device:
    """The schedule's view of a GPU with so many processors, by the major number of its compute capability."""
    return Device(processors, *TILES.get(capability, AMPERE))


class Schedule(NamedTuple):
    """How a batch is cut."""

    compare: Tiles
    classes_of_part: int
    """Classes that one program of `compare` runs through."""
    weigh: Tiles
    products: Tiles
    height: int
    """Samples of a panel of weights, full tiles."""
    width: int
    """Classes of a panel, full tiles."""
    share: int
    """Classes of a panel that one program sums up for the samples."""
    shares: int


@lru_cache(maxsize=64)
def plan(samples: int, classes: int, dim: int, device: Device) -> Schedule:
    """The schedule of a batch."""
    height = device.unit * tiles(samples, device.unit)
    panel = max(PANEL_BYTES, int(PANEL_SHARE * 4 * samples * classes))
    most = max(1, panel // 4 // height // device.unit)
    panels = tiles(tiles(classes, device.unit), most)
    width = device.unit * tiles(classes, device.unit * panels)
    shares = min(tiles(width, max(LEAST_SHARE, height // 4)), max(1, PARTIAL_BYTES // (4 * samples * dim)))
    share = device.unit * tiles(width, device.unit * shares)
    compare = device.tiles_for(device.large.cover(samples, classes))
    return Schedule(
        compare=compare,
        classes_of_part=_classes_of_part(compare, tiles(samples, compare.rows), classes, device.processors),
        weigh=device.tiles_for(device.large.cover(height, width)),
        products=device.tiles_for(device.large.cover(width, dim) + shares * device.large.cover(dim, height)),
        height=height,
        width=width,
        share=share,
        shares=tiles(width, share),
    )


def programs_of_products(schedule: Schedule, classes: int, dim: int) -> tuple[int, int]:
    """Programs that sum up a panel of so many classes, for the classes and for the samples."""
    shape = schedule.products
    of_samples = tiles(dim, shape.rows) * (schedule.height // shape.columns) * tiles(classes, schedule.share)
    return shape.cover(classes, dim), of_samples


def _classes_of_part(shape: Tiles, rows: int, classes: int, processors: int) -> int:
    """The largest parts of the classes that end almost as early as any."""
    columns = tiles(classes, shape.columns)

    def ends_at(parts: int) -> int:
        jobs = tiles(rows * parts, processors)  # of the busiest processor; one program alone is half as fast
        return tiles(columns, parts) * (jobs + (jobs % shape.resident == 1))

    most = min(columns, tiles(8 * shape.resident * processors, rows))
    earliest = min(ends_at(parts) for parts in range(1, most + 1))
    parts = next(parts for parts in range(1, most + 1) if ends_at(parts) <= 1.02 * earliest)
    return shape.columns * tiles(columns, parts)


def scratch_bytes(samples: int, classes: int, dim: int, device: Device) -> int:
    """Memory that a batch takes beside its operands, its gradients and two numbers a class.

    Up to 8,192 samples of 512 dimensions it is below 128 MiB or 2 % of batch x classes numbers, whichever is more.
    """
    schedule = plan(samples, classes, dim, device)
    parts = tiles(classes, schedule.classes_of_part)
    forward = 3 * parts * samples + 4 * device.processors * dim
    sums = schedule.height // schedule.weigh.rows * schedule.width
    backward = schedule.height * (schedule.width + dim) + sums + (schedule.shares + 1) * samples * dim
    return 4 * (max(forward, backward) + 16 * samples + 8 * dim)


def tiles(length: int, size: int) -> int:
    """How many of a size cover a length."""
    return -(-length // size)
