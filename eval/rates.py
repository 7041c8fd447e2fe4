"""A rate: a share of trials, with the count behind it and how sure it is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy.stats import binomtest

CONFIDENCE = 0.95
"""Of all intervals."""
ROUGH = 10
"""A rate at a bound on errors is a rough one where the bound allows fewer errors than this."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many of so many trials had an outcome."""

    count: int
    """Trials with the outcome."""
    trials: int
    """All of them; of none there is no rate."""

    @property
    def value(self) -> float | None:
        """The share, 0 to 1; None, not measurable, without trials."""
        return self.count / self.trials if self.trials else None

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % interval of Clopper and Pearson 1934, as if trials were independent; without trials, 0 to 1."""
        if not self.trials:
            return 0.0, 1.0
        found = binomtest(self.count, self.trials).proportion_ci(CONFIDENCE, method="exact")
        return float(found.low), float(found.high)

    def describe(self) -> dict[str, object]:
        """Count, trials, rate and interval, for JSON."""
        return {"count": self.count, "trials": self.trials, "rate": self.value, "interval": [*self.interval]}

    def __str__(self) -> str:
        if self.value is None:
            return "not measurable (no trials)"
        low, high = self.interval
        return f"{self.value:.2%} ({low:.2%} to {high:.2%}, {self.count:,} of {self.trials:,})"


def share_of(outcome: Bool[np.ndarray, " trials"], among: Bool[np.ndarray, " trials"]) -> Rate:
    """How many of some trials had an outcome.

    Args:
        outcome: which of all trials had it.
        among: which of them count.
    """
    return Rate(count=int(np.count_nonzero(outcome & among)), trials=int(np.count_nonzero(among)))


def allowed_errors(bound: float, trials: int) -> int:
    """The most errors among so many trials whose share is no more than a bound.

    Where that is none, the trials cannot carry a rate at the bound, which is "not measurable": that they show no error
    does not say that the share of errors is so small. Where they are fewer than `ROUGH`, it is a rough one.

    Args:
        bound: on the share of errors, 0 to 1.
        trials: that can be errors.
    """
    return int(bound * trials + 1e-9)  # 0.07 * 100 is 7.000000000000001, 0.29 * 100 is 28.999...
