"""The losses one sample and one class at a time, in double precision, with gradients by automatic differentiation."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from facegm.losses.angular import arcface_loss, cosface_loss
from facegm.losses.center import center_loss
from facegm.losses.gm import gm_loss
from facegm.losses.softmax import softmax_loss

SCALE, MARGIN, ALPHA, LAMBDA, CENTER_WEIGHT = 8.0, 0.2, 0.3, 0.1, 0.4
CLASSIFYING = ("gm", "gm-own", "softmax", "center", "cosface", "arcface")
"""The losses that compare a batch with the classes by an engine; the GM loss with either likelihood term."""


class Case(NamedTuple):
    """What a loss is computed of."""

    x: Tensor
    vectors: Tensor
    bias: Tensor
    centers: Tensor
    labels: Tensor


def make_case(
    batch: int, classes: int, dim: int, *, shift: float = 0.0, of_vectors: float = 0.0, seed: int = 0
) -> Case:
    """Samples that scatter around their class's vector, but for a shift of each; leaves that want a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    vectors, labels = draw(classes, dim), torch.randint(classes, (batch,), generator=generator)
    x = (draw(batch, dim) + vectors[labels] + shift).requires_grad_()
    return Case(x, (vectors + of_vectors).requires_grad_(), draw(classes).requires_grad_(), draw(classes, dim), labels)


def in_precision(case: Case, precision: torch.dtype) -> Case:
    """The same in another precision, as leaves of their own."""
    x, vectors, bias = (t.detach().to(precision, copy=True).requires_grad_() for t in case[:3])
    return Case(x, vectors, bias, case.centers.to(precision), case.labels)


def terms_of(name: str, case: Case, **how: Any) -> Any:
    """The terms of a loss by its function; `how` is its implementation, shard and negatives."""
    x, vectors, bias, centers, y = case
    if name.startswith("gm"):
        regularizer = "own" if name == "gm-own" else "mixture"
        return gm_loss(x, vectors, y, alpha=ALPHA, likelihood_weight=LAMBDA, regularizer=regularizer, **how)  # type: ignore[arg-type]
    if name == "softmax":
        return softmax_loss(x, vectors, bias, y, **how)
    if name == "center":
        return center_loss(x, vectors, bias, centers, y, center_weight=CENTER_WEIGHT, **how)
    angular = {"cosface": cosface_loss, "arcface": arcface_loss}[name]
    return angular(x, vectors, y, scale=SCALE, margin=MARGIN, **how)


def gradients_of(total: Tensor, case: Case, *, retain_graph: bool = False) -> list[Tensor]:
    """Of x, vectors and bias, dense; 0 where the loss knows none."""
    found = torch.autograd.grad(total, case[:3], retain_graph=retain_graph, allow_unused=True, materialize_grads=True)
    return [gradient.to_dense() if gradient.is_sparse else gradient for gradient in found]


def naive_total(name: str, case: Case, counts: Tensor | None = None) -> tuple[Tensor, float]:
    """A loss and its accuracy.

    Args:
        name: which.
        case: of what; differentiable.
        counts: how often each class counts, 0 for one that is not looked at. Shape [classes].
    """
    x, vectors, bias, centers, y = case
    counts = torch.ones(len(vectors), dtype=torch.float64) if counts is None else counts
    losses, right = [], 0
    for feature, label in zip(x, y.tolist(), strict=True):
        plain, widened = [], []
        likelihood = feature.new_zeros(())
        for k, (vector, count) in enumerate(zip(vectors, counts.tolist(), strict=True)):
            if count == 0:
                continue
            is_own = k == label
            if name.startswith("gm"):
                squared = sum((a - b) ** 2 for a, b in zip(feature, vector, strict=True))
                logit, margin_logit = -squared / 2, -(1 + ALPHA * is_own) * squared / 2
                share = count / len(vectors) if name == "gm" else float(is_own)
                likelihood = likelihood + share * squared
            elif name in ("softmax", "center"):
                logit = margin_logit = (feature * vector).sum() + bias[k]
            else:
                cosine = (feature * vector).sum() / feature.norm() / vector.norm()
                by_angle = torch.acos(cosine) + (MARGIN if is_own and name == "arcface" else 0.0)
                logit = SCALE * cosine
                margin_logit = SCALE * (by_angle.cos() - (MARGIN if is_own and name == "cosface" else 0.0))
            weight = torch.tensor(count, dtype=torch.float64).log()
            plain.append((logit + weight).item())
            widened.append(margin_logit + weight)
            if is_own:
                own, own_logit = widened[-1], plain[-1]
        right += sum(logit >= own_logit for logit in plain) == 1
        pull = LAMBDA * likelihood
        if name == "center":
            pull = CENTER_WEIGHT * 0.5 * (feature - centers[label]).square().sum()
        losses.append(torch.stack(widened).logsumexp(dim=0) - own + pull)
    return torch.stack(losses).mean(), right / len(losses)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over that of what is expected; the difference's own where that is 0."""
    difference, size = (found.double() - expected).norm(), expected.norm()
    return float(difference / size) if size > 0 else float(difference)
