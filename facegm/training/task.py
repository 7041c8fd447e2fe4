"""What a run trains: the network and the loss as one module that returns named terms."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from facegm.data.batch import Batch
from facegm.losses.interface import Loss, Progress
from facegm.losses.shard import Shard
from facegm.training.config import OptimizerConfig

Network = TypeVar("Network", bound=nn.Module)
"""Images to features."""


class Task(nn.Module, ABC, Generic[Network]):
    """A network trained with a loss.

    The forward pass returns `loss`, the quantity to minimise, and beside it detached terms to log: numbers, and vectors
    of which the distribution is of interest. The loop needs to know no more of network and loss than that.

    Args:
        network: from images to features.
        loss: on features and labels.
    """

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    @abstractmethod
    def inputs(self, batch: Batch) -> Float[Tensor, "batch channels height width"]:
        """What the network is given of a batch, made on the device that the batch is on."""

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        labels: Int64[Tensor, " batch"],
        progress: Progress,
        autocast: torch.dtype | None,
        monitor: bool,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            images: the network's input.
            labels: classes, 0 to classes - 1.
            progress: where the run stands, for what changes over its course.
            autocast: precision of the network, or None for float32.
            monitor: whether to measure what the loss wants watched too.
        """
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            features = self.network(images)
        features = features.to(images.dtype)
        terms = self.loss(features, labels, progress)
        named = {"loss": terms.total} | {name: t.detach() for name, t in terms._asdict().items() if name != "total"}
        if monitor:
            named |= self.loss.monitor(features.detach(), labels)
        return named

    def settings(self, progress: Progress) -> dict[str, float]:
        """What to log beside the terms: values of the loss's schedule."""
        return self.loss.settings(progress)

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Matrices and kernels with decay; biases, slopes and scales without; what the loss learns as the loss says.

        Each group's `factor` multiplies the learning rate.
        """
        parameters = list(self.network.parameters())
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay, "factor": 1.0},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "factor": 1.0},
            *self.loss.parameter_groups(config.weight_decay),
        ]

    @property
    def sharded(self) -> dict[str, Shard]:
        """Names of the parameters of which this process holds a part, in rows, and which part."""
        return {f"loss.{name}": shard for name, shard in self.loss.sharded.items()}
