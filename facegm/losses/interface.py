"""What every loss offers, so that a training task can use any of them."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from facegm.losses.shard import Shard


class Progress(NamedTuple):
    """The point of a run at which a loss is taken; losses with a schedule follow it."""

    step: int
    """Steps that are done."""
    steps: int
    """Steps of the whole run."""

    @property
    def share(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.step / self.steps


class LossTerms(NamedTuple):
    """A loss of one term; losses of several have a tuple of their own, whose first field is `total` too."""

    total: Float[Tensor, ""]
    """Mean over the batch; the quantity to minimise."""


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

    @torch.no_grad()
    def monitor(self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"]) -> dict[str, Tensor]:
        """What to watch while training: numbers of a batch, and vectors of numbers, one for each of some samples."""
        return {"accuracy": (self.logits(features).argmax(dim=1) == labels).float().mean()}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimiser; `factor` multiplies the learning rate, and weight decay spares biases."""
        weights = [p for p in self.parameters() if p.ndim > 1]
        biases = [p for p in self.parameters() if p.ndim <= 1]
        groups = [(weights, weight_decay), (biases, 0.0)]
        return [{"params": group, "weight_decay": decay, "factor": 1.0} for group, decay in groups if group]

    @property
    def sharded(self) -> dict[str, Shard]:
        """Names of the parameters of which this process holds a part, in rows, and which part."""
        return {}
