"""Products in full single precision."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@contextmanager
def exact_products(device_type: str) -> Iterator[None]:
    """No autocast and no TF32 inside: products keep float32, whatever the process allows elsewhere."""
    # torch 2.9 replaced one global setting by one for each backend, and refuses a mix of the two.
    matmuls: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    backends = [backend for backend in matmuls if hasattr(backend, "fp32_precision")]
    before = [backend.fp32_precision for backend in backends] or torch.get_float32_matmul_precision()
    _set_precision(backends, ["ieee"] * len(backends) or "highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        _set_precision(backends, before)


def _set_precision(backends: list[Any], precision: list[str] | str) -> None:
    if isinstance(precision, str):
        torch.set_float32_matmul_precision(precision)
        return
    for backend, value in zip(backends, precision, strict=True):
        backend.fp32_precision = value


def precision_of(*tensors: Tensor) -> torch.dtype:
    """The precision in which a loss computes: float32, or float64 where an input has it."""
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def exact_product(rows: Tensor, others: Tensor) -> Tensor:
    """The product rows @ others.T, forward and backward in full precision; both in one, float32 at least."""
    product: Tensor = _ExactProduct.apply(rows, others)
    return product


class _ExactProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(rows, others)
        with exact_products(rows.device.type):
            return rows @ others.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        rows, others = ctx.saved_tensors
        with exact_products(rows.device.type):
            return gradient @ others, gradient.T @ rows
