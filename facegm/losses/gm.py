"""The Gaussian mixture (GM) loss of Wan et al., "Shaping Deep Feature Space towards Gaussian Mixture"."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.losses.classification import classify
from facegm.losses.engine import Implementation
from facegm.losses.negatives import Negatives
from facegm.losses.precision import exact_product, precision_of
from facegm.losses.shard import Shard

Regularizer = Literal["mixture", "own"]
"""The likelihood term: the mean of ||x_i - mu_k||^2 over samples and all classes (`mixture`, Eq. 7), or over samples
and their own class (`own`: the CVPR 2018 paper, there halved, and the authors' CIFAR-10 script)."""
COLLAPSE_LIKELIHOOD_WEIGHT = 0.5
"""From this lambda on, the loss is least with all features and means on one point, however many classes there are."""


class GMLossTerms(NamedTuple):
    """The GM loss, its parts, each a mean over the batch, and the geometry that it has seen."""

    total: Float[Tensor, ""]
    """classification + likelihood_weight * likelihood; the quantity to minimise."""
    classification: Float[Tensor, ""]
    """Cross-entropy of the margin logits (Eq. 19)."""
    likelihood: Float[Tensor, ""]
    """Mean squared distance, un-halved, to all means (Eq. 7) or to the own mean."""
    own_distances: Float[Tensor, " batch"]
    """||x_i - mu_zi||. Like all that follows, for watching: without gradient and without the margin."""
    own_distance: Float[Tensor, ""]
    """Their mean."""
    mean_distance: Float[Tensor, ""]
    """Root mean square of ||mu_j - mu_k|| over pairs j != k; where negatives are drawn, estimated from them."""
    feature_radius: Float[Tensor, ""]
    """Mean of ||x_i - mean of means||; near 0 in a collapse."""
    posterior: Float[Tensor, ""]
    """Mean probability of the true class; where negatives are drawn, estimated from them."""
    accuracy: Float[Tensor, ""]
    """Share of samples nearest to their own mean; where negatives are drawn, each counts for those it stands for."""


def gm_loss(
    features: Float[Tensor, "batch dim"],
    means: Float[Tensor, "classes dim"],
    labels: Int64[Tensor, " batch"],
    *,
    alpha: float,
    likelihood_weight: float,
    regularizer: Regularizer = "mixture",
    implementation: Implementation = "auto",
    shard: Shard | None = None,
    negatives: Negatives | None = None,
) -> GMLossTerms:
    """GM loss with identity covariance and uniform prior.

    With s_ik = ||x_i - mu_k||^2 / 2, the logits are -(1 + alpha [k = z_i]) s_ik (Eq. 19). ||x_i||^2 / 2 is common to
    all logits of a sample and left out; where the means do not lie around 0, features and means are first shifted to
    where they do, which changes no distance and keeps the products exact in single precision. The own class is kept
    apart from the others, so that the margin counts also where the posterior is 1 but for rounding. Half-precision
    input is computed in float32, whatever autocast or TF32 would do: a product in bfloat16 errs by more than a margin
    of 0.001 is worth.

    Args:
        features: embeddings x, not normalised; of the whole batch where the classes are split over processes.
        means: class means mu; of this process's classes where they are split.
        labels: class z of each sample, 0 to classes - 1.
        alpha: margin; 0 gives the linear softmax with tied bias.
        likelihood_weight: lambda; below 0.5 for `mixture`, else everything collapses into one point.
        regularizer: the likelihood term.
        implementation: how to compute it; all give the same values.
        shard: the classes of this process, where other processes hold the others. The terms are then those over all
            classes; the features' gradient is this process's part, to be summed over the processes.
        negatives: the classes to look at, by default all; see `draw_negatives`.

    Returns:
        The loss and its parts, in float32 or, for such features, float64.

    Raises:
        ValueError: a label is not a class, lambda makes everything collapse, or the implementation cannot run here.
    """
    check_likelihood_weight(likelihood_weight, regularizer)
    precision = precision_of(features, means)
    x, mu, shard = features.to(precision), means.to(precision), shard or Shard.whole(len(means))
    origin = _origin(mu.detach(), shard)
    x = x if origin is None else x - origin
    found = classify(
        x,
        mu,
        labels,
        lambda logit, squared_distance: logit - 0.5 * alpha * squared_distance,
        kind="distances",
        implementation=implementation,
        shard=shard,
        negatives=negatives,
        origin=origin,
    )
    center, mean_spread = found.total / shard.classes, found.spread / shard.classes
    if regularizer == "mixture":
        once = x if shard.is_first else x.detach()  # the processes' gradients are summed
        likelihood = once.square().sum(dim=1).mean() + mean_spread - 2 * (once.mean(dim=0) * center).sum()
    else:
        likelihood = found.own_squared_distance.mean()
    total = found.term + likelihood_weight * likelihood
    with torch.no_grad():
        own_distances = found.own_squared_distance.sqrt()
        of_pairs = 2 * shard.classes / max(shard.classes - 1, 1)
        return GMLossTerms(
            total,
            found.term,
            likelihood,
            own_distances,
            own_distances.mean(),
            mean_distance=((mean_spread - center.square().sum()).clamp_min(0) * of_pairs).sqrt(),
            feature_radius=(x - center).norm(dim=1).mean(),
            posterior=found.posterior,
            accuracy=found.accuracy,
        )


def check_likelihood_weight(likelihood_weight: float, regularizer: Regularizer) -> None:
    """Refuse a lambda with which the loss has no use.

    Raises:
        ValueError: lambda is negative or no number, or it is one that makes everything collapse.
    """
    if not 0 <= likelihood_weight < math.inf:
        raise ValueError(f"likelihood_weight: {likelihood_weight}, must be a number from 0 on")
    if regularizer == "mixture" and likelihood_weight >= COLLAPSE_LIKELIHOOD_WEIGHT:
        raise ValueError(
            f"likelihood_weight: {likelihood_weight}, must be below {COLLAPSE_LIKELIHOOD_WEIGHT}: from there on the "
            "minimum of the loss puts all features and means on one point"
        )


def gm_logits(
    features: Float[Tensor, "batch dim"], means: Float[Tensor, "classes dim"]
) -> Float[Tensor, "batch classes"]:
    """Logits without margin, up to a constant per sample: for prediction, which knows no label."""
    precision = precision_of(features, means)
    origin = means.detach().to(precision).mean(dim=0)
    x, mu = features.to(precision) - origin, means.to(precision) - origin
    logits: Tensor = exact_product(x, mu) - 0.5 * mu.square().sum(dim=1)
    return logits


def _origin(means: Tensor, shard: Shard) -> Tensor | None:
    """The mean of some of the means; None where they lie around 0, and products lose nothing if they stay there.

    A GPU would have to be waited for to know that, and shifts them at no cost anyway.
    """
    some = means[:: max(1, len(means) // 256)]
    sums = shard.sum(torch.cat([some.sum(dim=0), some.square().sum()[None], some.new_full((1,), len(some))]))
    center, squared_norm = sums[:-2] / sums[-1], sums[-2] / sums[-1]
    if means.device.type == "cpu" and center.square().sum() <= 0.25 * squared_norm:
        return None
    return center
