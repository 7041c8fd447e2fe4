"""The geometry that the GM loss aims at (Eq. 16); what a run has reached is among the loss's terms."""

import math

from facegm.losses.gm import COLLAPSE_LIKELIHOOD_WEIGHT


def optimal_distance(classes: int, likelihood_weight: float) -> float:
    """Distance (not squared) between any two means at the minimum of Eq. 16, where the means form a regular simplex.

    d^2 = 2 ln(K (1 / (2 lambda) - 1) + 1). Infinite for lambda = 0, zero from lambda = 1/2 on. Exact where
    dim >= classes - 1; otherwise the mean distance comes near it.
    """
    if likelihood_weight == 0:
        return math.inf
    if likelihood_weight >= COLLAPSE_LIKELIHOOD_WEIGHT:
        return 0.0
    return math.sqrt(2 * math.log(classes * (1 / (2 * likelihood_weight) - 1) + 1))
