"""What an implementation of the GM loss computes, in which terms, and which one runs."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Implementation = Literal["auto", "dense", "chunked", "fused"]
"""`dense` holds batch x classes exponentials in one buffer; `chunked` never holds more than a block of them, and
computes them twice; so does `fused`, in Triton kernels on a GPU. `auto` is dense while the buffer is small, then fused
or else chunked."""

DENSE_BYTES = 2**28
"""Largest buffer that `auto` holds."""
SCRATCH_NUMBERS = {"cpu": 2**21, "cuda": 2**24}
"""Numbers in a block's scratch memory, of logits or of means: what a processor's cache likes, or fills a GPU."""
LEAST = torch.finfo(torch.float32).min
"""Logit of a class that is to count for nothing: unlike -inf, it can be subtracted from itself."""


class Operands(NamedTuple):
    """Samples and class means, with x = features - origin and m = means - origin; no origin is 0.

    The logit of class k is x . m_k - ||m_k||^2 / 2: minus half the squared distance, up to a constant of the sample.
    """

    features: Tensor
    """Shape [batch, dim]."""
    means: Tensor
    """Shape [classes, dim]."""
    origin: Tensor | None
    """A point amid the means, which keeps the products exact in single precision. Shape [dim]."""
    own: Tensor
    """Own class of each sample, as a row of the means; outside 0 to classes - 1 where it is none of these. [batch]."""
    log_weights: Tensor | None = None
    """Added to the logits of the classes. Shape [classes]."""

    @property
    def x(self) -> Tensor:
        """Features relative to the origin. Shape [batch, dim]."""
        return self.features if self.origin is None else self.features - self.origin

    @property
    def is_here(self) -> Tensor:
        """Whether the own class is among the means. Shape [batch]."""
        return (self.own >= 0) & (self.own < len(self.means))

    @property
    def row(self) -> Tensor:
        """Row of the own class, or, where that is none of these, of another. Shape [batch]."""
        return self.own.clamp(0, len(self.means) - 1)

    @property
    def mean_x(self) -> Tensor:
        """Mean of x over the samples, without making x. Shape [dim]."""
        mean = self.features.mean(dim=0)
        return mean if self.origin is None else mean - self.origin


class Position(NamedTuple):
    """Where samples are, relative to the origin and to their own class."""

    squared_radius: Tensor
    """||x||^2. Shape [batch]."""
    own_squared_distance: Tensor
    """||x - m_z||^2; 0 where class z is none of these. Shape [batch]."""
    own_logit: Tensor
    """x . m_z - ||m_z||^2 / 2; 0 where class z is none of these. Shape [batch]."""


class Others(NamedTuple):
    """What the classes other than a sample's own say of it; its own is left out, so that nothing cancels."""

    maximum: Tensor
    """Largest logit of another class. Shape [batch]."""
    log_sum_exp: Tensor
    """Log of the sum of their exponentials; hugely negative where there is no other class. Shape [batch]."""
    total: Tensor
    """Sum over all classes, own ones too, of m_k. Shape [dim]."""
    spread: Tensor
    """Sum over all classes, own ones too, of ||m_k||^2. Shape []."""


class Weights(NamedTuple):
    """How strongly each class acts on each sample, and what acts on the means alone.

    w_ik is the posterior exp(logit_ik - log_normalizer_i) of the other classes, and `own` of the own class.
    """

    log_normalizer: Tensor
    """Log of each sample's sum of exponentials over all classes. Shape [batch]."""
    own: Tensor
    """Shape [batch]."""
    scale: Tensor
    """Factor of the weights in the means' gradient. Shape []."""
    pull: Tensor
    """Strength of the means' pull towards `center`. Shape []."""
    center: Tensor
    """Relative to the origin. Shape [dim]."""


class Engine(ABC):
    """An implementation."""

    @abstractmethod
    def locate(self, batch: Operands) -> Position:
        """Compare samples with their own class."""

    @abstractmethod
    def compare(self, batch: Operands) -> tuple[Others, Any]:
        """Compare samples with all other classes; the second part is what `gradients` needs of it."""

    @abstractmethod
    def gradients(self, batch: Operands, kept: Any, weights: Weights) -> tuple[Tensor, Tensor]:
        """Sum up what samples and classes do to each other.

        Args:
            batch: as in `compare`.
            kept: what `compare` kept, which may be overwritten; None to compute it anew.
            weights: w_ik, and the pull.

        Returns:
            sum_k w_ik m_k, shape [batch, dim], and scale * sum_i w_ik (x_i - m_k) + pull * (m_k - center), shape
            [classes, dim].
        """


def choose_engine(implementation: Implementation, features: Tensor, classes: int) -> Engine:
    """The engine for features of shape [batch, dim] in the precision of the computation.

    Raises:
        ValueError: `fused` is asked for where it cannot run.
    """
    from facegm.losses.blocks import Chunked, Dense
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
