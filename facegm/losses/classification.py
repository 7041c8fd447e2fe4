"""The classification term of all losses by one log-sum-exp over the classes; a loss says its logits and its margin."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facegm.losses.engine import LEAST_LENGTH, Engine, Implementation, Kind, Operands, Weights, choose_engine
from facegm.losses.negatives import Negatives
from facegm.losses.precision import exact_products, precision_of
from facegm.losses.shard import Shard

Margin = Callable[[Tensor, Tensor], Tensor]
"""Own logits with margin, element by element, from those without and the squared distances to the own class (0 of other
kinds than distances); both have shape [batch]."""


class Classification(NamedTuple):
    """The term and what else one pass over the classes tells; the same in all processes that share them."""

    term: Tensor
    """Mean cross-entropy of the logits with margin. Shape []."""
    own_squared_distance: Tensor
    """||x - v_z||^2 of distances. Shape [batch]."""
    total: Tensor
    """Sum over the classes of v_k, of distances; where classes are drawn, estimated. Shape [dim]."""
    spread: Tensor
    """Sum over the classes of ||v_k||^2, of distances; where classes are drawn, estimated. Shape []."""
    posterior: Tensor
    """Mean probability of the own class. Shape []. Like `accuracy` without margin and without gradient."""
    accuracy: Tensor
    """Share of samples whose own logit is the largest. Shape []."""


def classify(
    x: Tensor,
    vectors: Tensor,
    labels: Tensor,
    margin: Margin,
    *,
    kind: Kind,
    implementation: Implementation,
    shard: Shard | None = None,
    negatives: Negatives | None = None,
    origin: Tensor | None = None,
    bias: Tensor | None = None,
) -> Classification:
    """Compare samples with all classes, or with those drawn.

    The own class is kept apart from the others: the term is softplus(log sum exp of the others - own logit with
    margin). So the margin counts also where the posterior is 1 but for rounding.

    Args:
        x: features, relative to the origin. Shape [batch, dim].
        vectors: those that this process holds. Shape [classes, dim].
        labels: class of each sample, counted over all processes. Shape [batch].
        margin: what becomes of the own logit.
        kind: what the logits are.
        implementation: how to compute it.
        shard: the classes of this process, where other processes hold the others.
        negatives: the classes to look at, by default all.
        origin: see `Operands`.
        bias: of products. Shape [classes].

    Returns:
        The term, in float32 or where an input has it float64. The gradient of x is this process's part of it, to be
        summed over the processes; that of vectors and bias is whole, and sparse in rows where classes are drawn.

    Raises:
        ValueError: a label is not a class, or the implementation cannot run here.
    """
    precision = precision_of(x, vectors)
    x, vectors, bias = x.to(precision), vectors.to(precision), None if bias is None else bias.to(precision)
    engine = choose_engine(implementation, x, len(vectors) if negatives is None else len(negatives.classes))
    shard = shard or Shard.whole(len(vectors))
    found: tuple[Tensor, ...] = _Classify.apply(
        x, vectors, bias, labels, origin, margin, kind, engine, shard, negatives
    )
    return Classification(*found)


class _Classify(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        vectors: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        origin: Tensor | None,
        margin: Margin,
        kind: Kind,
        engine: Engine,
        shard: Shard,
        negatives: Negatives | None,
    ) -> tuple[Tensor, ...]:
        """The samples' weights follow from a few numbers of each, which are kept."""
        batch = Operands(x, vectors, shard.local(labels), kind, origin, bias)
        if negatives is not None:
            batch = negatives.select(batch)
        with exact_products(x.device.type):
            here, kept = engine.compare(batch)
            own_logit, own_squared_distance = shard.sum(torch.stack(_own(batch)))
            highest = shard.maximum(here.log_sum_exp.clone())
            log_sum_exp = highest + shard.sum((here.log_sum_exp - highest).exp()).log()
            maximum = shard.maximum(here.maximum.clone())  # which `kept` may hold
            total, spread = shard.sum(here.total), shard.sum(here.spread)
            margin_logit, *slopes = _with_slopes(margin, own_logit, own_squared_distance)
        log_odds = log_sum_exp - margin_logit  # of the other classes against the own one
        tensors = [*batch]
        ctx.kind = tensors.pop(Operands._fields.index("kind"))
        ctx.save_for_backward(*tensors, margin_logit, log_odds, *slopes)
        ctx.kept = kept  # until the first backward, though the loss may live on; a second one computes it anew
        ctx.engine, ctx.shard, ctx.negatives, ctx.classes = engine, shard, negatives, len(vectors)
        posterior = (own_logit - log_sum_exp).sigmoid().mean()
        accuracy = (own_logit > maximum).to(x.dtype).mean()
        ctx.mark_non_differentiable(posterior, accuracy)
        ctx.set_materialize_grads(False)
        return _softplus(log_odds).mean(), own_squared_distance, total, spread, posterior, accuracy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        d_term: Tensor | None,
        d_own: Tensor | None,
        d_total: Tensor | None,
        d_spread: Tensor | None,
        *of_watched: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """dL/dx_i = scale sum_k w_ik v_k, and what distances add; the engine has that of the vectors alike."""
        del of_watched
        x, vectors, own, origin, bias, log_weights, margin_logit, log_odds, of_logit, of_distance = ctx.saved_tensors
        batch = Operands(x, vectors, own, ctx.kind, origin, bias, log_weights)
        kept, ctx.kept = ctx.kept, None
        miss = log_odds.sigmoid()  # 1 - posterior of the own class
        scale = x.new_zeros(()) if d_term is None else d_term / len(x)
        weights = Weights(
            log_normalizer=margin_logit + _softplus(log_odds),
            own=miss * (2 * of_distance - of_logit),
            scale=scale,
            of_total=torch.zeros_like(x[0]) if d_total is None else d_total,
            of_spread=torch.zeros_like(scale) if d_spread is None else d_spread,
        )
        with exact_products(x.device.type):
            weighted, d_vectors, d_bias = ctx.engine.gradients(batch, kept, weights)
        d_x = weighted.mul_(scale)
        if ctx.kind == "distances" and ctx.shard.is_first:
            d_x.addcmul_(x, (-2 * scale * miss * of_distance)[:, None])
        if d_own is not None:
            to_own = (x - _own_vectors(batch)).mul_((2 * d_own * batch.is_here)[:, None])
            d_x += to_own
            d_vectors.index_put_((batch.row,), -to_own, accumulate=True)
        if ctx.negatives is not None:
            d_vectors = ctx.negatives.gradient_of_all(d_vectors, ctx.shard)
            d_bias = None if d_bias is None else ctx.negatives.gradient_of_all(d_bias, ctx.shard)
        return d_x, d_vectors, d_bias, None, None, None, None, None, None, None


