"""What an attack on test images comes to, and what detectors make of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from facegm.adversarial.craft import Crafted, craft
from facegm.adversarial.crafted import craft_in_batches
from facegm.adversarial.detection import detection, equally_distorted_noise, false_alarms
from facegm.adversarial.detectors.base import SupervisedDetector
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.kd_bu import KDBU
from facegm.adversarial.detectors.lid import LID
from facegm.adversarial.fitted import FittedDetectors
from facegm.adversarial.observations import Observations, observe
from facegm.adversarial.recipe import AttackRecipe
from facegm.adversarial.result import distortion
from facegm.adversarial.subject import Images
from facegm.adversarial.subject_checks import check_subject
from facegm.adversarial.trained import TrainedClassifier
from facegm.classification.data import open_images
from facegm.classification.prediction import ImageSet, full_precision
from facegm.errors import FacegmError
from facegm.reproduce.cell_data import evenly_spaced

REFERENCE = 100
"""Training images among which LID looks for neighbours."""
FITTED = 0.8
"""Share of the images, the first ones, to which a detector is fitted that is shown an attack; the others are scored."""
Numbers = dict[str, float]
Flags = Bool[np.ndarray, " images"]
Labels = Int64[Tensor, " images"]
Scores = Mapping[str, Float64[np.ndarray, " images"]]
"""Of a detector, by the state of the images: clean, attacked and noisy."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What an attack has come to."""

    numbers: Numbers
    """Percentages, and `distortion` on a scale of 0 to 255; those of a detector as NAME:DETECTOR."""
    scores: Mapping[str, Scores]
    """By detector."""


