"""Which implementation of the GM loss runs: chosen by size and device, or by name."""

from typing import Literal

from torch import Tensor

from facegm.losses.blocks import Chunked, Dense
from facegm.losses.engine import Engine

Implementation = Literal["auto", "dense", "chunked", "fused"]
"""`dense` holds batch x classes exponentials in one buffer; `chunked` never holds more than a block of them, and
computes them twice; so does `fused`, in Triton kernels on a GPU. `auto` is dense while the buffer is small, then fused
or else chunked."""

DENSE_BYTES = 2**28
"""Largest buffer that `auto` holds."""
SCRATCH_NUMBERS = {"cpu": 2**21, "cuda": 2**24}
"""Numbers in a block's scratch memory, of logits or of means: what a processor's cache likes, or fills a GPU."""


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
    if implementation == "chunked":
        return Chunked(size)
    return Dense(4 * size if features.device.type == "cpu" else size)  # on a CPU few large blocks cost less


def block_size(features: Tensor) -> int:
    """Classes in a block."""
    numbers = SCRATCH_NUMBERS.get(features.device.type, SCRATCH_NUMBERS["cuda"])
    return max(256, numbers // max(features.shape))
