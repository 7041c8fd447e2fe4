"""The L2 attack of Carlini and Wagner (2017): the nearest image that reaches the goal, sought by Adam in tanh space."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from facegm.adversarial.objectives import Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, PixelRange

SHRINKING = 0.999999
"""Of the range about its middle, so that a pixel at a bound has a finite w."""
LARGEST_CONSTANT, UNBOUNDED = 1e10, 1e9
"""Where the search's upper bound begins, and from where on it counts as none."""
REPEATED_FROM = 10
"""Tries from which on the last one is made with the smallest constant that has done."""
CHECKS, PROGRESS = 5, 0.9999
"""How often in a try an image's smallest loss is looked at, and which part of the last one it has to be below."""
FIRST_DECAY, SECOND_DECAY, STABILITY = 0.9, 0.999, 1e-8
"""Adam's."""


def carlini_wagner(
    objective: Objective,
    images: Images,
    pixel_range: PixelRange,
    *,
    learning_rate: float,
    search_steps: int,
    iterations: int,
    initial_constant: float,
    start: Images | None = None,
) -> Attacked:
    """Search the nearest image that reaches the goal.

    Minimises ||x' - x||^2 + c max(0, loss) over w, where x' = tanh(w), scaled to the pixel range. The constant c is
    searched for each image: the middle between a constant that failed and one that did, or ten times more as long as
    none has done; each try begins anew. Distances are in widths of the pixel range, so that constants and results mean
    the same with any; the published code has a width of 1.

    There a try ends when the loss of the whole batch has not fallen for a tenth of the iterations. Here an image leaves
    the batch when its own smallest loss has not for a fifth, and nothing that becomes of it depends on the others. (The
    loss of a single image jumps up and down where the goal begins: left by the published rule, images were 1 to 2.5 %
    farther.)

    Args:
        objective: what is wanted of each image.
        images: clean ones, of the pixel range.
        pixel_range: what no pixel leaves.
        learning_rate: Adam's, in w.
        search_steps: tries, each with another constant.
        iterations: steps of a try.
        initial_constant: c of the first try.
        start: where each try begins, if not at the clean images, to which the distance is measured all the same.

    Returns:
        The nearest image of all tries that reaches the goal, or where none did the last one that was tried.
    """
    space = _TanhSpace(pixel_range)
    points = space.points(images if start is None else start)
    clean = space.images(space.points(images))  # shrunk, as all that is compared with it
    best = _Found.nothing(clean)
    lower, upper = (
        best.squared_distance.new_zeros(len(images)),
        torch.full_like(best.squared_distance, LARGEST_CONSTANT),
    )
    constant = torch.full_like(lower, initial_constant)
    for attempt in range(search_steps):
        if attempt == search_steps - 1 and search_steps >= REPEATED_FROM:
            constant = upper
        found = _descend(objective, space, points, clean, constant, learning_rate=learning_rate, iterations=iterations)
        best = best.or_better(found)
        upper = torch.where(found.is_success, torch.minimum(upper, constant), upper)
        lower = torch.where(found.is_success, lower, torch.maximum(lower, constant))
        is_bounded = found.is_success | (upper < UNBOUNDED)
        constant = torch.where(is_bounded, (lower + upper) / 2, 10 * constant)
    return Attacked(images=best.images, is_success=best.is_success, passes=best.passes)


class _TanhSpace(NamedTuple):
    """Images as tanh(w), scaled to the pixel range."""

    pixel_range: PixelRange

    def points(self, images: Images) -> Images:
        """The w of images, shrunk a little towards the middle of the range."""
        low, high = self.pixel_range
        return ((2 * images - (low + high)) / (high - low) * SHRINKING).atanh()

    def images(self, points: Images) -> Images:
        """The images of w."""
        low, high = self.pixel_range
        return (points.tanh() * (high - low) + (low + high)) / 2

    def squared_distances(self, images: Images, others: Images) -> Float[Tensor, " batch"]:
        """From each image to the other, in widths of the pixel range."""
        return ((images - others) / self.pixel_range.width).flatten(1).square().sum(dim=1)


