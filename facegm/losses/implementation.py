"""Which implementation of the GM loss runs: chosen by size and device, or by name."""

from typing import Literal

from torch import Tensor

from facegm.losses.blocks import Chunked, Dense
from facegm.losses.engine import Engine

Implementation = Literal["auto", "dense", "chunked", "fused"]
"""`dense` holds batch x classes exponentials in one buffer; `chunked` never does, and computes them twice; `fused`
neither holds nor writes them (Triton, CUDA). `auto` is dense while the buffer is small, then fused or else chunked."""

DENSE_BYTES = 2**28
"""Largest buffer that `auto` holds."""


def choose_engine(implementation: Implementation, features: Tensor, classes: int) -> Engine:
    """The engine for features of shape [batch, dim] in the precision of the computation.

    Raises:
        ValueError: `fused` is asked for where it cannot run.
    """
    from facegm.losses.fused import Fused, obstacle

    if implementation == "auto":
        if len(features) * classes * features.element_size() <= DENSE_BYTES:
            implementation = "dense"
        else:
            implementation = "chunked" if obstacle(features) else "fused"
    if implementation == "fused":
        if reason := obstacle(features):
            raise ValueError(f"implementation: fused, but {reason}; take auto")
        return Fused()
    size = block_size(features)
    return Dense(4 * size) if implementation == "dense" else Chunked(size)  # dense does not save memory in its blocks


def block_size(features: Tensor) -> int:
    """Classes in a block of scratch memory: what a processor's cache likes, or on a GPU one launch's worth."""
    samples = max(len(features), 1)
    if features.device.type == "cpu":
        return max(256, min(4096, 2**20 // samples))
    return max(1024, DENSE_BYTES // (features.element_size() * samples))
