"""Tries of Carlini and Wagner's attack: Adam in tanh space, each image at its own iteration."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from facegm.adversarial.objectives import Objective
from facegm.adversarial.subject import Images, PixelRange

SHRINKING = 0.999999
"""Of the range about its middle, so that a pixel at a bound has a finite w."""
CHECKS, PROGRESS = 5, 0.9999
"""How often in a try an image's smallest loss is looked at, and which part of the last one it has to be below."""
LOOKS = 10
"""How often in a try it is asked whether an image can still come nearer than another try has come."""
FIRST_DECAY, SECOND_DECAY, STABILITY = 0.9, 0.999, 1e-8
"""Adam's."""


class TanhSpace(NamedTuple):
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


class Descent(NamedTuple):
    """Adam's way in one try of each image, and what has been seen on it."""

    constant: Float[Tensor, " batch"]
    iteration: Int64[Tensor, " batch"]
    """Steps taken."""
    points: Images
    mean_gradient: Images
    mean_square: Images
    smallest_loss: Float[Tensor, " batch"]
    """So far."""
    last_smallest: Float[Tensor, " batch"]
    """When it was looked at."""
    distance: Float[Tensor, " batch"]
    """Of the nearest success; infinite where there is none."""
    first_distance: Float[Tensor, " batch"]
    """Of the first success."""
    first_success: Int64[Tensor, " batch"]
    """The iteration of that."""
    to_beat: Float[Tensor, " batch"]
    """The distance that the try is given up for if it cannot come below; infinite where any will do."""

    @classmethod
    def begin(cls, points: Images, constant: Float[Tensor, " batch"]) -> "Descent":
        """Before the first step."""
        nowhere = torch.full_like(constant, torch.inf)
        none = torch.zeros_like(constant, dtype=torch.int64)
        return cls(
            constant=constant,
            iteration=none,
            points=points,
            mean_gradient=torch.zeros_like(points),
            mean_square=torch.zeros_like(points),
            smallest_loss=nowhere,
            last_smallest=nowhere,
            distance=nowhere,
            first_distance=nowhere,
            first_success=none,
            to_beat=nowhere,
        )

    @classmethod
    def together(cls, some: list["Descent"]) -> "Descent":
        """One after the other."""
        return cls(*(torch.cat(parts) for parts in zip(*some, strict=True)))

    def only(self, which: Bool[Tensor, " batch"]) -> "Descent":
        """Some of the rows."""
        return Descent(*(part[which] for part in self))

    def one(self, place: int) -> "Descent":
        """One row, as a copy: it can be kept without the others."""
        return Descent(*(part[place : place + 1].clone() for part in self))


class Stepped(NamedTuple):
    """What one step has come to, for each image."""

    descent: Descent
    images: Images
    """Those that were judged."""
    distance: Float[Tensor, " batch"]
    """Of these, from the clean ones."""
    is_reached: Bool[Tensor, " batch"]
    """Whether they reach the goal."""
    has_ended: Bool[Tensor, " batch"]
    """Whether the try has, without anything left that is worth a step."""
    is_first: Bool[Tensor, " batch"]
    """Whether the goal is reached for the first time in the try, and was not from its beginning on."""


def step(
    objective: Objective,
    space: TanhSpace,
    descent: Descent,
    clean: Images,
    rows: Int64[Tensor, " batch"],
    *,
    learning_rate: float,
    iterations: int,
) -> Stepped:
    """Judge images, and take Adam's step.

    Args:
        objective: as `carlini_wagner` has it.
        space: that of the points.
        descent: the tries.
        clean: what distances are measured from.
        rows: the number of each image in the batch that the attack began with.
        learning_rate: Adam's.
        iterations: of a try.
    """
    points = descent.points.detach().requires_grad_()
    with torch.enable_grad():
        images = space.images(points)
        squared_distance = space.squared_distances(images, clean)
        judgement = objective(images, rows)
        loss = squared_distance + descent.constant * judgement.loss.relu()
        (gradient,) = torch.autograd.grad(loss.sum(), points)
    distance, is_reached = squared_distance.detach().sqrt(), judgement.is_reached
    nearest = torch.where(is_reached, torch.minimum(distance, descent.distance), descent.distance)
    smallest_loss = torch.minimum(descent.smallest_loss, loss.detach())
    now = descent.iteration
    is_checked = now % max(1, iterations // CHECKS) == 0
    is_stuck = is_checked & ~(smallest_loss < PROGRESS * descent.last_smallest)
    is_looked_at = now % max(1, iterations // LOOKS) == 0
    speed = (descent.first_distance - nearest) / (now - descent.first_success)
    is_hopeless = is_looked_at & (nearest - speed * (iterations - 1 - now) > descent.to_beat)
    is_first = is_reached & descent.distance.isinf()
    mean_gradient = descent.mean_gradient.lerp(gradient, 1 - FIRST_DECAY)
    mean_square = descent.mean_square.lerp(gradient.square(), 1 - SECOND_DECAY)
    steps = (now + 1).double()[:, None, None, None]
    rate = (learning_rate / (1 - FIRST_DECAY**steps)).to(points)
    deviation = mean_square.sqrt() / (1 - SECOND_DECAY**steps).sqrt().to(points) + STABILITY
    stepped = descent._replace(
        iteration=now + 1,
        points=points.detach() - rate * mean_gradient / deviation,
        mean_gradient=mean_gradient,
        mean_square=mean_square,
        smallest_loss=smallest_loss,
        last_smallest=torch.where(is_checked, smallest_loss, descent.last_smallest),
        distance=nearest,
        first_distance=torch.where(is_first, nearest, descent.first_distance),
        first_success=torch.where(is_first, now, descent.first_success),
    )
    return Stepped(
        descent=stepped,
        images=images.detach(),
        distance=distance,
        is_reached=is_reached,
        has_ended=is_stuck | is_hopeless | (now + 1 >= iterations),
        is_first=is_first & (now > 0),
    )
