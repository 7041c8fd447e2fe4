"""The GM loss without logits in memory: Triton kernels on a CUDA device."""

import importlib.util
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from facegm.losses.engine import Engine, Operands, Others, Weights

Result = TypeVar("Result")
TILE, STEP, ROWS = 128, 32, 16
"""Samples, classes or dimensions of a product's tile; how many it sums up at a time; rows of a tile without product."""
PANEL_BYTES = 2**26
"""Largest panel of weights, which `gradients` writes and reads in the device's cache or memory."""
PANEL_SHARE = 0.01
"""Largest panel, with what goes with it, as a share of batch x classes; but one tile of classes."""
PROGRAMS = 264
"""Programs that keep a large device busy: two for each of its 132 processors."""


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


class Fused(Engine):
    """Logits are computed, used and forgotten tile by tile; weights are held for a panel of classes at a time."""

    @_on_its_device
    def compare(self, batch: Operands) -> tuple[Others, Tensor]:
        """Compare samples with all other classes; keep the classes' biases."""
        from facegm.losses import fused_kernels as kernels

        b = _Arguments(batch)
        squared_norms = b.means.new_empty(b.classes)
        kernels.squared_norms[(_tiles(b.classes, ROWS),)](
            b.means, b.origin, squared_norms, b.classes, b.dim, CLASSES=ROWS, DIM=TILE
        )
        # As a product: torch's sum over rows takes up to twice the means as scratch memory on a GPU.
        of_classes = b.means.new_ones(b.classes) if batch.log_weights is None else batch.log_weights.exp()
        sums = of_classes @ b.means - of_classes.sum() * b.origin, squared_norms @ of_classes
        bias = squared_norms.mul_(-0.5)
        if batch.log_weights is not None:
            bias += batch.log_weights
        rows, classes_of_part = _tiles(b.samples, TILE), _classes_of_part(b.samples, b.classes)
        parts = _tiles(b.classes, classes_of_part)
        maxima, totals = (b.features.new_empty(parts, b.samples) for _ in range(2))
        kernels.evidence[(rows, parts)](
            b.features, b.means, b.origin, bias, b.own, maxima, totals, b.samples, b.classes, b.dim, classes_of_part,
            SAMPLES=TILE, CLASSES=TILE, DIM=STEP, num_warps=8,
        )  # fmt: skip
        maximum = maxima.amax(dim=0)
        total = totals.mul_((maxima - maximum).exp_()).sum(dim=0).clamp_min_(torch.finfo(totals.dtype).tiny)
        return Others(maximum, maximum + total.log_(), *sums), bias

    @_on_its_device
    def gradients(self, batch: Operands, kept: Tensor | None, weights: Weights) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sum up what samples and classes do to each other."""
        from facegm.losses import fused_kernels as kernels

        b = _Arguments(batch)
        bias = self.compare(batch)[1] if kept is None else kept
        weighted_means, gradient = torch.zeros_like(b.features), torch.empty_like(b.means)
        size = _panel_size(b.samples, b.classes, b.dim)
        panel, transposed_means = b.means.new_empty(size, b.samples), b.means.new_empty(b.dim, size)
        for first in range(0, b.classes, size):
            stop = min(first + size, b.classes)
            kernels.weigh[(_tiles(b.samples, TILE) + 1, _tiles(stop - first, TILE))](
                b.features, b.means, b.origin, bias, b.own, weights.log_normalizer, weights.own, panel,
                transposed_means, b.samples, first, stop, b.dim, SAMPLES=TILE, CLASSES=TILE, DIM=STEP, num_warps=8,
            )  # fmt: skip
            tiles = _tiles(b.dim, TILE) * (_tiles(stop - first, TILE) + _tiles(b.samples, TILE))
            kernels.products[(tiles,)](
                panel, b.features, b.means, transposed_means, b.origin, weights.scale, torch.zeros(1).to(b.means),
                weights.of_total,
                weighted_means, gradient, b.samples, first, stop, b.dim,
                ROWS=TILE, COLUMNS=TILE, STEP=STEP, num_warps=8,
            )  # fmt: skip
        of_all = weights.of_total + 2 * weights.of_spread * (b.means - b.origin)
        gradient += of_all if batch.log_weights is None else of_all * batch.log_weights.exp()[:, None]
        return weighted_means, gradient, None


class _Arguments:
    """A batch as the kernels take it."""

    def __init__(self, batch: Operands) -> None:
        if batch.kind != "distances":
            raise NotImplementedError("the fused kernels know distances alone")
        self.means, self.own = batch.vectors.contiguous(), batch.own
        self.origin = self.means.new_zeros(self.means.shape[1]) if batch.origin is None else batch.origin
        self.features = (batch.x + self.origin).contiguous()
        (self.samples, self.dim), self.classes = self.features.shape, len(self.means)


def _panel_size(samples: int, classes: int, dim: int) -> int:
    """Classes in a panel, full tiles."""
    allowed = min(PANEL_BYTES / 4, PANEL_SHARE * samples * classes) / (samples + dim)
    return TILE * max(1, int(allowed) // TILE)


def _classes_of_part(samples: int, classes: int) -> int:
    """Classes that one program of `compare` runs through, full tiles."""
    return TILE * _tiles(classes, TILE * max(1, PROGRAMS // _tiles(samples, TILE)))


def _tiles(length: int, size: int) -> int:
    return -(-length // size)
