"""The Gaussian mixture (GM) loss of Wan et al., "Shaping Deep Feature Space towards Gaussian Mixture"."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class GMLossTerms(NamedTuple):
    """The GM loss and its parts, each a mean over the batch."""

    total: Float[Tensor, ""]
    """classification + likelihood_weight * likelihood; the quantity to minimise."""
    classification: Float[Tensor, ""]
    """Cross-entropy of the margin logits (Eq. 19)."""
    likelihood: Float[Tensor, ""]
    """Mean squared distance to all means (Eq. 7, un-halved)."""


def gm_loss(
    features: Float[Tensor, "batch dim"],
    means: Float[Tensor, "classes dim"],
    labels: Int[Tensor, " batch"],
    *,
    alpha: float,
    likelihood_weight: float,
) -> GMLossTerms:
    """GM loss with identity covariance and uniform prior.

    With s_ik = ||x_i - mu_k||^2 / 2, the logits are -(1 + alpha [k = z_i]) s_ik (Eq. 19) and the regulariser is the
    mean of ||x_i - mu_k||^2 over samples and all classes (Eq. 7). ||x_i||^2 / 2 is common to all logits of a sample
    and left out; features and means are shifted by the mean of the means first, which changes no distance and keeps
    the matrix product exact in single precision. Half-precision input is computed in float32, whatever autocast or
    (forward) TF32 would do: a product in bfloat16 errs by more than a margin of 0.001 is worth.

    Args:
        features: embeddings x, not normalised.
        means: class means mu.
        labels: class z of each sample, 0 to classes - 1.
        alpha: margin; 0 gives the linear softmax with tied bias.
        likelihood_weight: lambda; below 0.5, where everything would collapse into one point.

    Returns:
        The loss and its parts, in float32 or, for such features, float64.
    """
    with exact_products(features.device.type):
        x, mu = _centred(features, means)
        half_squared_distance_to_own = 0.5 * (x - mu[labels]).square().sum(dim=1, keepdim=True)
        margin_logits = _logits(x, mu).scatter_add(1, labels[:, None], -alpha * half_squared_distance_to_own)
        classification = cross_entropy(margin_logits, labels)
        likelihood = mean_squared_distance(x, mu)
        return GMLossTerms(classification + likelihood_weight * likelihood, classification, likelihood)


def mean_squared_distance(
    features: Float[Tensor, "batch dim"], means: Float[Tensor, "classes dim"]
) -> Float[Tensor, ""]:
    """Mean of ||x_i - mu_k||^2 over all pairs in O((batch + classes) dim): the spreads around the common centre add."""
    center = means.mean(dim=0)
    return (features - center).square().sum(dim=1).mean() + (means - center).square().sum(dim=1).mean()


def gm_logits(
    features: Float[Tensor, "batch dim"], means: Float[Tensor, "classes dim"]
) -> Float[Tensor, "batch classes"]:
    """Logits without margin, up to a constant per sample: for prediction, which knows no label."""
    with exact_products(features.device.type):
        return _logits(*_centred(features, means))


def _centred(features: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    precision = torch.promote_types(features.dtype, torch.float32)
    origin = means.detach().to(precision).mean(dim=0)
    return features.to(precision) - origin, means.to(precision) - origin


def _logits(x: Tensor, mu: Tensor) -> Tensor:
    return torch.addmm(-0.5 * mu.square().sum(dim=1), x, mu.T)


@contextmanager
def exact_products(device_type: str) -> Iterator[None]:
    """No autocast and no TF32 inside: the forward products of the loss keep float32."""
    # torch 2.9 replaced one global setting by one for each backend, and refuses a mix of the two.
    matmuls: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    backends = [backend for backend in matmuls if hasattr(backend, "fp32_precision")]
    before = [backend.fp32_precision for backend in backends] or torch.get_float32_matmul_precision()
    _set_precision(backends, ["ieee"] * len(backends) or "highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        _set_precision(backends, before)


def _set_precision(backends: list[Any], precision: list[str] | str) -> None:
    if isinstance(precision, str):
        torch.set_float32_matmul_precision(precision)
        return
    for backend, value in zip(backends, precision, strict=True):
        backend.fp32_precision = value


class GMLoss(nn.Module):
    """The class means as parameters, and `gm_loss` on them.

    The means start small (standard deviation sqrt(2/3)/sqrt(dim)): means far outside the optimal radius can fall into
    the collapsed saddle, where the loss is log(classes) and has no gradient.
    """

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.empty(classes, dim))
        nn.init.normal_(self.means, std=(2 / 3 / dim) ** 0.5)

    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        alpha: float,
        likelihood_weight: float,
    ) -> GMLossTerms:
        """Compute `gm_loss` of the features against the means."""
        return gm_loss(features, self.means, labels, alpha=alpha, likelihood_weight=likelihood_weight)
