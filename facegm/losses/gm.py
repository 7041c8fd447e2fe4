"""The Gaussian mixture (GM) loss of Wan et al., "Shaping Deep Feature Space towards Gaussian Mixture"."""

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from facegm.losses.engine import Engine, Implementation, Operands, Others, Position, Weights, choose_engine
from facegm.losses.negatives import Negatives
from facegm.losses.precision import exact_product, exact_products, precision_of
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
    """Root mean square of ||mu_j - mu_k|| over pairs j != k."""
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
        negatives: the classes to look at for the classification term, by default all; see `draw_negatives`.

    Returns:
        The loss and its parts, in float32 or, for such features, float64.

    Raises:
        ValueError: a label is not a class, lambda makes everything collapse, or the implementation cannot run here.
    """
    check_likelihood_weight(likelihood_weight, regularizer)
    precision = precision_of(features, means)
    x, mu = features.to(precision), means.to(precision)
    engine = choose_engine(implementation, x, len(mu) if negatives is None else len(negatives.classes))
    classification, likelihood, own_distances, *geometry = GMFunction.apply(
        x, mu, labels, alpha, regularizer, engine, shard or Shard.whole(len(mu)), negatives
    )
    total = classification + likelihood_weight * likelihood
    return GMLossTerms(total, classification, likelihood, own_distances, own_distances.mean(), *geometry)


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


class Scores(NamedTuple):
    """Samples against their own class and against all others, of all processes."""

    batch: Operands
    """The classes of this process that are looked at."""
    center: Tensor
    """Mean of all means, relative to the batch's origin. Shape [dim]."""
    position: Position
    others: Others
    kept: Any
    """What the engine's `gradients` needs."""


def score_samples(
    features: Tensor, means: Tensor, labels: Tensor, engine: Engine, shard: Shard, negatives: Negatives | None = None
) -> Scores:
    """Compare samples with their own class and with all others, or with those drawn; all tensors in one precision."""
    everything = Operands(features, means, _origin(means, shard), shard.local(labels))
    position = engine.locate(everything)
    of_own = shard.sum(torch.stack([position.own_squared_distance, position.own_logit]))
    batch = everything if negatives is None else negatives.select(everything)
    here, kept = engine.compare(batch)
    highest = shard.maximum(here.log_sum_exp.clone())
    log_sum_exp = highest + shard.sum((here.log_sum_exp - highest).exp()).log()
    total, spread = (here.total, here.spread) if negatives is None else _sums(everything)
    others = Others(shard.maximum(here.maximum.clone()), log_sum_exp, shard.sum(total), shard.sum(spread))
    return Scores(batch, others.total / shard.classes, Position(position.squared_radius, *of_own), others, kept)


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


def _sums(batch: Operands) -> tuple[Tensor, Tensor]:
    """Sums over all means of m_k and of ||m_k||^2, a few at a time."""
    origin = 0.0 if batch.origin is None else batch.origin
    parts = [(m.sum(dim=0), m.square_().sum()) for m in (some - origin for some in batch.means.split(4096))]
    totals, spreads = zip(*parts, strict=True)
    return torch.stack(totals).sum(dim=0), torch.stack(spreads).sum()


class Geometry(NamedTuple):
    """What the loss has seen of features and means; a collapse shows as a radius near 0 and accuracy at chance."""

    own_distances: Tensor
    """||x_i - mu_zi||. Shape [batch]."""
    mean_distance: Tensor
    """Root mean square of ||mu_j - mu_k|| over pairs j != k. Shape []."""
    feature_radius: Tensor
    """Mean of ||x_i - mean of means||. Shape []."""
    posterior: Tensor
    """Mean probability of the own class, without the margin, among the classes looked at. Shape []."""
    accuracy: Tensor
    """Share of samples whose nearest mean, of those looked at, is their own. Shape []."""


