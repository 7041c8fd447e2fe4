"""The GM loss as a module: the class means as parameters, its schedule and its monitors."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from facegm.losses.class_vectors import ClassificationConfig, ClassificationLoss, small_vectors
from facegm.losses.geometry import optimal_distance
from facegm.losses.gm import GMLossTerms, Regularizer, check_likelihood_weight, gm_logits, gm_loss
from facegm.schedule import Progress, linear_warmup

CROWDED_LIKELIHOOD_WEIGHT = 0.2
"""Above this lambda the features' own scatter can tip a run into the collapse that theory expects from 0.5 on."""


@dataclass(frozen=True, kw_only=True)
class GMLossConfig(ClassificationConfig):
    """The GM loss and how its means are learned."""

    alpha: float = 0.01
    """Margin: the true class's squared distance counts 1 + alpha times."""
    likelihood_weight: float = 0.001
    """Weight lambda of the likelihood regulariser; below 0.5 for the mixture, or everything collapses."""
    regularizer: Regularizer = "mixture"
    """Mean squared distance to all means (mixture, Eq. 7) or to the own mean (own, as in the authors' CIFAR script)."""
    warmup_fraction: float = 0.05
    """Share of the run over which alpha and lambda rise linearly to their values."""
    alpha_start: float = 0.01
    """Share of alpha at the first step."""
    likelihood_start: float = 0.1
    """Share of lambda at the first step."""
    means_learning_rate_factor: float = 1.0
    """Learning rate of the means over that of the network."""
    means_weight_decay: float = 0.0
    """Weight decay of the means; 0 is faithful to the Gaussian model, 0.0005 to the authors' optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "means_learning_rate_factor", "means_weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, must be a number from 0 on")
        check_likelihood_weight(self.likelihood_weight, self.regularizer)
        for name in ("warmup_fraction", "alpha_start", "likelihood_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)}, must be from 0 to 1")


class GMLoss(ClassificationLoss):
    """The class means, and `gm_loss` on them.

    The means start small: means far outside the optimal radius can fall into the collapsed saddle, where the loss is
    log(classes) and has no gradient.
    """

    def __init__(self, classes: int, dim: int, config: GMLossConfig = GMLossConfig()) -> None:
        super().__init__(classes, config)
        if config.regularizer == "mixture" and config.likelihood_weight > CROWDED_LIKELIHOOD_WEIGHT:
            warnings.warn(
                f"likelihood_weight {config.likelihood_weight} is above {CROWDED_LIKELIHOOD_WEIGHT}: with features "
                "that scatter around their means, training can collapse to one point; watch feature_radius",
                stacklevel=2,
            )
        self.means = nn.Parameter(small_vectors(self.shard, dim))
        self._config = config

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> GMLossTerms:
        """Compute `gm_loss` of the features against the means."""
        features, labels = self._gathered(features, labels)
        alpha, likelihood_weight = self._margin_and_weight(progress)
        return gm_loss(
            features,
            self.means,
            labels,
            alpha=alpha,
            likelihood_weight=likelihood_weight,
            regularizer=self._config.regularizer,
            **self._comparison(labels, progress),
        )

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of this process's classes, without margin and up to a constant per sample."""
        return gm_logits(features, self.means)

    def settings(self, progress: Progress) -> dict[str, float]:
        """Alpha and lambda, and the distance between means that theory expects of them (Eq. 16)."""
        alpha, likelihood_weight = self._margin_and_weight(progress)
        named = {"alpha": alpha, "lambda": likelihood_weight}
        if likelihood_weight > 0 and self._config.regularizer == "mixture":  # otherwise there is no finite optimum
            named["optimal_distance"] = optimal_distance(self.shard.classes, likelihood_weight)
        return named

    def parameter_groups(self, weight_decay: float, bias_decay: float = 0.0) -> list[dict[str, Any]]:
        """The means, with a weight decay and a learning rate of their own."""
        del weight_decay, bias_decay
        c = self._config
        group = {"params": [self.means], "weight_decay": c.means_weight_decay, "factor": c.means_learning_rate_factor}
        return [group]

    def _margin_and_weight(self, progress: Progress | None) -> tuple[float, float]:
        c, share = self._config, 1.0 if progress is None else progress.share
        alpha = c.alpha * linear_warmup(share, start=c.alpha_start, fraction=c.warmup_fraction)
        weight = c.likelihood_weight * linear_warmup(share, start=c.likelihood_start, fraction=c.warmup_fraction)
        return alpha, weight
