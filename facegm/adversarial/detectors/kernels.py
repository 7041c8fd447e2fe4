"""Density by Gaussian kernels, and the width by which points that were left out are likeliest."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from facegm.errors import FacegmError

BANDWIDTHS = tuple(0.01 * 10 ** (step / 10) for step in range(31))
"""Standard deviations of the kernels among which the likeliest is chosen: 0.01 to 10, ten a decade."""
_POINTS, _COLUMNS = 256, 2048
"""Points and centers whose kernels are in memory together: 4 MB, which a processor's cache holds."""
_LEAST_EXPONENT = -64.0
"""A kernel e^64 times smaller than the largest of its point counts as this much smaller: less than float64 notices,
were there 10^11 of them. Much smaller ones underflow, and take a processor six times as long."""
_HELD_OUT, _CENTERS = 1_000, 10_000
"""By at most how many of each a bandwidth is chosen."""


class GaussianKernels(NamedTuple):
    """Kernels of one width around centers, made ready for many points.

    Squared distances are expanded, and first everything is shifted so that the centers lie around 0: else the products
    would cancel where features lie far from the origin.
    """

    origin: Float64[Tensor, " dim"]
    """The mean of the centers."""
    bandwidth: float
    """h, the standard deviation of a kernel."""
    centers: Float64[Tensor, "centers dim"]
    """c, from the origin, in bandwidths."""
    half_squares: Float64[Tensor, " centers"]
    """-||c||^2 / 2."""

    @classmethod
    def around(cls, centers: Float64[Tensor, "centers dim"], bandwidth: float) -> "GaussianKernels":
        """Kernels around centers, one at least."""
        origin = centers.mean(dim=0)
        scaled = (centers - origin) / bandwidth
        return cls(origin, bandwidth, scaled, -0.5 * scaled.square().sum(dim=1))

    def to(self, device: torch.device) -> "GaussianKernels":
        """The same on a device."""
        return GaussianKernels(
            self.origin.to(device), self.bandwidth, self.centers.to(device), self.half_squares.to(device)
        )

    def log_mean(self, points: Float[Tensor, "points dim"]) -> Float[Tensor, " points"]:
        """Log of the mean over centers c of exp(-||x - c||^2 / (2 h^2)), in the points' precision; differentiable.

        However far a point x lies from all centers, it is finite.
        """
        x = ((points.to(self.origin.dtype) - self.origin) / self.bandwidth).to(points.dtype)
        c, half_squares = self.centers.to(points.dtype), self.half_squares.to(points.dtype)
        blocks = list(zip(c.split(_COLUMNS), half_squares.split(_COLUMNS), strict=True))
        sums = [
            torch.stack([_log_sum_exp(torch.addmm(own, some, block.T)) for block, own in blocks]).logsumexp(dim=0)
            - 0.5 * some.square().sum(dim=1)
            for some in x.split(_POINTS)
        ]
        return torch.cat(sums) - math.log(len(c))


def _log_sum_exp(exponents: Float[Tensor, "points centers"]) -> Float[Tensor, " points"]:
    """Log of the sum of exp over the centers; overwrites the exponents."""
    largest = exponents.detach().amax(dim=1, keepdim=True)
    kernels = exponents.sub_(largest).clamp_(min=_LEAST_EXPONENT).exp_()
    return kernels.sum(dim=1).log() + largest[:, 0]


def log_density(
    points: Float[Tensor, "points dim"], centers: Float[Tensor, "centers dim"], bandwidth: float
) -> Float64[Tensor, " points"]:
    """Log of the kernel density, a Gaussian of covariance bandwidth^2 I around each center, in nats; in float64."""
    constant = points.shape[1] * (math.log(bandwidth) + 0.5 * math.log(2 * math.pi))
    return GaussianKernels.around(centers.double(), bandwidth).log_mean(points.double()) - constant


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
