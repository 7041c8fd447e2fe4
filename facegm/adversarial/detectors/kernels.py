"""Density by Gaussian kernels, and the width by which points that were left out are likeliest."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from facegm.errors import FacegmError

BANDWIDTHS = tuple(0.01 * 10 ** (step / 10) for step in range(31))
"""Standard deviations of the kernels among which the likeliest is chosen: 0.01 to 10, ten a decade."""
_POINTS, _COLUMNS = 128, 4096
"""Points and centers whose kernels are in memory together: 4 MB, which a processor's cache holds."""
_HELD_OUT, _CENTERS = 1_000, 10_000
"""By at most how many of each a bandwidth is chosen."""


def log_kernel_mean(
    points: Float[Tensor, "points dim"], centers: Float64[Tensor, "centers dim"], bandwidth: float
) -> Float[Tensor, " points"]:
    """Log of the mean over centers c of exp(-||x - c||^2 / (2 h^2)), in the points' precision; differentiable.

    The squares are expanded, and first everything is shifted so that the centers lie around 0: else the products would
    cancel where features lie far from the origin. Nothing underflows, however far a point lies from all centers.

    Args:
        points: x.
        centers: c, one at least.
        bandwidth: h, the standard deviation of a kernel.
    """
    origin = centers.mean(dim=0)
    x = ((points.to(centers.dtype) - origin) / bandwidth).to(points.dtype)
    c = ((centers - origin) / bandwidth).to(points.dtype)
    blocks = list(zip(c.split(_COLUMNS), (-0.5 * c.square().sum(dim=1)).split(_COLUMNS), strict=True))
    sums = [
        torch.stack([torch.addmm(own, some, block.T).logsumexp(dim=1) for block, own in blocks]).logsumexp(dim=0)
        - 0.5 * some.square().sum(dim=1)
        for some in x.split(_POINTS)
    ]
    return torch.cat(sums) - math.log(len(centers))


def log_density(
    points: Float[Tensor, "points dim"], centers: Float[Tensor, "centers dim"], bandwidth: float
) -> Float64[Tensor, " points"]:
    """Log of the kernel density, a Gaussian of covariance bandwidth^2 I around each center, in nats; in float64."""
    constant = points.shape[1] * (math.log(bandwidth) + 0.5 * math.log(2 * math.pi))
    return log_kernel_mean(points.double(), centers.double(), bandwidth) - constant


def likeliest_bandwidth(classes: Sequence[Float[Tensor, "images dim"]]) -> float:
    """That of `BANDWIDTHS` by which features are likeliest under the density of others of their class.

    Every fifth feature of a class is held out; no attack is looked at.

    Args:
        classes: features of each class, in a random order; of all together at most 1,000 are held out, and 10,000 of
            the others are centers.

    Raises:
        FacegmError: no class has two features.
    """
    pairs = []
    for features in classes:
        is_held_out = torch.arange(len(features), device=features.device) % 5 == 0
        held_out, centers = features[is_held_out], features[~is_held_out]
        if len(centers):
            pairs.append((held_out[: -(-_HELD_OUT // len(classes))], centers[: -(-_CENTERS // len(classes))]))
    if not pairs:
        raise FacegmError("bandwidth: no class has two images, by which it could be chosen; name one")
    return max(BANDWIDTHS, key=lambda h: sum(log_density(*pair, h).sum().item() for pair in pairs))
