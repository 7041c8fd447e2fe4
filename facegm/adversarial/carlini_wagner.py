"""The L2 attack of Carlini and Wagner (2017): the nearest image that reaches the goal, sought by Adam in tanh space."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.adversarial.objectives import Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, PixelRange
from facegm.adversarial.tanh_descent import Descent, TanhSpace, descend

LARGEST_CONSTANT, UNBOUNDED = 1e10, 1e9
"""Where the search's upper bound begins, and from where on it counts as none."""
REPEATED_FROM = 10
"""Tries from which on the last one is made with the smallest constant that has done."""


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

    The search asks of a constant only whether the goal is reached with it. So a try is broken off where the goal is
    first reached on its way. At the end those tries are taken up again, that with the smallest constant first, as it is
    the one that mostly ends nearest. After one that came no nearer than others had, a further one is given up at a
    tenth of the iterations by which it would not, even did it go on coming nearer as it has since its first success.
    (That saves a quarter of 500 passes and a sixth of 2,500, for images that were at most 0.1 % farther.)

    In the published code a try ends when the loss of the whole batch has not fallen for a tenth of the iterations. Here
    an image leaves the batch when its own smallest loss has not for a fifth, and nothing that becomes of it depends on
    the others. (The loss of a single image jumps up and down where the goal begins: left by the published rule, images
    were 1 to 2.5 % farther.)

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
    space = TanhSpace(pixel_range)
    points = space.points(images if start is None else start)
    clean = space.images(space.points(images))  # shrunk, as all that is compared with it
    constant = torch.full_like(clean[:, 0, 0, 0], initial_constant)
    lower, upper = torch.zeros_like(constant), torch.full_like(constant, LARGEST_CONSTANT)
    nowhere, best, tries = torch.full_like(constant, torch.inf), _Found.nothing(clean), []

    def go_on(begun: Descent, to_beat: Float[Tensor, " batch"]) -> Descent:
        return descend(objective, space, begun, to_beat, learning_rate=learning_rate, iterations=iterations)

    for attempt in range(search_steps):
        if attempt == search_steps - 1 and search_steps >= REPEATED_FROM:
            constant = upper
        begun = Descent.begin(points, clean, constant)
        tried = go_on(begun, nowhere)
        best = best.or_better(tried, since=begun)
        tries.append(tried)
        upper = torch.where(tried.is_success, torch.minimum(upper, constant), upper)
        lower = torch.where(tried.is_success, lower, torch.maximum(lower, constant))
        is_bounded = tried.is_success | (upper < UNBOUNDED)
        constant = torch.where(is_bounded, (lower + upper) / 2, 10 * constant)
    is_settled = torch.zeros_like(constant, dtype=torch.bool)
    for tried in reversed(tries):  # of each image, constants that did have grown smaller
        finished = go_on(tried, torch.where(is_settled, best.distance, nowhere))
        is_settled |= (finished.iteration > tried.iteration) & (finished.distance >= best.distance)
        best = best.or_better(finished, since=tried)
    return Attacked(images=best.images, is_success=best.distance.isfinite(), passes=best.passes)


class _Found(NamedTuple):
    """What has been found for each image in all tries."""

    images: Images
    """As in `Descent`."""
    distance: Float[Tensor, " batch"]
    passes: Int64[Tensor, " batch"]

    @classmethod
    def nothing(cls, clean: Images) -> "_Found":
        """Before the first try."""
        nowhere = torch.full_like(clean[:, 0, 0, 0], torch.inf)
        return cls(clean, nowhere, torch.zeros_like(nowhere, dtype=torch.int64))

    def or_better(self, tried: Descent, *, since: Descent) -> "_Found":
        """The nearer success; where there has been none, the image that was judged later.

        Args:
            tried: of the whole batch.
            since: the same try, as it was before.
        """
        passes = tried.iteration - since.iteration
        is_better = (tried.distance < self.distance) | (self.distance.isinf() & (passes > 0))
        return _Found(
            torch.where(is_better[:, None, None, None], tried.images, self.images),
            torch.minimum(self.distance, tried.distance),
            self.passes + passes,
        )
