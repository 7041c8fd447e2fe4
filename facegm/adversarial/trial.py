"""A network and its detector on trial: attacked in all the ways that a claim of robustness has to withstand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from facegm.adversarial.detection import Detection, Scores, detection, equally_distorted_noise, false_alarms
from facegm.adversarial.objectives import Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, PixelRange
from facegm.adversarial.subject_checks import zero_gradients
from facegm.adversarial.verdict import USUAL_RATE, Verdict
from facegm.data.progress import Progress

Attack = Callable[[int, float], Attacked]
"""An attack on a batch, by its iterations and the most that a pixel may change."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Defence:
    """A network with a detector, and an attack that knows both, on images that are classified right."""

    attack: Attack
    goal: Objective
    """Of the attacker as to the network alone."""
    scores: Callable[[Images], Scores]
    """The detector's, finite and higher for normal images."""

    def detection(self, images: Images, attacked: Images) -> Detection:
        """How the detector does.

        Args:
            images: the clean ones.
            attacked: what an attack made of them, this one or another.
        """
        numbers = torch.arange(len(images), device=images.device)
        with torch.no_grad():
            is_success = torch.cat([self.goal(attacked[rows], rows).is_reached for rows in numbers.split(500)])
        return detection(self.scores(images), self.scores(attacked), is_success.cpu().numpy())


def reach_verdict(
    defence: Defence,
    images: Images,
    pixel_range: PixelRange,
    *,
    detector: str,
    attack: str,
    iterations: int,
    epsilon: float,
    budgets: Sequence[float],
    objective: Objective,
    transferred: Images,
    gradient_free: Images,
    undefended: Attack,
    broken: Defence,
    generator: torch.Generator,
) -> Verdict:
    """Attack a network with its detector in all the ways that a claim has to withstand.

    Args:
        defence: both, and the attack on both.
        images: clean test images, all of which the network classifies right.
        pixel_range: of them.
        detector: its name.
        attack: that of the attack.
        iterations: of the attack, which is then made with twice as many.
        epsilon: the most that a pixel may change.
        budgets: other such bounds, up to one with which every image can be made into any other.
        objective: what the attack makes small, to see whether it has gradients.
        transferred: the images as attacked on a substitute.
        gradient_free: as attacked without gradients.
        undefended: the same attack on a network without defence, whose success is that of fooling that network.
        broken: a detector that is broken on purpose, and the same attack on it.
        generator: draws the noise, on the CPU.
    """
    bounds = sorted({epsilon, *budgets})
    with Progress("verdict", len(bounds) + 3, "attacks") as progress:

        def attacked(attack: Attack, iterations: int, bound: float) -> Attacked:
            found = attack(iterations, bound)
            progress.update(1)
            return found

        by_bound = {bound: attacked(defence.attack, iterations, bound).images for bound in bounds}
        doubled = attacked(defence.attack, 2 * iterations, epsilon).images
        on_twin = attacked(undefended, iterations, epsilon)
        on_broken = attacked(broken.attack, iterations, epsilon).images
    noisy = equally_distorted_noise(images, by_bound[epsilon], pixel_range, generator)
    detections = {bound: defence.detection(images, some) for bound, some in by_bound.items()}
    return Verdict(
        detector=detector,
        attack=attack,
        white_box=detections[epsilon],
        doubled=defence.detection(images, doubled),
        over_budget={bound: found.undetected[USUAL_RATE] for bound, found in detections.items()},
        noise=false_alarms(defence.scores(images), defence.scores(noisy)),
        zero_gradients=zero_gradients(objective, images),
        transferred=defence.detection(images, transferred),
        gradient_free=defence.detection(images, gradient_free),
        undefended=float(on_twin.is_success.double().mean()),
        broken=broken.detection(images, on_broken),
    )
