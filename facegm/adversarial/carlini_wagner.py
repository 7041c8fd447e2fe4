"""The L2 attack of Carlini and Wagner (2017): the nearest image that reaches the goal, sought by Adam in tanh space."""

import math
from dataclasses import dataclass, field

import torch

from facegm.adversarial.objectives import Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, PixelRange
from facegm.adversarial.tanh_descent import Descent, TanhSpace, step

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
    best, distance = clean.clone(), torch.full_like(clean[:, 0, 0, 0], torch.inf)
    rows = torch.arange(len(clean), device=clean.device)
    passes = torch.zeros_like(rows)
    searches = [_Search(points[row : row + 1], search_steps, initial_constant) for row in range(len(clean))]
    going = Descent.begin(points, torch.full_like(distance, initial_constant))
    while len(rows):
        stepped = step(objective, space, going, clean[rows], rows, learning_rate=learning_rate, iterations=iterations)
        going = stepped.descent
        passes[rows] += 1
        is_nearer = stepped.is_reached & (stepped.distance < distance[rows])
        is_shown = is_nearer | distance[rows].isinf()
        best[rows] = torch.where(is_shown[:, None, None, None], stepped.images, best[rows])
        distance[rows] = torch.where(is_nearer, stepped.distance, distance[rows])
        leaves = stepped.has_ended | stepped.is_first
        if leaves.any():
            stays = ~leaves
            tries, of = [going.only(stays)], rows[stays].tolist()
            for place in leaves.nonzero()[:, 0]:
                row = int(rows[place])
                search = searches[row]
                following = search.following(going.only(place[None]), has_ended=bool(stepped.has_ended[place]))
                if following is not None:
                    tries.append(following)
                    of.append(row)
            going, rows = Descent.together(tries), torch.tensor(of, dtype=rows.dtype, device=rows.device)
    return Attacked(images=best, is_success=distance.isfinite(), passes=passes)


@dataclass
class _Search:
    """The search for the constant of one image."""

    points: Images
    """Where each try begins."""
    tries_left: int
    """That have not been begun, and the present one."""
    constant: float
    """Of the present try."""
    lower: float = 0.0
    upper: float = LARGEST_CONSTANT
    nearest: float = math.inf
    """The distance of the nearest success."""
    is_repeated: bool = field(init=False)
    """Whether the last try is made with the smallest constant that has done."""
    broken_off: list[Descent] = field(default_factory=list)
    """The last one's constant is the smallest."""
    is_settled: bool = False
    """Whether a try that was taken up again came no nearer."""

    def __post_init__(self) -> None:
        self.is_repeated = self.tries_left >= REPEATED_FROM

    def following(self, tried: Descent, *, has_ended: bool) -> Descent | None:
        """What goes on when a try has ended or has been broken off: a new one, one that was broken off, or none."""
        distance = tried.distance.item()
        if not has_ended:
            self.broken_off.append(tried)
        if not self.tries_left:
            self.is_settled |= distance >= self.nearest
        self.nearest = min(self.nearest, distance)
        if self.tries_left:
            self._judge_constant(is_success=distance < math.inf)
            self.tries_left -= 1
        if self.tries_left:
            if self.tries_left == 1 and self.is_repeated:
                self.constant = self.upper
            return Descent.begin(self.points, torch.full_like(tried.constant, self.constant))
        if not self.broken_off:
            return None
        return self.broken_off.pop()._replace(to_beat=torch.full_like(tried.constant, self.nearest if self.is_settled else math.inf))

    def _judge_constant(self, *, is_success: bool) -> None:
        if is_success:
            self.upper = min(self.upper, self.constant)
        else:
            self.lower = max(self.lower, self.constant)
        is_bounded = is_success or self.upper < UNBOUNDED
        self.constant = (self.lower + self.upper) / 2 if is_bounded else 10 * self.constant
