"""What the losses on x_i . w_k share."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from facegm.losses.class_vectors import ClassificationConfig, ClassificationLoss, small_vectors
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


class ClassVectorLoss(ClassificationLoss):
    """A loss on x_i . w_k.

    The class vectors start like the means of the GM loss, as in the authors' code.
    """

    def __init__(self, classes: int, dim: int, config: ClassificationConfig | None = None) -> None:
        super().__init__(classes, config)
        self.weight = nn.Parameter(small_vectors(self.shard, dim))

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """x_i . w_k."""
        scores: Tensor = linear_scores(features, self.weight)
        return scores


class LinearLoss(ClassVectorLoss):
    """A loss on the scores x_i . w_k + b_k of a linear classifier."""

    def __init__(self, classes: int, dim: int, config: ClassificationConfig | None = None) -> None:
        super().__init__(classes, dim, config)
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """x_i . w_k + b_k."""
        scores: Tensor = linear_scores(features, self.weight, self.bias)
        return scores
