"""Network and detector attacked at once: by orthogonal steps in an L-infinity ball, or by the sum of both losses."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn.functional import normalize

from facegm.adversarial.objectives import Judgement, Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.sign_attack import gradient_of
from facegm.adversarial.subject import Images, PixelRange

PARALLEL = 1e-5
"""Of a gradient's length: what is left of it across the other one, if it is no more, is rounding."""


@dataclass(frozen=True, eq=False, kw_only=True)
class JointObjective:
    """To fool the network and the detector: the sum of the losses, of each as long as its goal is not reached.

    For losses that are below 0 where the goal is reached, as those of `Margin` and `DensityShortfall`. Under
    `sign_attack` it is joint PGD.
    """

    network: Objective
    detector: Objective

    def __call__(self, images: Images, rows: Int64[Tensor, " batch"]) -> Judgement:
        """Judge images."""
        network, detector = self.network(images, rows), self.detector(images, rows)
        return Judgement(network.loss.relu() + detector.loss.relu(), network.is_reached & detector.is_reached)


def orthogonal_attack(
    network: Objective,
    detector: Objective,
    images: Images,
    pixel_range: PixelRange,
    *,
    epsilon: float,
    step: float,
    iterations: int,
    strict: bool = False,
) -> Attacked:
    """Orthogonal PGD (Bryniarski et al. 2021, "Evading Adversarial Example Detection Defenses with Orthogonal PGD").

    As long as an image does not fool the network, it goes against the network's gradient, made orthogonal to the
    detector's, and else against the detector's, made orthogonal to the network's, so that a step for one goal costs
    little of the other. As in the authors' code a step in the L-infinity ball is the sign of what is left.

    The authors take the part along the other gradient away wherever there is one. Where the two point the same way, it
    serves both goals: of the density of a class, and the margin towards it, that is the rule, and without it the attack
    stays at the border between two classes. So it is only taken away where it works against the other goal, unless the
    attack is `strict`.

    Of the points on the way that fool the network, the one with the least loss of the detector is kept, and where
    none does, the last point; an image that fools both is left alone, and costs no more.

    The authors let an image count as fooled for the choice of the gradient when it is by 0.05 of a logit; here that is
    the `confidence` of the network's objective, and holds for what is kept too.

    Args:
        network: the goal that the network is fooled; `Margin`.
        detector: that the detector is; `DensityShortfall`.
        images: clean ones, of the pixel range.
        pixel_range: what no pixel leaves.
        epsilon: the most that a pixel changes.
        step: what it changes by in an iteration.
        iterations: steps; each takes two passes, one for each gradient.
        strict: whether gradients are made orthogonal also where they agree, as the authors do.
    """
    low, high = pixel_range.ball(images, epsilon)
    now = images.detach().clone()
    best = _Best(now)
    remove = across if strict else across_where_opposed
    rows = torch.arange(len(images), device=images.device)
    passes = torch.zeros_like(rows)
    for _ in range(iterations):
        of_network, network_says = gradient_of(network, now[rows], rows)
        of_detector, detector_says = gradient_of(detector, now[rows], rows)
        passes[rows] += 2
        best.update(now[rows], rows, network_says, detector_says)
        direction = torch.where(
            network_says.is_reached[:, None, None, None],
            remove(of_detector, of_network),
            remove(of_network, of_detector),
        )
        goes_on = ~best.is_success[rows]
        rows, direction = rows[goes_on], direction[goes_on]
        if not len(rows):
            break
        now[rows] = (now[rows] - step * direction.sign()).clamp(low[rows], high[rows])
    else:
        with torch.no_grad():
            best.update(now[rows], rows, network(now[rows], rows), detector(now[rows], rows))
    return Attacked(
        images=torch.where(best.is_fooled[:, None, None, None], best.images, now),
        is_success=best.is_success,
        passes=passes,
    )


def across(gradient: Images, other: Images) -> Images:
    """The part of each image's gradient that is orthogonal to another one.

    Where the two are parallel nothing but rounding would be left, whose sign is a step to anywhere; there the gradient
    stays as it is.
    """
    whole, along = gradient.flatten(1), normalize(other.flatten(1), eps=torch.finfo(other.dtype).tiny)
    part = whole - (whole * along).sum(dim=1, keepdim=True) * along
    part = part - (part * along).sum(dim=1, keepdim=True) * along  # what rounding has left
    is_parallel = part.norm(dim=1, keepdim=True) <= PARALLEL * whole.norm(dim=1, keepdim=True)
    return torch.where(is_parallel, whole, part).view_as(gradient)


def across_where_opposed(gradient: Images, other: Images) -> Images:
    """The part that is orthogonal where the two point opposite ways, and elsewhere all of the gradient."""
    agree = (gradient * other).flatten(1).sum(dim=1) >= 0
    return torch.where(agree[:, None, None, None], gradient, across(gradient, other))


class _Best:
    """Of each image the point with the least loss of the detector among those that fool the network.

    Args:
        images: where the attack begins.
    """

    def __init__(self, images: Images) -> None:
        self.images = images.clone()
        self._loss = torch.full_like(images[:, 0, 0, 0], torch.inf)
        self.is_success = torch.zeros_like(self._loss, dtype=torch.bool)
        """Whether it fools both."""

    @property
    def is_fooled(self) -> Bool[Tensor, " batch"]:
        """Whether some point fools the network."""
        return self._loss < torch.inf

    def update(self, images: Images, rows: Int64[Tensor, " batch"], network: Judgement, detector: Judgement) -> None:
        """Take note of points, and of what network and detector say of them."""
        is_better = network.is_reached & (detector.loss < self._loss[rows])
        better = rows[is_better]
        self.images[better], self._loss[better] = images[is_better], detector.loss[is_better].to(self._loss)
        self.is_success[rows] |= network.is_reached & detector.is_reached
