"""The L2 attack of Carlini and Wagner (2017): the nearest image that reaches the goal, sought by Adam in tanh space."""

import math
from dataclasses import KW_ONLY, dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor

from facegm.adversarial.objectives import Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, PixelRange
from facegm.adversarial.tanh_descent import Descent, Stepped, TanhSpace, step

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
    first reached on its way. At the end those tries are taken up again, that with the smallest constant first, as
    the distance weighs most in it. After one that came no nearer than others had, a further one is given up at a tenth
    of the iterations by which it would not, even did it go on coming nearer as it has since its first success.

    Each image goes its own way: it begins its next try as soon as one has ended, so that the batch stays full until the
    first images are done, and nothing that becomes of it depends on the others. In the published code a try ends when
    the loss of the whole batch has not fallen for a tenth of the iterations, here when the image's own smallest loss
    has not for a fifth, as that of a single image jumps up and down where the goal begins.

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
    best, distance = clean.clone(), torch.full_like(clean[:, 0, 0, 0], torch.inf)
    rows = torch.arange(len(clean), device=clean.device)
    passes = torch.zeros_like(rows)
    is_repeated = search_steps >= REPEATED_FROM
    searches = [
        _Search(points[row : row + 1], initial_constant, tries_left=search_steps - 1, is_repeated=is_repeated)
        for row in range(len(clean))
    ]
    going = Descent.begin(points, torch.full_like(distance, initial_constant))
    while len(rows):
        stepped = step(objective, space, going, clean[rows], rows, learning_rate=learning_rate, iterations=iterations)
        passes[rows] += 1
        is_nearer = stepped.is_reached & (stepped.distance < distance[rows])
        is_shown = is_nearer | distance[rows].isinf()
        best[rows] = torch.where(is_shown[:, None, None, None], stepped.images, best[rows])
        distance[rows] = torch.where(is_nearer, stepped.distance, distance[rows])
        going, rows = _going_on(stepped, rows, searches)
    return Attacked(images=best, is_success=distance.isfinite(), passes=passes)


@dataclass
class _Search:
    """The search for the constant of one image."""

    points: Images
    """Where each try begins: one row."""
    constant: float
    """Of the latest try that has been begun."""
    _: KW_ONLY
    tries_left: int
    """Not begun yet."""
    is_repeated: bool
    """Whether the last try is made with the smallest constant that has done."""
    lower: float = 0.0
    upper: float = LARGEST_CONSTANT
    nearest: float = math.inf
    """The distance of the nearest success."""
    broken_off: list[Descent] = field(default_factory=list)
    """The last one's constant is the smallest."""
    is_taking_up: bool = False
    """Whether all tries have been begun."""
    is_settled: bool = False
    """Whether one that was taken up again came no nearer than others had."""

    def following(self, tried: Descent, *, has_ended: bool) -> Descent | None:
        """What is next when a try has ended or is broken off: a new one, one that had been broken off, or none."""
        distance = tried.distance.item()
        if not has_ended:
            self.broken_off.append(tried)
        if self.is_taking_up:
            self.is_settled |= distance >= self.nearest
        self.nearest = min(self.nearest, distance)
        if self.tries_left:
            self._choose_constant(is_success=distance < math.inf)
            return Descent.begin(self.points, torch.full_like(tried.constant, self.constant))
        self.is_taking_up = True
        if not self.broken_off:
            return None
        to_beat = torch.full_like(tried.to_beat, self.nearest if self.is_settled else math.inf)
        return self.broken_off.pop()._replace(to_beat=to_beat)

    def _choose_constant(self, *, is_success: bool) -> None:
        """For the next try, from what has become of the present one."""
        if is_success:
            self.upper = min(self.upper, self.constant)
        else:
            self.lower = max(self.lower, self.constant)
        self.tries_left -= 1
        if self.is_repeated and not self.tries_left:
            self.constant = self.upper
        elif is_success or self.upper < UNBOUNDED:
            self.constant = (self.lower + self.upper) / 2
        else:
            self.constant *= 10


def _going_on(
    stepped: Stepped, rows: Int64[Tensor, " batch"], searches: list[_Search]
) -> tuple[Descent, Int64[Tensor, " some"]]:
    """The tries that go on and those that follow others, and the rows of their images; those that are done have none.

    Args:
        stepped: the tries, after a step.
        rows: of their images.
        searches: of all images.
    """
    leaves = stepped.has_ended | stepped.is_first
    if not leaves.any():
        return stepped.descent, rows
    tries, their_rows = [stepped.descent.only(~leaves)], rows[~leaves].tolist()
    leaving = stepped.descent.only(leaves)
    for place, (row, has_ended) in enumerate(
        zip(rows[leaves].tolist(), stepped.has_ended[leaves].tolist(), strict=True)
    ):
        following = searches[row].following(leaving.one(place), has_ended=has_ended)
        if following is not None:
            tries.append(following)
            their_rows.append(row)
    return Descent.together(tries), rows.new_tensor(their_rows)
