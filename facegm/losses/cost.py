"""What the engines would take on a GPU, by which `auto` chooses: arithmetic with a few measured constants.

`benchmarks/fit_cost.py` finds the constants from what `make bench-loss` measures on a GPU.
"""

from typing import Literal, NamedTuple

from facegm.losses.engine import SCRATCH_NUMBERS
from facegm.losses.fused_schedule import device_of, plan, programs_of_products, tiles

Way = Literal["dense", "chunked", "fused"]


class Machine(NamedTuple):
    """A generation of GPUs."""

    products: float
    """Multiplications and additions a second, of float32 products."""
    fused_products: float
    """Of those that the fused kernels make of TF32 ones, were all processors busy."""
    bandwidth: float
    """Bytes a second, to or from memory."""
    launch: float
    """Seconds of a kernel that does next to nothing."""


H100 = Machine(products=50.4e12, fused_products=47e12, bandwidth=3.0e12, launch=8.2e-6)
"""Measured (`benchmarks/results/gm_loss_h100.csv`), but for `fused_products`: that is what the kernels before
these reached where they had enough to do, and `fit_cost.py` finds in the same file. These are not measured yet."""
MACHINES = {
    8: Machine(products=16e12, fused_products=15e12, bandwidth=1.8e12, launch=8.2e-6),
    9: H100,
    10: Machine(products=60e12, fused_products=104e12, bandwidth=7e12, launch=8.2e-6),
}
"""By the major number of a GPU's compute capability: those of A100 and B200 are the H100's in proportion to the data
sheets. Others count as an H100: it is proportions that choose."""
PASSES: dict[Way, tuple[float, float]] = {"dense": (14.7, 12.8), "chunked": (26.5, 12.5), "fused": (4.0, 7.0)}
"""How often the numbers of batch x classes and of the vectors go to or from memory, beside the products; of the two
first as measured, of the last as counted in the kernels."""
LAUNCHES, BLOCK_LAUNCHES, PANEL_LAUNCHES = 30, 12, 2
"""Kernels that each engine launches; that `dense` and `chunked` launch for each block of classes, and `fused` for each
panel."""
DENSE_NUMBERS = 2**22, 2**29
"""Batch x classes numbers up to which `dense` is taken without further ado, for what is over in a millisecond is not
worth compiling kernels; and beyond which it is not, for its memory."""


def cheapest(samples: int, classes: int, dim: int, capability: int, processors: int, *, can_fuse: bool) -> Way:
    """The engine to take on a GPU; see `seconds`. Whether it can run the fused kernels is for the caller to know."""
    numbers = samples * classes
    if numbers <= DENSE_NUMBERS[0]:
        return "dense"
    ways: list[Way] = ["chunked"]
    if numbers <= DENSE_NUMBERS[1]:
        ways.append("dense")
    if can_fuse:
        ways.append("fused")
    return min(ways, key=lambda way: seconds(way, samples, classes, dim, capability, processors))


def seconds(way: Way, samples: int, classes: int, dim: int, capability: int, processors: int) -> float:
    """Time of an engine, forward and backward.

    Args:
        way: the engine.
        samples: in the batch.
        classes: that the batch is compared with.
        dim: length of a feature.
        capability: major number of the GPU's compute capability.
        processors: of the GPU.
    """
    machine = MACHINES.get(capability, H100)
    of_logits, of_vectors = PASSES[way]
    product = 2 * samples * classes * dim
    time = 4 * classes * (samples * of_logits + dim * of_vectors) / machine.bandwidth
    if way == "fused":
        panels = tiles(classes, plan(samples, classes, dim, device_of(capability, processors)).width)
        use = use_of_processors(samples, classes, dim, capability, processors)
        return time + (LAUNCHES + PANEL_LAUNCHES * panels) * machine.launch + 4 * product / machine.fused_products / use
    time += (LAUNCHES + BLOCK_LAUNCHES * blocks_of(samples, classes, dim)) * machine.launch
    return time + (3 if way == "dense" else 4) * product / machine.products


def blocks_of(samples: int, classes: int, dim: int) -> int:
    """Blocks of classes of the engines that go block by block."""
    return tiles(classes, max(256, SCRATCH_NUMBERS["cuda"] // max(samples, dim)))


def use_of_processors(samples: int, classes: int, dim: int, capability: int, processors: int) -> float:
    """Share of the fused kernels' time for which a GPU's processors are busy: what the last programs leave of it.

    `benchmarks/simulate_schedule.py` says it more exactly.
    """
    schedule = plan(samples, classes, dim, device_of(capability, processors))
    compared = tiles(samples, schedule.compare.rows) * tiles(classes, schedule.classes_of_part)
    weighed = schedule.weigh.cover(schedule.height, schedule.width)
    multiplied = sum(programs_of_products(schedule, schedule.width, dim))
    of_product = [tiles(jobs, processors) * processors / jobs for jobs in (compared, weighed, multiplied, multiplied)]
    return len(of_product) / sum(of_product)
