"""The geometry that the GM loss shapes: its theoretical optimum (Eq. 16) and what a run has reached."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from facegm.losses.gm import gm_logits

COLLAPSE_LIKELIHOOD_WEIGHT = 0.5
"""From this lambda on, the loss is least with all features and means on one point, however many classes there are."""


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


@torch.no_grad()
def measure_geometry(
    features: Float[Tensor, "batch dim"], means: Float[Tensor, "classes dim"], labels: Int[Tensor, " batch"]
) -> dict[str, Float[Tensor, ""]]:
    """What to watch while training: a collapse shows as `feature_radius` near 0 and accuracy at chance.

    Returns:
        `own_distance`: mean ||x_i - mu_zi||; `mean_distance`: root mean square of ||mu_j - mu_k|| over pairs j != k;
        `feature_radius`: mean ||x_i - mean of means||; `posterior`: mean probability of the true class, and
        `accuracy`: share of samples whose nearest mean is their own, both without the margin.
    """
    x, mu = features.to(means.dtype), means
    center = mu.mean(dim=0)
    logits = gm_logits(x, mu)
    classes = len(mu)
    return {
        "own_distance": (x - mu[labels]).norm(dim=1).mean(),
        "mean_distance": ((mu - center).square().sum() * 2 / max(classes - 1, 1)).sqrt(),
        "feature_radius": (x - center).norm(dim=1).mean(),
        "posterior": logits.softmax(dim=1).gather(1, labels[:, None]).mean(),
        "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
    }
