"""Attacks on a trained classifier, from its file and images to the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from facegm.adversarial.attack_report import AttackReport
from facegm.adversarial.attack_results import AttackResult, DetectorScores
from facegm.adversarial.craft import Crafted, craft
from facegm.adversarial.crafted import craft_in_batches
from facegm.adversarial.detection import equally_distorted_noise
from facegm.adversarial.detectors.base import UnsupervisedDetector
from facegm.adversarial.fitted import AttackedDetector, FittedDetectors
from facegm.adversarial.lossless import of_levels, quantised
from facegm.adversarial.observations import Observations, observe
from facegm.adversarial.recipe import ATTACKS, AttackRecipe
from facegm.adversarial.result import distortion, largest_change
from facegm.adversarial.subject import Images, Subject
from facegm.adversarial.subject_checks import check_subject
from facegm.adversarial.trained import TrainedClassifier
from facegm.classification.config import ImageDataConfig
from facegm.classification.evaluate_run import images_of_classes
from facegm.classification.prediction import ImageSet, full_precision
from facegm.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """What is asked for."""

    attacks: Sequence[str]
    """Names of recipes; one at least."""
    detectors: Sequence[str] = ()
    """Names, or files of fitted ones; without any, those that the classifier offers."""
    images: int = 200
    """That are drawn; of them those are attacked that are classified right."""
    epsilon: float | None = None
    """In place of the bound of recipes that have one; their step changes in proportion."""
    iterations: int | None = None
    """In place of a recipe's, but for FGSM, which is a single step."""
    is_untargeted: bool = False
    """Whether any class but the own will do."""
    seed: int = 0
    """Of the choice of images, targets and random points."""

    def recipes(self) -> dict[str, AttackRecipe]:
        """The recipes by name, changed as asked for.

        Raises:
            UsageError: a change makes no sense for one of them.
        """
        return {name: self._changed(name) for name in self.attacks}

    def _changed(self, name: str) -> AttackRecipe:
        recipe = ATTACKS[name]
        changes: dict[str, Any] = {"seed": self.seed}
        if self.epsilon is not None and recipe.is_bounded:
            changes |= {"epsilon": self.epsilon, "step": recipe.step * self.epsilon / recipe.epsilon}
        if self.iterations is not None and recipe.iterations > 1:
            changes["iterations"] = self.iterations
        if self.is_untargeted:
            changes["targets"] = "none"
        try:
            return replace(recipe, **changes)
        except ValueError as error:
            raise UsageError(f"--attack {name}: {error}") from error


@dataclass(frozen=True, eq=False, kw_only=True)
class CleanImages:
    """Images that are classified right, and are to be attacked."""

    images: Images
    """Of the subject's pixel range, on the CPU."""
    numbers: Int64[Tensor, " images"]
    """Of them in their set."""
    labels: Int64[Tensor, " images"]
    observed: Observations


def attack_classifier(
    file: Path, trained_on: ImageDataConfig | None, output: Path, options: AttackOptions, *, data: Path | None = None
) -> AttackReport:
    """Attack images that a classifier classifies right, and see which detectors notice; on a GPU if there is one.

    Attacked images are kept as they are made, batch by batch, in a folder of `output` for each attack: the same call
    goes on with those that are not there yet.

    Args:
        file: the exported classifier.
        trained_on: the images of its run, of which the test images are attacked; None where they are not known.
        output: folder of the results, made if need be.
        options: what is asked for.
        data: other images of its classes, in place of them; see `open_labelled`.

    Raises:
        FacegmError: the classifier, images or a detector are missing or unusable, or cannot be attacked in earnest.
        UsageError: options contradict each other.
    """
    recipes = options.recipes()
    trained = TrainedClassifier.load(file, trained_on)
    offered = images_of_classes(trained.classifier, trained_on, data)
    clean, examined = _draw(trained, offered, options)
    fitted = FittedDetectors(trained)
    detectors = fitted.named(options.detectors or fitted.usual)
    is_defeated = any(recipe.defeats_detector for recipe in recipes.values())
    defeated = fitted.attacked(detectors) if is_defeated else None
    results = []
    for name, recipe in recipes.items():
        crafted = _craft(output / name, recipe, trained, clean, defeated if recipe.defeats_detector else None)
        results.append(_result(name, recipe, trained.subject, clean, crafted, detectors))
    return AttackReport(
        facts=_facts(trained, offered, data, defeated),
        classes=trained.classifier.description.classes,
        examined=examined,
        numbers=clean.numbers.numpy(),
        keys=[offered.samples.keys[number] for number in clean.numbers.tolist()],
        clean=quantised(clean.images, trained.subject.pixel_range).numpy(),
        results=results,
    )


