"""Decoupling direction and norm (DDN; Rony et al. 2019): the nearest image that reaches the goal, in few passes."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from facegm.adversarial.objectives import Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.sign_attack import gradient_of
from facegm.adversarial.subject import Images, PixelRange

NORM_CHANGE = 0.05
"""gamma: the part by which the norm shrinks where the goal is reached, and grows where it is not."""
FIRST_NORM = 1.0
FIRST_STEP, LAST_STEP = 1.0, 0.01
"""In widths of the pixel range, as the norm."""


def ddn(objective: Objective, images: Images, pixel_range: PixelRange, *, iterations: int) -> Attacked:
    """Search the nearest image that reaches the goal, along the surface of a ball that grows and shrinks.

    Each iteration steps against the gradient, of which the length is disregarded, and brings the perturbation to a
    norm that is 5 % smaller than before where the goal is reached, else 5 % larger. Steps shrink along a cosine. The
    result is not rounded to 256 levels, as the paper's is.

    Where the gradient is exactly 0, as that of a posterior which rounds to 1 is, the step is random, by the same
    numbers each time.

    Args:
        objective: what is wanted of each image; the paper's is the cross-entropy.
        images: clean ones, of the pixel range.
        pixel_range: what no pixel leaves.
        iterations: steps.

    Returns:
        The nearest image that reaches the goal, or where none did the last one that was judged.
    """
    rows = torch.arange(len(images), device=images.device)
    chance = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
    largest = _norms(torch.maximum(images - pixel_range.low, pixel_range.high - images))
    norm = torch.full_like(largest, FIRST_NORM * pixel_range.width)
    attacked, nearest, nearest_norm = images, images, torch.full_like(norm, torch.inf)
    for iteration in range(iterations):
        gradient, judgement = gradient_of(objective, attacked, rows)
        perturbation, is_reached = attacked - images, judgement.is_reached[:, None, None, None]
        is_nearer = is_reached & (_norms(perturbation) < nearest_norm)
        nearest = torch.where(is_nearer | nearest_norm.isinf(), attacked, nearest)
        nearest_norm = torch.where(is_nearer, _norms(perturbation), nearest_norm)
        share = (1 + math.cos(math.pi * iteration / iterations)) / 2
        step = pixel_range.width * (LAST_STEP + (FIRST_STEP - LAST_STEP) * share)
        direction = _scaled(torch.where(_norms(gradient) > 0, gradient, chance), step)
        norm = torch.where(is_reached, (1 - NORM_CHANGE) * norm, (1 + NORM_CHANGE) * norm).minimum(largest)
        attacked = pixel_range.clamp(images + _scaled(perturbation - direction, norm))
    return Attacked(
        images=nearest,
        is_success=nearest_norm.isfinite().flatten(),
        passes=torch.full_like(rows, iterations),
    )


def _norms(images: Images) -> Float[Tensor, "batch 1 1 1"]:
    norms: Tensor = torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)
    return norms


def _scaled(images: Images, norm: Float[Tensor, "batch 1 1 1"] | float) -> Images:
    return images * (norm / _norms(images).clamp(min=torch.finfo(images.dtype).tiny))
