"""Classification without logits in memory: Triton kernels on a CUDA device."""

import importlib.util
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from facegm.losses.engine import Engine, Operands, Others, Weights
from facegm.losses.fused_schedule import (
    INTERPRETED,
    SURVEYED,
    Device,
    Tiles,
    device_of,
    plan,
    programs_of_products,
    tiles,
)

Result = TypeVar("Result")


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def obstacle(features: Tensor) -> str | None:
    """Why the fused implementation cannot run for features like these, or None."""
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if features.device.type != "cuda" and not is_interpreted:
        return f"the device is {features.device.type}, not cuda"
    if not _has_triton():
        return "Triton is not installed"
    if not is_interpreted and torch.cuda.get_device_capability(features.device) < (8, 0):
        return "the GPU is of a generation before Ampere, without TF32"
    if features.dtype != torch.float32:
        return f"the computation is in {features.dtype}, not float32"
    return None


def _on_its_device(method: Callable[..., Result]) -> Callable[..., Result]:
    """Triton launches on the current device, which need not be that of the tensors."""

    @wraps(method)
    def wrapped(self: "Fused", batch: Operands, *others: Any) -> Result:
        with torch.cuda.device_of(batch.x):
            return method(self, batch, *others)

    return wrapped


class Kept(NamedTuple):
    """What `gradients` needs of `compare`."""

    lengths: Tensor | None
    """Of cosines 1 / ||w_k||. Shape [classes]."""
    bias: Tensor | None
    """All that is added to the products. Shape [classes]."""


class Fused(Engine):
    """Logits are computed, used and forgotten tile by tile; weights are held for a panel of classes at a time."""

    @_on_its_device
    def compare(self, batch: Operands) -> tuple[Others, Kept]:
        """Compare samples with all other classes; keep the classes' factors and biases."""
        from facegm.losses import fused_kernels as kernels

        x, vectors = batch.x.contiguous(), batch.vectors.contiguous()
        (samples, dim), classes, device = x.shape, len(vectors), _device(x)
        kept, total, spread = _survey(batch, vectors, device)
        schedule = plan(samples, classes, dim, device)
        shape, parts = schedule.compare, tiles(classes, schedule.classes_of_part)
        maxima, totals = (x.new_empty(parts, samples) for _ in range(2))
        kernels.evidence[(shape.programs(tiles(samples, shape.rows) * parts, device),)](
            x, vectors, batch.origin, *kept, batch.own, maxima, totals, samples, classes, dim,
            schedule.classes_of_part, SAMPLES=shape.rows, CLASSES=shape.columns, **_options(shape, dim, device),
        )  # fmt: skip
        maximum = maxima.amax(dim=0)
        exponentials = totals.mul_((maxima - maximum).exp_()).sum(dim=0).clamp_min_(torch.finfo(totals.dtype).tiny)
        return Others(maximum, maximum + exponentials.log_(), total, spread), kept

    @_on_its_device
    def gradients(self, batch: Operands, kept: Kept | None, weights: Weights) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sum up what samples and classes do to each other."""
        from facegm.losses import fused_kernels as kernels

        x, vectors = batch.x.contiguous(), batch.vectors.contiguous()
        (samples, dim), classes, device = x.shape, len(vectors), _device(x)
        lengths, bias = kept or _survey(batch, vectors, device)[0]
        schedule = plan(samples, classes, dim, device)
        height, width, share, shares = schedule.height, schedule.width, schedule.share, schedule.shares
        of_total = weights.of_total.contiguous()  # a derivative may be one number, seen dim times
        turned_x = x.new_zeros(dim, height)
        turned_x[:, :samples] = x.T
        of_samples, gradient = x.new_zeros(shares, samples, dim), torch.empty_like(vectors)
        of_bias = None if batch.bias is None else torch.empty_like(batch.bias)
        shape, panel = schedule.weigh, x.new_empty(height, width)
        sums = x.new_empty(height // shape.rows, width)
        for first in range(0, classes, width):
            stop = min(first + width, classes)
            kernels.weigh[(shape.programs(shape.cover(height, stop - first), device),)](
                x, vectors, batch.origin, lengths, bias, batch.own, weights.log_normalizer, weights.own, panel, sums,
                samples, first, stop, dim, width, height,
                SAMPLES=shape.rows, CLASSES=shape.columns, **_options(shape, dim, device),
            )  # fmt: skip
            kernels.products[(sum(programs_of_products(schedule, stop - first, dim)),)](
                panel, sums, turned_x, vectors, batch.origin, lengths, batch.log_weights, weights.scale,
                of_total, weights.of_spread, of_samples, gradient, of_bias,
                samples, first, stop, dim, width, height, share, len(sums), DISTANCES=batch.kind == "distances",
                CLASSES_FIRST=height >= share, ROWS=schedule.products.rows, COLUMNS=schedule.products.columns,
                **_options(schedule.products, dim, device),
            )  # fmt: skip
        return of_samples.sum(dim=0) if shares > 1 else of_samples[0], gradient, of_bias


def _survey(batch: Operands, vectors: Tensor, device: Device) -> tuple[Kept, Tensor, Tensor]:
    """The classes by themselves: factors and biases, `Others.total` and `Others.spread`."""
    from facegm.losses import fused_kernels as kernels

    classes, dim = vectors.shape
    total, spread, log_weights = vectors.new_zeros(dim), vectors.new_zeros(()), batch.log_weights
    if batch.kind == "products":
        return Kept(None, _sum(batch.bias, log_weights)), total, spread
    width = 1 << (dim - 1).bit_length()
    rows = max(1, SURVEYED // width)
    classes_of_part = rows * tiles(classes, 4 * device.processors * rows)
    sizes = vectors.new_empty(classes)
    totals = vectors.new_empty(tiles(classes, classes_of_part), dim) if batch.kind == "distances" else None
    kernels.survey[(tiles(classes, classes_of_part),)](
        vectors, batch.origin, log_weights, sizes, totals, classes, dim, classes_of_part,
        COSINES=totals is None, CLASSES=rows, DIM=width,
    )  # fmt: skip
    if totals is None:
        return Kept(sizes, log_weights), total, spread
    spread = sizes.sum() if log_weights is None else sizes @ log_weights.exp()
    return Kept(None, _sum(sizes.mul_(-0.5), log_weights)), totals.sum(dim=0), spread


def _sum(bias: Tensor | None, log_weights: Tensor | None) -> Tensor | None:
    return log_weights if bias is None else bias if log_weights is None else bias + log_weights


def _options(shape: Tiles, dim: int, device: Device) -> dict[str, Any]:
    """What a product's kernel takes beside the sides of its tiles."""
    return {
        "STEP": shape.step,
        "EVEN": dim % device.unit == 0,
        "num_warps": shape.warps,
        "num_stages": shape.stages,
        "maxnreg": shape.registers,
    }


def _device(x: Tensor) -> Device:
    if x.device.type != "cuda":
        return INTERPRETED
    properties = torch.cuda.get_device_properties(x.device)
    return device_of(properties.major, properties.multi_processor_count)
