"""The attacks of a verdict on test images, each made batch by batch into a folder of its own."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from facegm.adversarial.craft import Crafted, craft
from facegm.adversarial.crafted import craft_in_batches
from facegm.adversarial.density_objective import DensityShortfall, no_density
from facegm.adversarial.detection import Scores
from facegm.adversarial.fitted import AttackedDetector, FittedDetectors
from facegm.adversarial.objectives import Margin
from facegm.adversarial.observations import observe
from facegm.adversarial.orthogonal_attack import JointObjective
from facegm.adversarial.recipe import AttackRecipe
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, Subject
from facegm.adversarial.trained import TrainedClassifier
from facegm.adversarial.trial import Attack, Defence, reach_verdict
from facegm.adversarial.verdict import Verdict
from facegm.classification.prediction import full_precision
from facegm.reproduce.attack_measurement import RightImages, right_images


def measure_verdict(
    folder: Path,
    recipe: AttackRecipe,
    network: TrainedClassifier,
    substitute: TrainedClassifier,
    *,
    count: int,
    detector: str,
    budgets: Sequence[float],
    queries: int,
) -> Verdict:
    """Attack test images in all the ways of a verdict, from where it stands.

    All attacks are towards the same targets, which follow from the recipe's seed and the images' numbers. Steps are as
    long whatever the bound: coarse ones jump over the narrow place where both network and detector are fooled. The
    undefended twin is the network alone, and the broken detector scores at random; who attacks them knows that there is
    nothing to be defeated but the network.

    Args:
        folder: for the attacked images, a folder for each attack.
        recipe: the attack on network and detector, towards chosen targets.
        network: the one on trial.
        substitute: another one, on which and on whose detector images are crafted that are transferred.
        count: test images; those that the network classifies wrong are left alone.
        detector: the name of the one on trial.
        budgets: the most that a pixel may change, in turn.
        queries: of the attack without gradients, the Square attack.

    Raises:
        FacegmError: the network cannot be attacked in earnest, or images are missing or damaged.
    """
    subject, device = network.subject, network.subject.device
    clean = right_images(network, network, count)
    fitted = FittedDetectors(network)
    detectors = fitted.named([detector])
    known = fitted.attacked(detectors)
    nothing = AttackedDetector("none", no_density, torch.zeros_like(known.thresholds), "no detector")
    fitted_to_substitute = FittedDetectors(substitute)
    of_substitute = fitted_to_substitute.attacked(fitted_to_substitute.named([detector]))
    attacked = partial(_attacked, folder, clean)
    transferred = attacked("substitute", recipe, substitute.subject, of_substitute)
    searched = replace(recipe, loop="random_search", iterations=queries)
    gradient_free = attacked("gradient-free", searched, subject, known)
    assert transferred.targets is not None
    targets = transferred.targets.to(device)
    goal = Margin(subject=subject, classes=targets, is_targeted=True)
    shortfall = DensityShortfall(
        subject=subject, classes=targets, is_targeted=True, density=known.density, thresholds=known.thresholds
    )

    def attack_on(name: str, seen: AttackedDetector) -> Attack:
        def attack(iterations: int, bound: float) -> Attacked:
            changed = replace(recipe, iterations=iterations, epsilon=bound)
            return attacked(f"{name}-{iterations}-within-{bound:g}", changed, subject, seen)

        return attack

    def scores(images: Images) -> Scores:
        return detectors[detector].score_samples(observe(subject, images))

    chance = np.random.default_rng(recipe.seed)
    network_alone = attack_on("network", nothing)
    with full_precision(device):
        return reach_verdict(
            Defence(attack=attack_on("white-box", known), goal=goal, scores=scores),
            clean.images.to(device),
            subject.pixel_range,
            detector=detector,
            attack=f"orthogonal PGD (epsilon {recipe.epsilon:g}, {recipe.iterations} iterations)",
            iterations=recipe.iterations,
            epsilon=recipe.epsilon,
            budgets=budgets,
            objective=JointObjective(network=goal, detector=shortfall),
            transferred=transferred.images,
            gradient_free=gradient_free.images,
            undefended=network_alone,
            broken=Defence(attack=network_alone, goal=goal, scores=lambda images: chance.random(len(images))),
            generator=torch.Generator().manual_seed(recipe.seed),
        )


def _attacked(
    folder: Path, clean: RightImages, name: str, recipe: AttackRecipe, subject: Subject, detector: AttackedDetector
) -> Crafted:
    """Images as an attack on a network and a detector leaves them, on the network's device."""
    attack = partial(craft, recipe, subject, density=detector.density, thresholds=detector.thresholds)
    crafted = craft_in_batches(
        folder / name,
        recipe,
        subject,
        *clean,
        attack=lambda images, labels, numbers: attack(images, labels, numbers=numbers),
        about=detector.fingerprint,
    )
    return replace(crafted, images=crafted.images.to(subject.device))


def numbers_of(verdict: Verdict) -> dict[str, float]:
    """A verdict's figures as percentages.

    Shares of undetected successes are `undetected_at_RATE` by the false-alarm rate in percent, of the other attacks
    `doubled_at_RATE` and so on, and `undetected_within_BOUND` by the most that a pixel changes, at 5 % false alarms.
    """
    white_box = verdict.white_box
    numbers = {"attacked": float(white_box.images), "auc": 100 * white_box.area, "fooled": 100 * white_box.fooled}
    if white_box.area_of_successes is not None:
        numbers["auc_of_successes"] = 100 * white_box.area_of_successes
    by_rate = {
        "undetected": white_box.undetected,
        "doubled": verdict.doubled.undetected,
        "transferred": verdict.transferred.undetected,
        "gradient_free": verdict.gradient_free.undetected,
        "broken": verdict.broken.undetected,
        "noise": verdict.noise,
    }
    for what, shares in by_rate.items():
        numbers |= {f"{what}_at_{100 * rate:.0f}": 100 * share for rate, share in shares.items()}
    numbers |= {f"undetected_within_{bound:g}": 100 * share for bound, share in verdict.over_budget.items()}
    return numbers | {"undefended": 100 * verdict.undefended, "zero_gradients": 100 * verdict.zero_gradients}
