"""The softmax loss: cross-entropy of a linear classifier."""

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from facegm.losses.interface import LossTerms, accuracy_of
from facegm.losses.linear import LinearLoss, linear_scores
from facegm.schedule import Progress


def softmax_loss(
    features: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    bias: Float[Tensor, " classes"],
    labels: Int64[Tensor, " batch"],
) -> LossTerms:
    """Mean cross-entropy of the scores x_i . w_k + b_k."""
    scores = linear_scores(features, weight, bias)
    return LossTerms(cross_entropy(scores, labels), accuracy_of(scores, labels))


class SoftmaxLoss(LinearLoss):
    """A linear classifier, and `softmax_loss` of it."""

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> LossTerms:
        """Compute `softmax_loss` of the features."""
        del progress
        return softmax_loss(features, self.weight, self.bias, labels)
