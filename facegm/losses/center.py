"""The center loss of Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition" (ECCV 2016)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.losses.class_vectors import ClassificationConfig
from facegm.losses.collectives import all_rows
from facegm.losses.engine import Implementation
from facegm.losses.linear import LinearLoss
from facegm.losses.negatives import Negatives
from facegm.losses.precision import precision_of
from facegm.losses.shard import Shard
from facegm.losses.softmax import softmax_loss
from facegm.schedule import Progress


@dataclass(frozen=True, kw_only=True)
class CenterLossConfig(ClassificationConfig):
    """The center loss."""

    weight: float = 0.008
    """Weight of the distances to the centers; the authors take 0.008 for faces, 0.01 for digits."""
    center_rate: float = 0.5
    """How far a center moves, in each step, towards the mean of its samples in the batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight: {self.weight}, must be a number from 0 on")
        if not 0 <= self.center_rate <= 1:
            raise ValueError(f"center_rate: {self.center_rate}, must be from 0 to 1")


class CenterLossTerms(NamedTuple):
    """The center loss and its parts, each a mean over the batch."""

    total: Float[Tensor, ""]
    """classification + weight * center; the quantity to minimise."""
    classification: Float[Tensor, ""]
    """Cross-entropy of the linear classifier."""
    center: Float[Tensor, ""]
    """Half the squared distance to the own center."""
    accuracy: Float[Tensor, ""]
    """Share of samples that the classifier predicts right."""


def center_loss(
    features: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    bias: Float[Tensor, " classes"],
    centers: Float[Tensor, "classes dim"],
    labels: Int64[Tensor, " batch"],
    *,
    center_weight: float,
    implementation: Implementation = "auto",
    shard: Shard | None = None,
    negatives: Negatives | None = None,
) -> CenterLossTerms:
    """Cross-entropy of x_i . w_k + b_k, plus the weighted mean of ||x_i - c_zi||^2 / 2; the centers get no gradient.

    Where classes are split or drawn, the first term is as of `classify`; the second needs the own centers alone.
    """
    shard = shard or Shard.whole(len(weight))
    found = softmax_loss(
        features, weight, bias, labels, implementation=implementation, shard=shard, negatives=negatives
    )
    difference = _from_centers(features.to(precision_of(features, weight)), centers.detach(), shard.local(labels))
    center = shard.sum_of_parts(0.5 * difference.square().sum(dim=1).mean())
    return CenterLossTerms(found.total + center_weight * center, found.total, center, found.accuracy)


def _from_centers(features: Tensor, centers: Tensor, own: Tensor) -> Tensor:
    """x_i - c_zi, or 0 where class z is none of these."""
    is_here = (own >= 0) & (own < len(centers))
    return (features - centers[own.clamp(0, len(centers) - 1)]) * is_here[:, None]


@torch.no_grad()
def move_centers(
    centers: Float[Tensor, "classes dim"],
    features: Float[Tensor, "batch dim"],
    labels: Int64[Tensor, " batch"],
    rate: float,
    shard: Shard | None = None,
) -> None:
    """Take a batch in: c_j -= rate * sum over its n_j samples of (c_j - x_i) / (1 + n_j), Eq. 4 of Wen et al.

    Args:
        centers: those of this process's classes, changed in their place, where a captured step finds them.
        features: of the whole batch.
        labels: their classes.
        rate: from 0 to 1.
        shard: the classes of this process, where other processes hold the others.
    """
    own = (shard or Shard.whole(len(centers))).local(labels)
    number = (labels[:, None] == labels).sum(dim=1)
    steps = _from_centers(features.to(centers), centers, own) * (rate / (1 + number))[:, None]
    centers.index_put_((own.clamp(0, len(centers) - 1),), steps, accumulate=True)


class CenterLoss(LinearLoss):
    """A linear classifier and one center a class, which follows the class's features by a rule of its own."""

    centers: Tensor

    def __init__(self, classes: int, dim: int, config: CenterLossConfig = CenterLossConfig()) -> None:
        super().__init__(classes, dim, config)
        self.register_buffer("centers", torch.zeros_like(self.weight))
        self._config = config

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> CenterLossTerms:
        """Compute `center_loss` of the features; while training, move the centers by the batch of all processes."""
        features, labels = self._gathered(features, labels)
        c, settings = self._config, self._comparison(labels, progress)
        terms = center_loss(features, self.weight, self.bias, self.centers, labels, center_weight=c.weight, **settings)
        if self.training and torch.is_grad_enabled():
            if not self.shard.is_split:
                features, labels = all_rows(features), all_rows(labels)
            move_centers(self.centers, features, labels, c.center_rate, self.shard)
        return terms
