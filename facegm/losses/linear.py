"""What the losses with a linear classifier share."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from facegm.losses.interface import Loss
from facegm.losses.precision import exact_product, precision_of


def linear_scores(
    features: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    bias: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, "batch classes"]:
    """x_i . w_k + b_k, in float32 at least, whatever autocast or TF32 would do."""
    precision = precision_of(features, weight)
    scores = exact_product(features.to(precision), weight.to(precision))
    return scores if bias is None else scores + bias


class ClassVectorLoss(Loss):
    """A loss on x_i . w_k.

    The class vectors start like the means of the GM loss: of standard deviation sqrt(2/3)/sqrt(dim), as in the authors'
    code.
    """

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(small_vectors(classes, dim))

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """x_i . w_k."""
        scores: Tensor = linear_scores(features, self.weight)
        return scores

    @property
    def classes(self) -> int:
        """Number of class vectors."""
        return len(self.weight)


class LinearLoss(ClassVectorLoss):
    """A loss on the scores x_i . w_k + b_k of a linear classifier."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes, dim)
        self.bias = nn.Parameter(torch.zeros(classes))

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """x_i . w_k + b_k."""
        scores: Tensor = linear_scores(features, self.weight, self.bias)
        return scores


def small_vectors(classes: int, dim: int) -> Float[Tensor, "classes dim"]:
    """Random class vectors of length about 0.8, whatever the dimension."""
    vectors: Tensor = torch.randn(classes, dim) * math.sqrt(2 / 3 / dim)
    return vectors
