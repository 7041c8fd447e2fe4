"""The reverse cross-entropy loss of Pang et al., "Towards Robust Detection of Adversarial Examples" (NeurIPS 2018)."""

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import log_softmax

from facegm.losses.interface import LossTerms, accuracy_of
from facegm.losses.linear import LinearLoss, linear_scores
from facegm.schedule import Progress


def rce_loss(
    features: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    bias: Float[Tensor, " classes"],
    labels: Int64[Tensor, " batch"],
) -> LossTerms:
    """Mean cross-entropy against the reversed label: 0 for the true class, 1 / (classes - 1) for each other.

    It drives the true class's score down; the predicted class is the one with the lowest.
    """
    log_posterior = log_softmax(linear_scores(features, weight, bias), dim=1)
    of_others = log_posterior.scatter(1, labels[:, None], 0.0)
    return LossTerms(-of_others.sum(dim=1).mean() / (len(weight) - 1), accuracy_of(-log_posterior, labels))


class RCELoss(LinearLoss):
    """A linear classifier whose lowest score predicts, and `rce_loss` of it."""

    def __init__(self, classes: int, dim: int) -> None:
        if classes < 2:
            raise ValueError(f"classes: {classes}, the reverse cross-entropy needs at least 2")
        super().__init__(classes, dim)

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> LossTerms:
        """Compute `rce_loss` of the features."""
        del progress
        return rce_loss(features, self.weight, self.bias, labels)

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Negated scores, so that the largest predicts; attacks and detectors take these too."""
        return -super().logits(features)