@dataclass(frozen=True, eq=False)
class _Found:
    """What has been found for each image."""

    images: Images
    """The nearest success, or where there is none what was judged last."""
    squared_distance: Float[Tensor, " batch"]
    """Of the nearest success; infinite where there is none."""
    passes: Int64[Tensor, " batch"]

    @classmethod
    def nothing(cls, clean: Images) -> "_Found":
        """Before the first try."""
        nowhere = clean.new_full((len(clean),), torch.inf)
        return cls(clean.clone(), nowhere, torch.zeros_like(nowhere, dtype=torch.int64))

    @property
    def is_success(self) -> Bool[Tensor, " batch"]:
        """Whether the goal has been reached."""
        return self.squared_distance.isfinite()

    def or_better(self, later: "_Found") -> "_Found":
        """The nearer success of two; where there has been none, the later image."""
        is_better = (later.squared_distance < self.squared_distance) | ~self.is_success
        return _Found(
            torch.where(is_better[:, None, None, None], later.images, self.images),
            torch.minimum(self.squared_distance, later.squared_distance),
            self.passes + later.passes,
        )


class _Descent(NamedTuple):
    """Adam's way of the images that are still in the batch, a row for each."""

    rows: Int64[Tensor, " batch"]
    points: Images
    mean_gradient: Images
    mean_square: Images
    clean: Images
    constant: Float[Tensor, " batch"]
    smallest_loss: Float[Tensor, " batch"]
    """So far."""
    last_smallest: Float[Tensor, " batch"]
    """When it was looked at."""
    images: Images
    """As in `_Found`."""
    squared_distance: Float[Tensor, " batch"]

    def only(self, which: Bool[Tensor, " batch"]) -> "_Descent":
        """Some of the rows."""
        return _Descent(*(part[which] for part in self))


def _descend(
    objective: Objective,
    space: _TanhSpace,
    points: Images,
    clean: Images,
    constant: Float[Tensor, " batch"],
    *,
    learning_rate: float,
    iterations: int,
) -> _Found:
    """One try."""
    found = _Found.nothing(clean)
    going = _Descent(
        rows=torch.arange(len(clean), device=clean.device),
        points=points,
        mean_gradient=torch.zeros_like(points),
        mean_square=torch.zeros_like(points),
        clean=clean,
        constant=constant,
        smallest_loss=found.squared_distance,
        last_smallest=found.squared_distance,
        images=found.images,
        squared_distance=found.squared_distance,
    )

    def leave(gone: _Descent, passes: int) -> None:
        found.images[gone.rows], found.squared_distance[gone.rows] = gone.images, gone.squared_distance
        found.passes[gone.rows] = passes

    for iteration in range(iterations):
        going = _step(objective, space, going, iteration, learning_rate)
        if iteration % max(1, iterations // CHECKS) == 0:
            goes_on = going.smallest_loss < PROGRESS * going.last_smallest
            leave(going.only(~goes_on), iteration + 1)
            going = going._replace(last_smallest=going.smallest_loss).only(goes_on)
            if not len(going.rows):
                return found
    leave(going, iterations)
    return found


def _step(objective: Objective, space: _TanhSpace, going: _Descent, iteration: int, learning_rate: float) -> _Descent:
    """Judge images, and take Adam's step."""
    points = going.points.detach().requires_grad_()
    with torch.enable_grad():
        images = space.images(points)
        squared_distance = space.squared_distances(images, going.clean)
        judgement = objective(images, going.rows)
        loss = squared_distance + going.constant * judgement.loss.relu()
        (gradient,) = torch.autograd.grad(loss.sum(), points)
    images, squared_distance = images.detach(), squared_distance.detach()
    is_nearer = judgement.is_reached & (squared_distance < going.squared_distance)
    is_shown = is_nearer | going.squared_distance.isinf()
    mean_gradient = going.mean_gradient.lerp(gradient, 1 - FIRST_DECAY)
    mean_square = going.mean_square.lerp(gradient.square(), 1 - SECOND_DECAY)
    rate = learning_rate / (1 - FIRST_DECAY ** (iteration + 1))
    deviation = mean_square.sqrt() / math.sqrt(1 - SECOND_DECAY ** (iteration + 1)) + STABILITY
    return going._replace(
        points=points.detach() - rate * mean_gradient / deviation,
        mean_gradient=mean_gradient,
        mean_square=mean_square,
        smallest_loss=torch.minimum(going.smallest_loss, loss.detach()),
        images=torch.where(is_shown[:, None, None, None], images, going.images),
        squared_distance=torch.where(is_nearer, squared_distance, going.squared_distance),
    )
