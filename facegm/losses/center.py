"""The center loss of Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition" (ECCV 2016)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from facegm.losses.collectives import all_rows
from facegm.losses.interface import accuracy_of
from facegm.losses.linear import LinearLoss, linear_scores
from facegm.losses.precision import precision_of
from facegm.schedule import Progress


@dataclass(frozen=True, kw_only=True)
class CenterLossConfig:
    """The center loss."""

    weight: float = 0.008
    """Weight of the distances to the centers; the authors take 0.008 for faces, 0.01 for digits."""
    center_rate: float = 0.5
    """How far a center moves, in each step, towards the mean of its samples in the batch."""

    def __post_init__(self) -> None:
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
) -> CenterLossTerms:
    """Cross-entropy of x_i . w_k + b_k, plus the weighted mean of ||x_i - c_zi||^2 / 2; the centers get no gradient."""
    scores = linear_scores(features, weight, bias)
    classification = cross_entropy(scores, labels)
    difference = features.to(precision_of(features, weight)) - centers.detach()[labels]
    center = 0.5 * difference.square().sum(dim=1).mean()
    total = classification + center_weight * center
    return CenterLossTerms(total, classification, center, accuracy_of(scores, labels))


@torch.no_grad()
def moved_centers(
    centers: Float[Tensor, "classes dim"],
    features: Float[Tensor, "batch dim"],
    labels: Int64[Tensor, " batch"],
    rate: float,
) -> Float[Tensor, "classes dim"]:
    """Centers after a batch: c_j - rate * sum over its n_j samples of (c_j - x_i) / (1 + n_j), Eq. 4 of Wen et al."""
    number = torch.bincount(labels, minlength=len(centers)).to(centers)[:, None]
    total = torch.zeros_like(centers).index_add_(0, labels, features.to(centers))
    return centers - rate * (number * centers - total) / (1 + number)


class CenterLoss(LinearLoss):
    """A linear classifier and one center a class, which follows the class's features by a rule of its own."""

    centers: Tensor

    def __init__(self, classes: int, dim: int, config: CenterLossConfig = CenterLossConfig()) -> None:
        super().__init__(classes, dim)
        self.register_buffer("centers", torch.zeros(classes, dim))
        self._config = config

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> CenterLossTerms:
        """Compute `center_loss` of the features; while training, move the centers by the batch of all processes."""
        del progress
        c = self._config
        terms = center_loss(features, self.weight, self.bias, self.centers, labels, center_weight=c.weight)
        if self.training and torch.is_grad_enabled():
            moved = moved_centers(self.centers, all_rows(features), all_rows(labels), c.center_rate)
            self.centers.copy_(moved)  # in its place, where a captured step finds it
        return terms
