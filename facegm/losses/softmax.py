"""The softmax loss: cross-entropy of a linear classifier."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from facegm.losses.class_vectors import ClassificationConfig
from facegm.losses.classification import classify
from facegm.losses.engine import Implementation
from facegm.losses.interface import LossTerms
from facegm.losses.linear import LinearLoss
from facegm.losses.negatives import Negatives
from facegm.losses.shard import Shard
from facegm.schedule import Progress


@dataclass(frozen=True, kw_only=True)
class SoftmaxConfig(ClassificationConfig):
    """The softmax loss."""


def softmax_loss(
    features: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    bias: Float[Tensor, " classes"],
    labels: Int64[Tensor, " batch"],
    *,
    implementation: Implementation = "auto",
    shard: Shard | None = None,
    negatives: Negatives | None = None,
) -> LossTerms:
    """Mean cross-entropy of the scores x_i . w_k + b_k; what is said after those by name is as of `classify`."""
    found = classify(
        features,
        weight,
        labels,
        lambda score, _: score,
        kind="products",
        bias=bias,
        implementation=implementation,
        shard=shard,
        negatives=negatives,
    )
    return LossTerms(found.term, found.accuracy)


class SoftmaxLoss(LinearLoss):
    """A linear classifier, and `softmax_loss` of it."""

    def __init__(self, classes: int, dim: int, config: SoftmaxConfig = SoftmaxConfig()) -> None:
        super().__init__(classes, dim, config)

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> LossTerms:
        """Compute `softmax_loss` of the features."""
        features, labels = self._gathered(features, labels)
        return softmax_loss(features, self.weight, self.bias, labels, **self._comparison(labels, progress))