def _draw(trained: TrainedClassifier, offered: ImageSet, options: AttackOptions) -> tuple[CleanImages, int]:
    """Some images, of which those that are classified right are kept; and how many were drawn."""
    subject = trained.subject
    numbers = np.sort(np.random.default_rng(options.seed).permutation(len(offered.samples))[: options.images])
    images, labels = trained.read(offered, numbers), torch.from_numpy(offered.samples.labels[numbers])
    with full_precision(subject.device):
        check_subject(subject, images.to(subject.device), labels.to(subject.device))
        found = observe(subject, images, labels=labels)
    right = found.predicted == labels
    kept = CleanImages(
        images=images[right], numbers=torch.from_numpy(numbers)[right], labels=labels[right], observed=found.only(right)
    )
    return kept, len(numbers)


def _craft(
    folder: Path,
    recipe: AttackRecipe,
    trained: TrainedClassifier,
    clean: CleanImages,
    defeated: AttackedDetector | None,
) -> Crafted:
    """The attacked images, of which those that are in the folder are not made again."""
    subject = trained.subject
    attack = partial(craft, recipe, subject)
    if defeated is not None:
        attack = partial(attack, density=defeated.density, thresholds=defeated.thresholds)
    return craft_in_batches(
        folder,
        recipe,
        subject,
        clean.images,
        clean.labels,
        clean.numbers,
        attack=lambda images, labels, numbers: attack(images, labels, numbers=numbers),
        about="" if defeated is None else defeated.fingerprint,
    )


def _result(
    name: str,
    recipe: AttackRecipe,
    subject: Subject,
    clean: CleanImages,
    crafted: Crafted,
    detectors: Mapping[str, UnsupervisedDetector],
) -> AttackResult:
    pixel_range = subject.pixel_range
    levels = quantised(crafted.images, pixel_range)
    rounded = of_levels(levels, pixel_range)
    generator = torch.Generator().manual_seed(recipe.seed)
    noisy = equally_distorted_noise(clean.images, crafted.images, pixel_range, generator)
    with full_precision(subject.device):
        after, after_rounding, with_noise = (observe(subject, some) for some in (crafted.images, rounded, noisy))
    return AttackResult(
        name=name,
        recipe=recipe,
        labels=clean.labels.numpy(),
        targets=None if crafted.targets is None else crafted.targets.numpy(),
        is_success=crafted.is_success.numpy(),
        passes=crafted.passes.numpy(),
        predicted=after.predicted.numpy(),
        predicted_quantised=after_rounding.predicted.numpy(),
        distortion=distortion(clean.images, crafted.images, pixel_range).numpy(),
        distortion_quantised=distortion(clean.images, rounded, pixel_range).numpy(),
        largest_change=largest_change(clean.images, crafted.images, pixel_range).numpy(),
        scores={
            detector_name: DetectorScores(
                clean=detector.score_samples(clean.observed),
                attacked=detector.score_samples(after),
                quantised=detector.score_samples(after_rounding),
                noisy=detector.score_samples(with_noise),
            )
            for detector_name, detector in detectors.items()
        },
        levels=levels.numpy(),
    )


def _facts(
    trained: TrainedClassifier, offered: ImageSet, data: Path | None, defeated: AttackedDetector | None
) -> dict[str, str]:
    folder = data if data is not None or trained.trained_on is None else trained.trained_on.folder
    return {
        **trained.facts,
        "images": f"{len(offered.samples):,} {offered.name} of {folder}, of which some are drawn",
        **({} if defeated is None else {"detector attacked": defeated.name}),
    }
