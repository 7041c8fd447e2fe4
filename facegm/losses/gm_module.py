"""The GM loss as a module: the class means as parameters, its schedule and its monitors."""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from facegm.identity import FREE
from facegm.losses.collectives import all_rows, all_rows_with_gradient
from facegm.losses.engine import Implementation
from facegm.losses.geometry import optimal_distance
from facegm.losses.gm import GMLossTerms, Regularizer, check_likelihood_weight, gm_logits, gm_loss
from facegm.losses.interface import Loss
from facegm.losses.linear import small_vectors
from facegm.losses.negatives import Negatives, draw_negatives
from facegm.losses.shard import Shard
from facegm.schedule import Progress, linear_warmup

CROWDED_LIKELIHOOD_WEIGHT = 0.2
"""Above this lambda the features' own scatter can tip a run into the collapse that theory expects from 0.5 on."""


@dataclass(frozen=True, kw_only=True)
class GMLossConfig:
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
    negative_share: float = 1.0
    """Share of the classes that are drawn in each step of a run as negatives, beside those of the batch; below 1 the
    classification term is estimated, and comes out a little too low."""
    # What follows changes where and how the loss is computed, not its value.
    shard_means: bool = field(default=False, repr=False, metadata=FREE)
    """Split the means over the processes of the run; pays from about 250,000 identities."""
    implementation: Implementation = field(default="auto", repr=False, metadata=FREE)
    """How the loss is computed: auto, dense, chunked or fused."""

    def __post_init__(self) -> None:
        for name in ("alpha", "means_learning_rate_factor", "means_weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, must be a number from 0 on")
        check_likelihood_weight(self.likelihood_weight, self.regularizer)
        for name in ("warmup_fraction", "alpha_start", "likelihood_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)}, must be from 0 to 1")
        if not 0 < self.negative_share <= 1:
            raise ValueError(f"negative_share: {self.negative_share}, must be above 0 and at most 1")


class GMLoss(Loss):
    """The class means, and `gm_loss` on them.

    The means start small (standard deviation sqrt(2/3)/sqrt(dim)): means far outside the optimal radius can fall into
    the collapsed saddle, where the loss is log(classes) and has no gradient.

    With `config.shard_means` each process of the run holds a part of the means, and `forward` takes each process's own
    samples but returns the loss of all of them, the same everywhere. The features' gradient is made for
    DistributedDataParallel, which averages over the processes: see `all_rows_with_gradient`.
    """

    def __init__(self, classes: int, dim: int, config: GMLossConfig = GMLossConfig()) -> None:
        super().__init__()
        if config.regularizer == "mixture" and config.likelihood_weight > CROWDED_LIKELIHOOD_WEIGHT:
            warnings.warn(
                f"likelihood_weight {config.likelihood_weight} is above {CROWDED_LIKELIHOOD_WEIGHT}: with features "
                "that scatter around their means, training can collapse to one point; watch feature_radius",
                stacklevel=2,
            )
        self.shard = Shard.mine(classes) if config.shard_means else Shard.whole(classes)
        self.means = nn.Parameter(_initial_means(self.shard, dim))
        self._config = config
        self._seed = torch.initial_seed()

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> GMLossTerms:
        """Compute `gm_loss` of the features against the means."""
        c = self._config
        if self.shard.is_split:
            features, labels = all_rows_with_gradient(features), all_rows(labels)
        alpha, likelihood_weight = self._margin_and_weight(progress)
        return gm_loss(
            features,
            self.means,
            labels,
            alpha=alpha,
            likelihood_weight=likelihood_weight,
            regularizer=c.regularizer,
            implementation=c.implementation,
            shard=self.shard,
            negatives=self._negatives(labels, progress),
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

    @property
    def classes(self) -> int:
        """Number of classes, of all processes."""
        return self.shard.classes

    @property
    def sharded(self) -> dict[str, Shard]:
        """The means, where other processes hold some of them."""
        return {"means": self.shard} if self.shard.is_split else {}

    def _margin_and_weight(self, progress: Progress | None) -> tuple[float, float]:
        c, share = self._config, 1.0 if progress is None else progress.share
        alpha = c.alpha * linear_warmup(share, start=c.alpha_start, fraction=c.warmup_fraction)
        weight = c.likelihood_weight * linear_warmup(share, start=c.likelihood_start, fraction=c.warmup_fraction)
        return alpha, weight

    def _negatives(self, labels: Tensor, progress: Progress | None) -> Negatives | None:
        """Draw as the run's seed and step say, the same in all processes; without progress, look at all classes."""
        share = self._config.negative_share
        if progress is None or share == 1:
            return None
        generator = torch.Generator(labels.device).manual_seed((self._seed * 1_000_003 + progress.step) % 2**63)
        of_all = labels if self.shard.is_split else all_rows(labels)
        return draw_negatives(of_all, self.shard, share, generator)


def _initial_means(shard: Shard, dim: int, rows: int = 4096) -> Tensor:
    """Small random means, the same however the classes are split: all are drawn, those of this process are kept."""
    means = torch.empty(shard.last - shard.first, dim)
    for start in range(0, shard.classes, rows):
        drawn = small_vectors(min(rows, shard.classes - start), dim)
        first, last = max(start, shard.first), min(start + len(drawn), shard.last)
        if first < last:
            means[first - shard.first : last - shard.first] = drawn[first - start : last - start]
    return means
