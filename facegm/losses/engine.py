"""What an implementation of the losses computes, in which terms, and which one runs."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Implementation = Literal["auto", "dense", "chunked", "fused"]
"""`dense` holds batch x classes exponentials in one buffer; `chunked` never holds more than a block of them, and
computes them twice; so does `fused`, in Triton kernels on a GPU. There `auto` takes what `facegm.losses.cost` expects
to be the fastest; elsewhere it is dense while the buffer is small, then chunked."""
Kind = Literal["distances", "products", "cosines"]
"""The logits of samples x and learned vectors w_k, as x . v_k + b_k:

- `distances`: v_k = w_k - origin and b_k = -||v_k||^2 / 2, which is minus half the squared distance but for a constant
  of the sample;
- `products`: v_k = w_k and b_k is learned;
- `cosines`: v_k = w_k / ||w_k|| and b_k = 0; the features have been given one length.
"""

DENSE_BYTES = 2**28
"""Largest buffer that `auto` holds on a CPU."""
SCRATCH_NUMBERS = {"cpu": 2**21, "cuda": 2**24}
"""Numbers in a block's scratch memory, of logits or of vectors: what a processor's cache likes, or fills a GPU."""
LEAST = torch.finfo(torch.float32).min
"""Logit of a class that is to count for nothing: unlike -inf, it can be subtracted from itself."""
LEAST_LENGTH = 1e-12
"""A shorter class vector counts as this long in its cosines, so that 0 has some."""


class Operands(NamedTuple):
    """Samples and classes; see `Kind`."""

    x: Tensor
    """Relative to the origin, where there is one. Shape [batch, dim]."""
    vectors: Tensor
    """As learned. Shape [classes, dim]."""
    own: Tensor
    """Own class of each sample, as a row of the vectors; outside 0 to classes - 1 where it is none. [batch]."""
    kind: Kind
    origin: Tensor | None = None
    """A point amid the vectors, which keeps distances exact in single precision; no origin is 0. Shape [dim]."""
    bias: Tensor | None = None
    """Of products. Shape [classes]."""
    log_weights: Tensor | None = None
    """Log of the number of classes that each stands for, which is added to its logits; its own one is 0. [classes]."""

    @property
    def is_here(self) -> Tensor:
        """Whether the own class is among the vectors. Shape [batch]."""
        return (self.own >= 0) & (self.own < len(self.vectors))

    @property
    def row(self) -> Tensor:
        """Row of the own class, or, where that is none of these, of another. Shape [batch]."""
        return self.own.clamp(0, len(self.vectors) - 1)


class Others(NamedTuple):
    """What the classes other than a sample's own say of it; its own is left out, so that nothing cancels."""

    maximum: Tensor
    """Largest logit of another class. Shape [batch]."""
    log_sum_exp: Tensor
    """Log of the sum of their exponentials; hugely negative where there is no other class. Shape [batch]."""
    total: Tensor
    """Of distances: sum over all classes, own ones too, of weight_k v_k; else 0. Shape [dim]."""
    spread: Tensor
    """Of distances: sum over all classes, own ones too, of weight_k ||v_k||^2; else 0. Shape []."""


class Weights(NamedTuple):
    """How strongly each class acts on each sample, and what acts on the classes alone.

    w_ik is exp(logit_ik - log_normalizer_i) of the other classes, and `own` of the own class.
    """

    log_normalizer: Tensor
    """Shape [batch]."""
    own: Tensor
    """Of any sign. Shape [batch]."""
    scale: Tensor
    """Factor of all w_ik in the gradients of vectors and bias, of any sign. Shape []."""
    of_total: Tensor
    """Derivative of the loss by `Others.total`. Shape [dim]."""
    of_spread: Tensor
    """Derivative of the loss by `Others.spread`. Shape []."""


class Engine(ABC):
    """An implementation."""

    @abstractmethod
    def compare(self, batch: Operands) -> tuple[Others, Any]:
        """Compare samples with all other classes; the second part is what `gradients` needs of it."""

    @abstractmethod
    def gradients(self, batch: Operands, kept: Any, weights: Weights) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sum up what samples and classes do to each other.

        With g_k = scale sum_i w_ik x_i, the gradient of w_k is

        - of distances: g_k - scale sum_i w_ik v_k + weight_k (of_total + 2 of_spread v_k);
        - of products: g_k, and that of b_k is scale sum_i w_ik;
        - of cosines: (g_k - (g_k . v_k) v_k) / ||w_k||.

        Args:
            batch: as in `compare`.
            kept: what `compare` kept, which may be overwritten; None to compute it anew.
            weights: w_ik, and what acts on the classes alone.

        Returns:
            sum_k w_ik v_k, shape [batch, dim]; the vectors' gradient, shape [classes, dim]; and the bias's, shape
            [classes], of products that have one.
        """


def choose_engine(implementation: Implementation, features: Tensor, classes: int) -> Engine:
    """The engine for features of shape [batch, dim] in the precision of the computation.

    Raises:
        ValueError: `fused` is asked for where it cannot run.
    """
    from facegm.losses.blocks import Chunked, Dense
    from facegm.losses.fused import Fused, obstacle

    if implementation == "auto":
        implementation = _cheapest(features, classes)
    if implementation == "fused":
        if reason := obstacle(features):
            raise ValueError(f"implementation: fused, but {reason}; take auto")
        return Fused()
    size = block_size(features)
    if implementation == "chunked":
        return Chunked(size)
    return Dense(4 * size if features.device.type == "cpu" else size)  # on a CPU few large blocks cost less


def _cheapest(features: Tensor, classes: int) -> Implementation:
    from facegm.losses.cost import cheapest
    from facegm.losses.fused import obstacle

    if features.device.type != "cuda":
        return "dense" if len(features) * classes * features.element_size() <= DENSE_BYTES else "chunked"
    gpu = torch.cuda.get_device_properties(features.device)
    samples, dim = features.shape
    can_fuse = obstacle(features) is None
    return cheapest(samples, classes, dim, gpu.major, gpu.multi_processor_count, can_fuse=can_fuse)


def block_size(features: Tensor) -> int:
    """Classes in a block."""
    numbers = SCRATCH_NUMBERS.get(features.device.type, SCRATCH_NUMBERS["cuda"])
    return max(256, numbers // max(features.shape))
