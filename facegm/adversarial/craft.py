"""An attack's recipe carried out: targets are chosen, the loop meets its objective, and the result is looked at."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.adversarial.carlini_wagner import carlini_wagner
from facegm.adversarial.chance import Generators, generators_of
from facegm.adversarial.ddn import ddn
from facegm.adversarial.density_objective import DensityMargin, DensityShortfall, white_box_carlini_wagner
from facegm.adversarial.detectors.base import ClassDensity
from facegm.adversarial.objectives import CrossEntropy, Margin, Objective, least_likely_classes, random_other_classes
from facegm.adversarial.orthogonal_attack import JointObjective, orthogonal_attack
from facegm.adversarial.random_search import random_search
from facegm.adversarial.recipe import AttackRecipe
from facegm.adversarial.result import Attacked, check_attacked, check_images
from facegm.adversarial.sign_attack import sign_attack
from facegm.adversarial.subject import Images, PixelRange, Subject, outputs_of
from facegm.errors import UsageError


@dataclass(frozen=True, eq=False, kw_only=True)
class Crafted(Attacked):
    """A batch after a recipe's attack."""

    targets: Int64[Tensor, " batch"] | None
    """The class that each image was to be taken for; None where any but its own would do."""


def craft(
    recipe: AttackRecipe,
    subject: Subject,
    images: Images,
    labels: Int64[Tensor, " batch"],
    *,
    numbers: Int64[Tensor, " batch"],
    density: ClassDensity | None = None,
    thresholds: Float[Tensor, " classes"] | None = None,
) -> Crafted:
    """Attack a batch of images; what becomes of one depends on no other.

    Bounds and steps of the recipe are in widths of the pixel range.

    Args:
        recipe: the attack.
        subject: what is attacked, in evaluation mode.
        images: clean ones, of the subject's pixel range, on its device.
        labels: the classes that they are of, on its device.
        numbers: of the images in their data set; with the recipe's seed, all that is random follows from them.
        density: of the detector, if the recipe defeats one.
        thresholds: of each class, what a detector asks of -log density; likewise.

    Raises:
        FacegmError: a pixel is not of the range, or the result has left it or the recipe's ball.
        UsageError: the recipe defeats a detector, and none is given.
    """
    if recipe.defeats_detector and (density is None or thresholds is None):
        raise UsageError(f"attack: {recipe.loop} is to defeat a detector too; give its density and thresholds")
    check_images(images, subject.pixel_range)
    generators = generators_of(numbers, recipe.seed)
    targets = _targets(recipe, subject, images, labels, generators)
    classes, is_targeted = (labels, False) if targets is None else (targets, True)
    detector = None
    if recipe.defeats_detector:
        assert density is not None
        assert thresholds is not None
        detector = DensityShortfall(
            subject=subject, classes=classes, is_targeted=is_targeted, density=density, thresholds=thresholds
        )
    network = Margin(subject=subject, classes=classes, is_targeted=is_targeted, confidence=recipe.confidence)
    attacked = _attack(recipe, network, detector, images, generators)
    epsilon = recipe.epsilon * subject.pixel_range.width if recipe.is_bounded else None
    check_attacked(images, attacked.images, subject.pixel_range, epsilon=epsilon)
    return Crafted(images=attacked.images, is_success=attacked.is_success, passes=attacked.passes, targets=targets)


def _targets(
    recipe: AttackRecipe, subject: Subject, images: Images, labels: Int64[Tensor, " batch"], generators: Generators
) -> Int64[Tensor, " batch"] | None:
    """By the recipe's rule."""
    if recipe.targets == "none":
        return None
    if recipe.targets == "least_likely":
        return least_likely_classes(subject, images)
    with torch.no_grad():
        classes = outputs_of(subject, images[:1]).logits.shape[1]
    return random_other_classes(labels, classes, generators)


def _attack(
    recipe: AttackRecipe, network: Margin, detector: DensityShortfall | None, images: Images, generators: Generators
) -> Attacked:
    """The recipe's loop, on the network or on network and detector."""
    subject, pixel_range = network.subject, network.subject.pixel_range
    if detector is None:
        loss = CrossEntropy(subject=subject, classes=network.classes, is_targeted=network.is_targeted)
        return carry_out(recipe, images, pixel_range, loss=loss, margin=network, generators=generators)
    if recipe.loop == "orthogonal":
        return orthogonal_attack(
            network,
            detector,
            images,
            pixel_range,
            epsilon=recipe.epsilon * pixel_range.width,
            step=recipe.step * pixel_range.width,
            iterations=recipe.iterations,
        )
    if recipe.loop == "carlini_wagner":
        both = DensityMargin(
            subject=subject,
            targets=network.classes,
            density=detector.density,
            thresholds=detector.thresholds,
            confidence=recipe.confidence,
            floor=recipe.density_floor,
        )
        return white_box_carlini_wagner(
            both,
            images,
            pixel_range,
            learning_rate=recipe.learning_rate,
            search_steps=recipe.search_steps,
            iterations=recipe.iterations,
            initial_constant=recipe.initial_constant,
            start_iterations=recipe.iterations,
        )
    joint = JointObjective(network=network, detector=detector)
    return carry_out(recipe, images, pixel_range, loss=joint, margin=joint, generators=generators)


def carry_out(
    recipe: AttackRecipe,
    images: Images,
    pixel_range: PixelRange,
    *,
    loss: Objective,
    margin: Objective,
    generators: Generators,
) -> Attacked:
    """A recipe's loop over any objective; all but those in which network and detector are told apart.

    Args:
        recipe: the attack.
        images: clean ones, of the pixel range.
        pixel_range: what no pixel leaves.
        loss: what sign and ddn make small.
        margin: what random_search and carlini_wagner make small, of which carlini_wagner takes the positive part.
        generators: of each image.
    """
    epsilon, step = recipe.epsilon * pixel_range.width, recipe.step * pixel_range.width
    match recipe.loop:
        case "sign":
            return sign_attack(
                loss,
                images,
                pixel_range,
                epsilon=epsilon,
                step=step,
                iterations=recipe.iterations,
                restarts=recipe.restarts,
                generators=generators,
                stops=recipe.stops,
            )
        case "random_search":
            return random_search(
                margin, images, pixel_range, epsilon=epsilon, queries=recipe.iterations, generators=generators
            )
        case "ddn":
            return ddn(loss, images, pixel_range, iterations=recipe.iterations)
        case "carlini_wagner":
            return carlini_wagner(
                margin,
                images,
                pixel_range,
                learning_rate=recipe.learning_rate,
                search_steps=recipe.search_steps,
                iterations=recipe.iterations,
                initial_constant=recipe.initial_constant,
            )
        case "orthogonal":
            raise UsageError("attack: orthogonal is to defeat a detector too; give its density and thresholds")
