"""Bayesian uncertainty: how much posteriors vary when parts of a feature are dropped out (Feinman et al. 2017)."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from facegm.adversarial.subject import Subject

PASSES = 50
"""T: how often each feature is dropped out of."""
RATE = 0.5
"""The share of a feature that is dropped in a pass, as in training by `model.feature_dropout`."""
_BATCH = 1_000
"""Features at a time; random numbers follow from it."""


@torch.no_grad()
def dropout_uncertainty(
    subject: Subject, features: Float[Tensor, "images dim"], *, seed: int = 0
) -> Float64[Tensor, " images"]:
    """Mean over the classes of the variance of the posterior over `PASSES` passes.

    Dropout is before the last layer alone: what is left of a feature is divided by its share.

    Args:
        subject: whose last layer it is.
        features: on the CPU.
        seed: draws what is dropped.
    """
    generator = torch.Generator().manual_seed(seed)
    found = [_variances(subject, some, generator) for some in features.split(_BATCH)]
    return torch.cat(found).mean(dim=1)


def _variances(
    subject: Subject, features: Float[Tensor, "batch dim"], generator: torch.Generator
) -> Float64[Tensor, "batch classes"]:
    """Of each posterior, by Welford's sums, which do not cancel."""
    mean = squares = torch.zeros((), dtype=torch.float64)
    for number in range(1, PASSES + 1):
        is_kept = torch.rand(features.shape, generator=generator) >= RATE
        dropped = (features * is_kept / (1 - RATE)).to(subject.device)
        posterior = subject.logits(dropped).double().softmax(dim=1).cpu()
        from_mean = posterior - mean
        mean = mean + from_mean / number
        squares = squares + from_mean * (posterior - mean)
    return squares / PASSES
