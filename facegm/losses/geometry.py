"""The geometry that the GM loss shapes: its theoretical optimum (Eq. 16) and what a run has reached."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.losses.gm import COLLAPSE_LIKELIHOOD_WEIGHT
from facegm.losses.gm_function import compare
from facegm.losses.implementation import choose_engine
from facegm.losses.precision import exact_products
from facegm.losses.shard import Shard


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
    features: Float[Tensor, "batch dim"],
    means: Float[Tensor, "classes dim"],
    labels: Int64[Tensor, " batch"],
    shard: Shard | None = None,
) -> dict[str, Tensor]:
    """What to watch while training: a collapse shows as `feature_radius` near 0 and accuracy at chance.

    Args:
        features: embeddings; of the whole batch where the classes are split over processes.
        means: class means, of this process's classes.
        labels: class of each sample.
        shard: the classes of this process, where other processes hold the others.

    Returns:
        `own_distances`: [batch] ||x_i - mu_zi||; `own_distance`: their mean; `mean_distance`: root mean square of
        ||mu_j - mu_k|| over pairs j != k; `feature_radius`: mean ||x_i - mean of means||; `posterior`: mean probability
        of the true class, and `accuracy`: share of samples whose nearest mean is their own, both without the margin.
    """
    shard = shard or Shard.whole(len(means))
    x = features.to(means.dtype)
    with exact_products(features.device.type):
        batch, center, position, others, _ = compare(x, means, labels, choose_engine("auto", x, len(means)), shard)
    spread = (others.spread - shard.classes * center.square().sum()).clamp_min(0)
    own_distances = position.own_squared_distance.sqrt()
    return {
        "own_distances": own_distances,
        "own_distance": own_distances.mean(),
        "mean_distance": (spread * 2 / max(shard.classes - 1, 1)).sqrt(),
        "feature_radius": (batch.x - center).norm(dim=1).mean(),
        "posterior": (position.own_logit - others.log_sum_exp).sigmoid().mean(),
        "accuracy": (position.own_logit > others.maximum).float().mean(),
    }
