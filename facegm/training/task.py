"""What a run trains: the network and the loss as one module that returns named terms."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from facegm.losses.config import GMLossConfig
from facegm.losses.geometry import measure_geometry, optimal_distance
from facegm.losses.gm import GMLoss
from facegm.models.face_resnet import FaceResNet27, FaceResNetConfig
from facegm.training.config import OptimizerConfig
from facegm.training.schedule import linear_warmup


class FaceTask(nn.Module):
    """ResNet-27 trained with the GM loss.

    The forward pass returns `loss`, the quantity to minimise, and beside it detached terms to log; the loop needs to
    know no more of the loss than that.
    """

    def __init__(self, model: FaceResNetConfig, loss: GMLossConfig, input_size: int, classes: int) -> None:
        super().__init__()
        self.network = FaceResNet27(model, input_size)
        self.loss = GMLoss(classes, model.embedding_dim)
        self._loss_config = loss

    def forward(
        self,
        images: Float[Tensor, "batch 3 side side"],
        labels: Int[Tensor, " batch"],
        progress: float,
        autocast: torch.dtype | None,
        monitor: bool,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            images: the network's input.
            labels: identities, 0 to classes - 1.
            progress: share of the run that is done, for the warm-up of alpha and lambda.
            autocast: precision of the network, or None for float32.
            monitor: whether to measure the geometry of features and means too.
        """
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            features = self.network(images).float()
        alpha, likelihood_weight = self.margin_and_weight(progress)
        terms = self.loss(features, labels, alpha, likelihood_weight)
        named = {
            "loss": terms.total,
            "classification": terms.classification.detach(),
            "likelihood": terms.likelihood.detach(),
        }
        if monitor:
            named |= measure_geometry(features.detach(), self.loss.means.detach(), labels)
        return named

    def margin_and_weight(self, progress: float) -> tuple[float, float]:
        """Alpha and lambda at a point of the run."""
        c = self._loss_config
        alpha = c.alpha * linear_warmup(progress, start=c.alpha_start, fraction=c.warmup_fraction)
        weight = c.likelihood_weight * linear_warmup(progress, start=c.likelihood_start, fraction=c.warmup_fraction)
        return alpha, weight

    def settings(self, progress: float) -> dict[str, float]:
        """What to log beside the terms: the schedule's values and the distance between means that theory expects."""
        alpha, likelihood_weight = self.margin_and_weight(progress)
        distance = optimal_distance(len(self.loss.means), likelihood_weight)
        known = {"optimal_distance": distance} if math.isfinite(distance) else {}  # without lambda there is none
        return {"alpha": alpha, "lambda": likelihood_weight, **known}

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Weights with decay; biases and PReLU slopes without; the means with their own decay and learning rate.

        Each group's `factor` multiplies the learning rate.
        """
        parameters = list(self.network.parameters())
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay, "factor": 1.0},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "factor": 1.0},
            {
                "params": [self.loss.means],
                "weight_decay": self._loss_config.means_weight_decay,
                "factor": self._loss_config.means_learning_rate_factor,
            },
        ]