def _own_vectors(batch: Operands) -> Tensor:
    """v_z of each sample, or, where class z is none of these, of another. Shape [batch, dim]."""
    v = batch.vectors.index_select(0, batch.row)
    if batch.origin is not None:
        v -= batch.origin
    if batch.kind == "cosines":
        v /= torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min_(LEAST_LENGTH)
    return v


def _own(batch: Operands) -> tuple[Tensor, Tensor]:
    """Logit of the own class and squared distance to it; 0 where it is none of these. Each of shape [batch]."""
    v, is_here = _own_vectors(batch), batch.is_here
    logit = (batch.x * v).sum(dim=1)
    squared_distance = torch.zeros_like(logit)
    if batch.kind == "distances":
        logit -= 0.5 * v.square().sum(dim=1)
        squared_distance = torch.sub(batch.x, v, out=v).square_().sum(dim=1)
    if batch.bias is not None:
        logit += batch.bias[batch.row]
    return logit * is_here, squared_distance * is_here


def _with_slopes(margin: Margin, logit: Tensor, squared_distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The own logit with margin and its derivatives by both arguments, all of shape [batch]."""
    with torch.enable_grad():
        inputs = logit.detach().requires_grad_(), squared_distance.detach().requires_grad_()
        value = margin(*inputs)
        of_logit, of_distance = torch.autograd.grad(value.sum(), inputs, materialize_grads=True)
    return value.detach(), of_logit, of_distance


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))
