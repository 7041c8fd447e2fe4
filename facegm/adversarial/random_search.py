"""The Square attack within an L-infinity ball (Andriushchenko et al. 2020): random search, without any gradient."""

import math
from bisect import bisect_left

import torch
from jaxtyping import Float
from torch import Tensor

from facegm.adversarial.chance import Generators, uniform
from facegm.adversarial.objectives import Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, PixelRange

FIRST_SHARE = 0.05
"""p: the share of an image's pixels that the first squares cover."""
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After how many of 10,000 queries p is halved, as in the published code; of fewer queries, in proportion."""


@torch.no_grad()
def random_search(
    objective: Objective,
    images: Images,
    pixel_range: PixelRange,
    *,
    epsilon: float,
    queries: int,
    generators: Generators,
) -> Attacked:
    """Change squares at random places as long as that makes the loss smaller, until the goal is reached.

    An image begins with vertical stripes, one pixel wide. Each query then sets a square of it, in each channel, to
    either bound of what its pixels may be. Squares shrink as the queries go by. An image that has reached the goal
    stays as it is, and costs no more.

    Unlike in the published code, squares also lie at the lower and the right edge, as they do in the paper.

    Args:
        objective: what is wanted of each image; the paper's is the margin.
        images: clean ones, of the pixel range.
        pixel_range: what no pixel leaves.
        epsilon: the most that a pixel changes.
        queries: forward passes that an image may take, one at least.
        generators: draw the stripes and squares of each image.
    """
    low, high = pixel_range.ball(images, epsilon)
    channels, height, width = images.shape[1:]
    rows = torch.arange(len(images), device=images.device)
    is_high = uniform(generators, (channels, 1, width)).to(images) < 0.5
    best = torch.where(is_high, high, low)
    loss, is_reached = objective(best, rows)
    passes = torch.ones_like(rows)
    for query in range(1, queries):
        rows = rows[~is_reached[rows]]
        if not len(rows):
            break
        side = square_side(query, queries, height, width)
        draws = uniform([generators[row] for row in rows.tolist()], (2 + channels,)).to(images)
        tried = _with_squares(best[rows], low[rows], high[rows], side, draws)
        judgement = objective(tried, rows)
        passes[rows] += 1
        is_better = judgement.is_reached | (judgement.loss < loss[rows])
        better = rows[is_better]
        best[better], loss[better] = tried[is_better], judgement.loss[is_better]
        is_reached[better] = judgement.is_reached[is_better]
    return Attacked(images=best, is_success=is_reached, passes=passes)


def square_side(query: int, queries: int, height: int, width: int) -> int:
    """Side of the squares of a query, in pixels; the query of the stripes is 0."""
    progress = (query - 1) * 10_000 // queries
    share = FIRST_SHARE / 2 ** bisect_left(HALVINGS, progress)
    return max(1, min(round(math.sqrt(share * height * width)), min(height, width) - 1))


def _with_squares(
    images: Images, low: Images, high: Images, side: int, draws: Float[Tensor, "batch numbers"]
) -> Images:
    """Images with a square each, in each channel at the one bound or the other.

    Args:
        images: every pixel at one of its bounds.
        low: the lower bounds.
        high: the upper bounds.
        side: of the squares.
        draws: from 0 to 1: the square's place, down and right, and the bound in each channel.
    """
    is_in_row, is_in_column = (
        _is_within((draws[:, axis] * (size - side + 1)).long(), side, size)
        for axis, size in enumerate(images.shape[2:])
    )
    is_inside = (is_in_row[:, :, None] & is_in_column[:, None, :])[:, None]
    is_high = (draws[:, 2:] < 0.5)[:, :, None, None]
    changed = torch.where(is_inside, torch.where(is_high, high, low), images)
    # A square that is there already would waste the query; it is turned to the other bounds.
    is_same = (changed == images).flatten(1).all(dim=1)[:, None, None, None]
    return torch.where(is_inside & is_same, torch.where(is_high, low, high), changed)


def _is_within(first: Tensor, side: int, size: int) -> Tensor:
    """Of each image, which of so many rows or columns are those from the first one of a square to its last."""
    offset = torch.arange(size, device=first.device) - first[:, None]
    return (offset >= 0) & (offset < side)
