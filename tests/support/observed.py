"""Observations to test detectors with: clusters of features, with a label and a prediction each."""

import torch

from facegm.adversarial.observations import Observations

CLASSES, DIM = 3, 5
CENTERS = torch.tensor([[4.0, 0, 0, 0, 0], [0, 4.0, 0, 0, 1.0], [0, 0, -4.0, 1.0, 0]])
"""Of the clusters."""


def observed(count: int = 60, *, seed: int = 0, spread: float = 1.0) -> Observations:
    """Features around `CENTERS`, in float32 as a network gives them; some are predicted to be of another class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    features = CENTERS[labels] + spread * torch.randn(count, DIM, generator=rng)
    dimensions = torch.rand(count, 4, generator=rng, dtype=torch.float64)
    return Observations(
        features=features,
        logits=features @ CENTERS.T + 4 * torch.randn(count, CLASSES, generator=rng),
        labels=labels,
        intrinsic_dimensions=dimensions * torch.tensor([1, 5, 0, 20]) + torch.tensor([seed, seed, 7, seed]),
        uncertainty=torch.rand(count, generator=rng, dtype=torch.float64) * 0.01 * (1 + seed),
    )
