"""Which loss a run minimises."""

import math
from dataclasses import dataclass

from facegm.losses.geometry import COLLAPSE_LIKELIHOOD_WEIGHT


@dataclass(frozen=True, kw_only=True)
class GMLossConfig:
    """The GM loss, with its regulariser over all means (Eq. 7), and how its means are learned."""

    alpha: float = 0.01
    """Margin: the true class's squared distance counts 1 + alpha times."""
    likelihood_weight: float = 0.001
    """Weight lambda of the likelihood regulariser, below 0.5."""
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
        for name in ("alpha", "means_learning_rate_factor", "means_weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, must be a number from 0 on")
        if not 0 <= self.likelihood_weight < COLLAPSE_LIKELIHOOD_WEIGHT:
            raise ValueError(
                f"likelihood_weight: {self.likelihood_weight}, must be at least 0 and below "
                f"{COLLAPSE_LIKELIHOOD_WEIGHT}: from there on the minimum puts all features on one point"
            )
        for name in ("warmup_fraction", "alpha_start", "likelihood_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)}, must be from 0 to 1")