def measure_attack(
    folder: Path,
    recipe: AttackRecipe,
    made_with: TrainedClassifier,
    judge: TrainedClassifier,
    *,
    count: int,
    defeated: str,
    detectors: Sequence[str],
) -> Measurement:
    """Attack test images, from where it stands, and judge what came of them.

    Args:
        folder: for the attacked images.
        recipe: the attack.
        made_with: the network that is attacked.
        judge: the one that classifies the images then, whose detectors look at them; may be the same.
        count: test images; those that the judge classifies wrong are left alone.
        defeated: the detector of the attacked network that the recipe defeats too, if it does.
        detectors: names of those that look.

    Raises:
        FacegmError: the network cannot be attacked in earnest, or images are missing or damaged.
    """
    pixels, labels, numbers = right_images(made_with, judge, count)
    subject = made_with.subject
    attack, about = partial(craft, recipe, subject), ""
    if recipe.defeats_detector:
        fitted = FittedDetectors(made_with)
        known = fitted.attacked(fitted.named([defeated]))
        attack, about = partial(attack, density=known.density, thresholds=known.thresholds), known.fingerprint
    crafted = craft_in_batches(
        folder,
        recipe,
        subject,
        pixels,
        labels,
        numbers,
        attack=lambda some, classes, own: attack(some, classes, numbers=own),
        about=about,
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    noisy = equally_distorted_noise(pixels, crafted.images, subject.pixel_range, generator)
    states = {"clean": pixels, "attacked": crafted.images, "noisy": noisy}
    scores, is_fooled = _judged(judge, states, labels, crafted, detectors)
    is_success = crafted.is_success.numpy() if judge is made_with else is_fooled
    found = {"attacked": float(len(labels)), "fooled": 100 * is_fooled.mean(), "success": 100 * is_success.mean()}
    found["passes"] = crafted.passes.double().mean().item()
    if is_success.any():
        change = distortion(pixels, crafted.images, subject.pixel_range).numpy()
        found["distortion"] = float(change[is_success].mean())
    for name, of_states in scores.items():
        own = _numbers_of(of_states, is_fooled[-len(of_states["clean"]) :])
        found |= {f"{number}:{name}": value for number, value in own.items()}
    return Measurement(numbers=found, scores=scores)


class RightImages(NamedTuple):
    """Test images that are classified right, on the CPU."""

    images: Images
    labels: Labels
    numbers: Labels
    """Of them in their set."""


def right_images(made_with: TrainedClassifier, judge: TrainedClassifier, count: int) -> RightImages:
    """Test images that are to be attacked, evenly spaced among all.

    Args:
        made_with: the network that is attacked.
        judge: the one that has to classify them right; may be the same.
        count: images; those that the judge classifies wrong are left away.

    Raises:
        FacegmError: none is left, the network cannot be attacked in earnest, or images are missing or damaged.
    """
    assert made_with.trained_on is not None
    test = open_images(made_with.trained_on, "test", classes=made_with.classifier.description.classes)
    images = ImageSet(name="test images", samples=test.samples, crop=test.crop)
    numbers = evenly_spaced(len(test.samples), count)
    clean = judge.observe(images, numbers)
    assert clean.labels is not None
    is_right = clean.predicted == clean.labels
    numbers, labels = numbers[is_right.numpy()], clean.labels[is_right]
    if not len(labels):
        raise FacegmError(f"{judge.file}: classifies none of {count:,} test images right; train it for longer")
    subject, pixels = made_with.subject, made_with.read(images, numbers)
    check_subject(subject, pixels.to(subject.device), labels.to(subject.device))
    return RightImages(pixels, labels, torch.from_numpy(numbers))


# ------------------------------------------------------------------------------------------------- judgement


def _judged(
    judge: TrainedClassifier, states: Mapping[str, Images], labels: Labels, crafted: Crafted, detectors: Sequence[str]
) -> tuple[dict[str, Scores], Flags]:
    """The scores of each detector, and which attacked images are taken for what the attacker wants."""
    reference = None
    if LID.name in detectors:
        training = judge.training_images
        reference = judge.read(training, evenly_spaced(len(training.samples), REFERENCE))
    with full_precision(judge.subject.device):
        observed = {
            state: observe(
                judge.subject,
                some,
                labels=labels,
                reference=reference,
                with_uncertainty=KDBU.name in detectors,
            )
            for state, some in states.items()
        }
    predicted = observed["attacked"].predicted
    is_fooled = predicted != labels if crafted.targets is None else predicted == crafted.targets
    fitted = FittedDetectors(judge)
    return {name: _scores(fitted, name, observed) for name in detectors}, is_fooled.numpy()


def _scores(fitted: FittedDetectors, detector: str, observed: Mapping[str, Observations]) -> Scores:
    """Of all images, or for a detector that is shown the attack of those that it was not fitted to."""
    if detector not in (LID.name, KDBU.name):
        unsupervised = fitted.named([detector])[detector]
        return {state: unsupervised.score_samples(one) for state, one in observed.items()}
    supervised: SupervisedDetector = LID()
    if detector == KDBU.name:
        density = fitted.named([KDensity.name])[KDensity.name]
        assert isinstance(density, KDensity)
        supervised = KDBU(density)
    split = int(FITTED * len(observed["clean"].logits))
    fitted_to = {state: one.only(slice(split)) for state, one in observed.items()}
    supervised.fit(fitted_to["clean"], noisy=fitted_to["noisy"], adversarial=fitted_to["attacked"])
    return {state: supervised.score_samples(one.only(slice(split, None))) for state, one in observed.items()}


def _numbers_of(scores: Scores, is_fooled: Flags) -> Numbers:
    """Of one detector."""
    found = detection(scores["clean"], scores["attacked"], is_fooled)
    numbers = {"auc": 100 * found.area}
    if found.area_of_successes is not None:
        numbers["auc_of_successes"] = 100 * found.area_of_successes
    on_noise = false_alarms(scores["clean"], scores["noisy"])
    for what, shares in (("undetected_at", found.undetected), ("noise_at", on_noise)):
        numbers |= {f"{what}_{100 * rate:.0f}": 100 * share for rate, share in shares.items()}
    return numbers