def _geometry(scores: Scores, shard: Shard) -> Geometry:
    batch, center, position, others, _ = scores
    spread = (others.spread - shard.classes * center.square().sum()).clamp_min(0)
    return Geometry(
        own_distances=position.own_squared_distance.sqrt(),
        mean_distance=(spread * 2 / max(shard.classes - 1, 1)).sqrt(),
        feature_radius=(batch.x - center).norm(dim=1).mean(),
        posterior=(position.own_logit - others.log_sum_exp).sigmoid().mean(),
        accuracy=(position.own_logit > others.maximum).to(center.dtype).mean(),
    )


class GMFunction(torch.autograd.Function):
    """(features, means) -> the classification and the likelihood term, and the `Geometry` of both, without gradient.

    The outputs are the same in all processes that share the classes. The gradient of the features is this process's
    part of it, to be summed over the processes; that of the means is whole.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        means: Tensor,
        labels: Tensor,
        alpha: float,
        regularizer: Regularizer,
        engine: Engine,
        shard: Shard,
        negatives: Negatives | None,
    ) -> tuple[Tensor, ...]:
        """Both terms and the geometry; the samples' weights follow from two numbers of each, which are kept."""
        with exact_products(features.device.type):
            scores = score_samples(features, means, labels, engine, shard, negatives)
            batch, center, position, others, kept = scores
            geometry = _geometry(scores, shard)
            if regularizer == "mixture":
                squares = position.squared_radius.mean() + others.spread / shard.classes
                likelihood = squares - 2 * batch.mean_x @ center
            else:
                likelihood = position.own_squared_distance.mean()
        margin_logit = position.own_logit - 0.5 * alpha * position.own_squared_distance
        log_odds = others.log_sum_exp - margin_logit  # of the other classes against the own one
        ctx.save_for_backward(*batch, means, center, margin_logit, log_odds)
        ctx.kept = kept  # until the first backward, though the loss may live on; a second one computes it anew
        ctx.alpha, ctx.regularizer, ctx.engine, ctx.shard, ctx.negatives = alpha, regularizer, engine, shard, negatives
        ctx.mark_non_differentiable(*geometry)
        return _softplus(log_odds).mean(), likelihood, *geometry

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_classification: Tensor, d_likelihood: Tensor, *of_geometry: Tensor
    ) -> tuple[Tensor | None, ...]:
        """dL/dx_i = scale sum_k w_ik (m_k - x_i), and for the means alike, with the weights of `Weights`."""
        del of_geometry
        *tensors, means, center, margin_logit, log_odds = ctx.saved_tensors
        batch, shard = Operands(*tensors), ctx.shard
        kept, ctx.kept = ctx.kept, None
        d_mixture, d_own = (d_likelihood, 0.0) if ctx.regularizer == "mixture" else (0.0 * d_likelihood, d_likelihood)
        samples = len(batch.features)
        miss = log_odds.sigmoid()  # 1 - posterior of the own class
        scale, pull = d_classification / samples, 2 * d_mixture / shard.classes
        weights = Weights(
            log_normalizer=margin_logit + _softplus(log_odds),
            own=-(1 + ctx.alpha) * miss,
            scale=scale,
            pull=pull if ctx.negatives is None else torch.zeros_like(pull),
            center=batch.mean_x,
        )
        with exact_products(means.device.type):
            weighted_means, d_means = ctx.engine.gradients(batch, kept, weights)
        d_features = weighted_means.mul_(scale)
        if shard.is_first:
            to_center = 2 * d_mixture / samples
            of_x = (scale * ctx.alpha * miss + to_center)[:, None]
            d_features.addcmul_(batch.features, of_x).sub_(center * to_center)
            if batch.origin is not None:
                d_features.addcmul_(batch.origin, of_x, value=-1)
        if ctx.regularizer == "own":
            to_own = (batch.features - batch.means[batch.row]).mul_(batch.is_here[:, None] * (2 * d_own / samples))
            d_features += to_own
            d_means.index_put_((batch.row,), -to_own, accumulate=True)
        if ctx.negatives is not None:
            pulled = (means - batch.features.mean(dim=0)).mul_(pull)
            d_means = pulled.index_add_(0, ctx.negatives.classes, d_means)
        return d_features, d_means, None, None, None, None, None, None


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))
