"""One try of Carlini and Wagner's attack: Adam in tanh space, each image at its own iteration."""

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
    """Adam's way in one try, a row for each image."""

    rows: Int64[Tensor, " batch"]
    """The number of each in the batch that the attack began with."""
    iteration: Int64[Tensor, " batch"]
    """Steps taken."""
    has_ended: Bool[Tensor, " batch"]
    """Whether the try has: not if it is broken off."""
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
    """The nearest success, or where there is none what was judged last."""
    distance: Float[Tensor, " batch"]
    """Of the nearest success; infinite where there is none."""
    first_distance: Float[Tensor, " batch"]
    """Of the first success."""
    first_success: Int64[Tensor, " batch"]
    """The iteration of that."""

    @classmethod
    def begin(cls, points: Images, clean: Images, constant: Float[Tensor, " batch"]) -> "Descent":
        """Before the first step, of the whole batch."""
        rows = torch.arange(len(clean), device=clean.device)
        nowhere = torch.full_like(constant, torch.inf)
        return cls(
            rows=rows,
            iteration=torch.zeros_like(rows),
            has_ended=torch.zeros_like(rows, dtype=torch.bool),
            points=points,
            mean_gradient=torch.zeros_like(points),
            mean_square=torch.zeros_like(points),
            clean=clean,
            constant=constant,
            smallest_loss=nowhere,
            last_smallest=nowhere,
            images=clean,
            distance=nowhere,
            first_distance=nowhere,
            first_success=torch.zeros_like(rows),
        )

    @property
    def is_success(self) -> Bool[Tensor, " batch"]:
        """Whether the goal has been reached."""
        return self.distance.isfinite()

    def only(self, which: Bool[Tensor, " batch"]) -> "Descent":
        """Some of the rows."""
        return Descent(*(part[which] for part in self))

    def put(self, some: "Descent") -> None:
        """Overwrite some rows of a whole batch."""
        for part, new in zip(self, some, strict=True):
            part[some.rows] = new


def descend(
    objective: Objective,
    space: TanhSpace,
    begun: Descent,
    to_beat: Float[Tensor, " batch"],
    *,
    learning_rate: float,
    iterations: int,
) -> Descent:
    """Go on with tries that have not ended, until they do, reach the goal for the first time, or cannot come nearest.

    A try that has the goal reached from the beginning is not broken off at it: its way leads out of there, and with a
    smaller constant not back.

    Args:
        objective: as `carlini_wagner` has it.
        space: that of its points.
        begun: of the whole batch.
        to_beat: the distance that a success has to come below; infinite where any will do.
        learning_rate: Adam's.
        iterations: of a try.
    """
    whole = Descent(*(part.clone() for part in begun))
    going = whole.only(~whole.has_ended)
    while len(going.rows):
        before, going = going, _step(objective, space, going, learning_rate)
        now = before.iteration
        is_checked = now % max(1, iterations // CHECKS) == 0
        is_stuck = is_checked & ~(going.smallest_loss < PROGRESS * going.last_smallest)
        is_looked_at = now % max(1, iterations // LOOKS) == 0
        speed = (going.first_distance - going.distance) / (now - going.first_success)
        is_hopeless = is_looked_at & (going.distance - speed * (iterations - 1 - now) > to_beat[going.rows])
        is_reached_first = going.is_success & ~before.is_success
        going = going._replace(
            has_ended=is_stuck | is_hopeless | (going.iteration >= iterations),
            last_smallest=torch.where(is_checked, going.smallest_loss, going.last_smallest),
            first_distance=torch.where(is_reached_first, going.distance, going.first_distance),
            first_success=torch.where(is_reached_first, now, going.first_success),
        )
        leaves = going.has_ended | (is_reached_first & (now > 0))
        if leaves.any():
            whole.put(going.only(leaves))
            going = going.only(~leaves)
    return whole


def _step(objective: Objective, space: TanhSpace, going: Descent, learning_rate: float) -> Descent:
    """Judge images, and take Adam's step."""
    points = going.points.detach().requires_grad_()
    with torch.enable_grad():
        images = space.images(points)
        squared_distance = space.squared_distances(images, going.clean)
        judgement = objective(images, going.rows)
        loss = squared_distance + going.constant * judgement.loss.relu()
        (gradient,) = torch.autograd.grad(loss.sum(), points)
    images, distance = images.detach(), squared_distance.detach().sqrt()
    is_nearer = judgement.is_reached & (distance < going.distance)
    is_shown = is_nearer | ~going.is_success
    mean_gradient = going.mean_gradient.lerp(gradient, 1 - FIRST_DECAY)
    mean_square = going.mean_square.lerp(gradient.square(), 1 - SECOND_DECAY)
    steps = (going.iteration + 1).double()[:, None, None, None]
    rate = (learning_rate / (1 - FIRST_DECAY**steps)).to(points)
    deviation = mean_square.sqrt() / (1 - SECOND_DECAY**steps).sqrt().to(points) + STABILITY
    return going._replace(
        iteration=going.iteration + 1,
        points=points.detach() - rate * mean_gradient / deviation,
        mean_gradient=mean_gradient,
        mean_square=mean_square,
        smallest_loss=torch.minimum(going.smallest_loss, loss.detach()),
        images=torch.where(is_shown[:, None, None, None], images, going.images),
        distance=torch.where(is_nearer, distance, going.distance),
    )
