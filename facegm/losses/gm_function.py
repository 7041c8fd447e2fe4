"""The GM loss as one differentiable operation with a hand-written backward."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facegm.losses.engine import Batch, Engine, Others, Position, Weights
from facegm.losses.negatives import Negatives
from facegm.losses.precision import exact_products
from facegm.losses.shard import Shard

Regularizer = Literal["mixture", "own"]
"""The likelihood term: the mean of ||x_i - mu_k||^2 over samples and all classes (`mixture`, Eq. 7), or over samples
and their own class (`own`: the CVPR 2018 paper, there halved, and the authors' CIFAR-10 script)."""


class Comparison(NamedTuple):
    """Samples against their own class and against all others, of all processes."""

    batch: Batch
    """The classes of this process that are looked at."""
    center: Tensor
    """Mean of all means, relative to the batch's origin. Shape [dim]."""
    position: Position
    others: Others
    kept: Any
    """What the engine's `gradients` needs."""


def compare(
    features: Tensor, means: Tensor, labels: Tensor, engine: Engine, shard: Shard, negatives: Negatives | None = None
) -> Comparison:
    """Compare samples with their own class and with all others, or with those drawn; all tensors in one precision."""
    everything = Batch(features, means, _origin(means, shard), shard.local(labels))
    position = engine.locate(everything)
    of_own = shard.sum(torch.stack([position.own_squared_distance, position.own_logit]))
    batch = everything if negatives is None else negatives.select(everything)
    here, kept = engine.compare(batch)
    highest = shard.maximum(here.log_sum_exp.clone())
    log_sum_exp = highest + shard.sum((here.log_sum_exp - highest).exp()).log()
    total, spread = (here.total, here.spread) if negatives is None else _sums(everything)
    others = Others(shard.maximum(here.maximum.clone()), log_sum_exp, shard.sum(total), shard.sum(spread))
    return Comparison(batch, others.total / shard.classes, Position(position.squared_radius, *of_own), others, kept)


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


def _sums(batch: Batch) -> tuple[Tensor, Tensor]:
    """Sums over all means of m_k and of ||m_k||^2, a few at a time."""
    origin = 0.0 if batch.origin is None else batch.origin
    parts = [(m.sum(dim=0), m.square_().sum()) for m in (some - origin for some in batch.means.split(4096))]
    totals, spreads = zip(*parts, strict=True)
    return torch.stack(totals).sum(dim=0), torch.stack(spreads).sum()


class GMFunction(torch.autograd.Function):
    """(features, means) -> the classification and the likelihood term.

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
    ) -> tuple[Tensor, Tensor]:
        """Both terms; the samples' weights follow from two numbers of each, which are kept."""
        with exact_products(features.device.type):
            batch, center, position, others, kept = compare(features, means, labels, engine, shard, negatives)
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
        return _softplus(log_odds).mean(), likelihood

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_classification: Tensor, d_likelihood: Tensor) -> tuple[Tensor | None, ...]:
        """dL/dx_i = scale sum_k w_ik (m_k - x_i), and for the means alike, with the weights of `Weights`."""
        *tensors, means, center, margin_logit, log_odds = ctx.saved_tensors
        batch, shard = Batch(*tensors), ctx.shard
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
