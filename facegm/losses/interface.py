"""What every loss offers, so that a training task can use any of them."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn

from facegm.losses.shard import Shard
from facegm.schedule import Progress


class LossTerms(NamedTuple):
    """A loss of one term; losses of several have a tuple of their own, whose first field is `total` too.

    What follows it is for watching: numbers that are means over the batch, and vectors of a number a sample.
    """

    total: Float[Tensor, ""]
    """Mean over the batch; the quantity to minimise."""
    accuracy: Float[Tensor, ""]
    """Share of samples that are predicted right, without margin."""


class Loss(nn.Module, ABC):
    """A loss on features and labels with the class vectors that it learns.

    Beside each stands the pure function that it calls with its parameters.
    """

    @abstractmethod
    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> Any:
        """Compute the terms of the loss, in float32 whatever autocast says; a named tuple, `total` first.

        Args:
            features: embeddings, not normalised.
            labels: class of each sample, 0 to classes - 1.
            progress: where the run stands, for losses with a schedule; None is the schedule's end.
        """

    @abstractmethod
    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits for prediction, which knows no label and so no margin: the largest is the predicted class."""

    def settings(self, progress: Progress) -> dict[str, float]:
        """What to log beside the terms: values of the schedule."""
        del progress
        return {}

    def parameter_groups(self, weight_decay: float, bias_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for the optimiser; `factor` multiplies the learning rate.

        Args:
            weight_decay: of class vectors.
            bias_decay: of biases.
        """
        weights = [p for p in self.parameters() if p.ndim > 1]
        biases = [p for p in self.parameters() if p.ndim <= 1]
        groups = [(weights, weight_decay), (biases, bias_decay)]
        return [{"params": group, "weight_decay": decay, "factor": 1.0} for group, decay in groups if group]

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes, of all processes."""

    @property
    def sharded(self) -> dict[str, Shard]:
        """Names of the parameters of which this process holds a part, in rows, and which part."""
        return {}


def accuracy_of(logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Share of samples whose largest logit is that of their own class."""
    return (logits.detach().argmax(dim=1) == labels).to(logits.dtype).mean()
