"""What losses with a vector for each class share: how they are compared with a batch, and which a process holds."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from facegm.identity import FREE
from facegm.losses.collectives import all_rows, all_rows_with_gradient
from facegm.losses.engine import Implementation
from facegm.losses.interface import Loss
from facegm.losses.negatives import draw_negatives
from facegm.losses.shard import Shard
from facegm.schedule import Progress


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """How a loss compares a batch with the classes."""

    negative_share: float = 1.0
    """Share of the classes that each step of a run looks at, those of the batch and others that are drawn; below 1 the
    classification term is estimated, and comes out too low."""
    # What follows changes where and how the loss is computed, not its value.
    shard_means: bool = field(default=False, repr=False, metadata=FREE)
    """Split the class vectors over the processes of the run; pays from about 250,000 identities."""
    implementation: Implementation = field(default="auto", repr=False, metadata=FREE)
    """How the loss is computed: auto, dense, chunked or fused."""

    def __post_init__(self) -> None:
        if not 0 < self.negative_share <= 1:
            raise ValueError(f"negative_share: {self.negative_share}, must be above 0 and at most 1")


class ClassificationLoss(Loss):
    """A loss whose parameters and buffers have a row for each class, all of them or those of this process.

    With `config.shard_means` each process of the run holds a part of the classes, and `forward` takes each process's
    own samples but returns the loss of all of them, the same everywhere. The features' gradient is made for
    DistributedDataParallel, which averages over the processes: see `all_rows_with_gradient`.
    """

    def __init__(self, classes: int, config: ClassificationConfig | None) -> None:
        super().__init__()
        config = config or ClassificationConfig()
        self.shard = Shard.mine(classes) if config.shard_means else Shard.whole(classes)
        self._classification = config
        self._seed = torch.initial_seed()

    @property
    def classes(self) -> int:
        """Number of classes, of all processes."""
        return self.shard.classes

    @property
    def sharded(self) -> dict[str, Shard]:
        """Whatever there is of each class, where other processes hold some of them."""
        return dict.fromkeys(self.state_dict(), self.shard) if self.shard.is_split else {}

    def _gathered(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The samples that this process's classes are compared with: those of all processes that share the classes."""
        return (all_rows_with_gradient(features), all_rows(labels)) if self.shard.is_split else (features, labels)

    def _comparison(self, labels: Tensor, progress: Progress | None) -> dict[str, Any]:
        """What the loss's function is told beside its terms' settings.

        Classes are drawn as the run's seed and step say, equally in processes that hold the same ones; without
        progress all classes are looked at.
        """
        share, negatives = self._classification.negative_share, None
        if progress is not None and share < 1:
            seed = (self._seed * 1_000_003 + progress.step) * 1_000_003 + self.shard.first
            generator = torch.Generator(labels.device).manual_seed(seed % 2**63)
            of_all = labels if self.shard.is_split else all_rows(labels)
            negatives = draw_negatives(of_all, self.shard, share, generator)
        return {"implementation": self._classification.implementation, "shard": self.shard, "negatives": negatives}


def small_vectors(shard: Shard, dim: int, rows: int = 4096) -> Float[Tensor, "held dim"]:
    """Random class vectors of length about 0.8, whatever the dimension: of standard deviation sqrt(2/3)/sqrt(dim).

    They are the same however the classes are split: all are drawn, and those of this process kept.
    """
    vectors = torch.empty(shard.last - shard.first, dim)
    for start in range(0, shard.classes, rows):
        drawn = torch.randn(min(rows, shard.classes - start), dim) * math.sqrt(2 / 3 / dim)
        first, last = max(start, shard.first), min(start + len(drawn), shard.last)
        if first < last:
            vectors[first - shard.first : last - shard.first] = drawn[first - start : last - start]
    return vectors
