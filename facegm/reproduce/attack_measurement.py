"""What an attack on test images comes to, and what detectors make of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from facegm.adversarial.craft import Crafted, craft
from facegm.adversarial.crafted import craft_in_batches
from facegm.adversarial.density_objective import density_thresholds
from facegm.adversarial.detection import detection, equally_distorted_noise, false_alarms
from facegm.adversarial.detectors.base import ClassDensity, SupervisedDetector, UnsupervisedDetector
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.detectors.i_defender import IDefender
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.kd_bu import KDBU
from facegm.adversarial.detectors.lid import LID
from facegm.adversarial.observations import Observations, observe
from facegm.adversarial.recipe import AttackRecipe
from facegm.adversarial.result import distortion
from facegm.adversarial.subject import Images
from facegm.adversarial.subject_checks import check_subject
from facegm.adversarial.trained import TrainedClassifier
from facegm.classification.data import open_images
from facegm.classification.prediction import ImageSet, full_precision
from facegm.errors import FacegmError
from facegm.losses.gm_module import GMLoss
from facegm.reproduce.cell_data import evenly_spaced

CENTERS = 100
"""Training images of a class by whose density an attacker estimates that of all (Carlini and Wagner 2017)."""
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
class Network:
    """A trained network, and what it makes of its training images."""

    trained: TrainedClassifier
    training: Observations

    def fitted(self, detector: str) -> UnsupervisedDetector:
        """A detector that is shown training images alone, by name, where the network computes."""
        if detector == GMLikelihood.name:
            loss = self.trained.classifier.loss
            assert isinstance(loss, GMLoss)
            found: UnsupervisedDetector = GMLikelihood(loss.means)
        else:
            found = {kind.name: kind for kind in (KDensity, IDefender)}[detector]().fit(self.training)
        return found.to(self.trained.subject.device)


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
    made_with: Network,
    judge: Network,
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
    trained = made_with.trained
    assert trained.trained_on is not None
    test = open_images(trained.trained_on, "test", classes=trained.classifier.description.classes)
    images = ImageSet(name="test images", samples=test.samples, crop=test.crop)
    numbers = evenly_spaced(len(test.samples), count)
    clean = judge.trained.observe(images, numbers)
    assert clean.labels is not None
    is_right = clean.predicted == clean.labels
    numbers, labels = numbers[is_right.numpy()], clean.labels[is_right]
    if not len(labels):
        raise FacegmError(f"{judge.trained.file}: classifies none of {count:,} test images right; train it for longer")
    pixels = trained.read(images, numbers)
    check_subject(trained.subject, pixels, labels)
    attack = partial(craft, recipe, trained.subject)
    if recipe.defeats_detector:
        density = _seen_by_attacker(made_with, defeated)
        thresholds = density_thresholds(density, made_with.training)
        attack = partial(attack, density=density, thresholds=thresholds.to(trained.subject.device))
    crafted = craft_in_batches(
        folder,
        recipe,
        trained.subject,
        pixels,
        labels,
        torch.from_numpy(numbers),
        attack=lambda some, classes, own: attack(some, classes, numbers=own),
        about=f"{defeated} {trained.fingerprint}",
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    noisy = equally_distorted_noise(pixels, crafted.images, trained.subject.pixel_range, generator)
    states = {"clean": pixels, "attacked": crafted.images, "noisy": noisy}
    scores, is_fooled = _judged(judge, states, labels, crafted, detectors)
    is_success = crafted.is_success.numpy() if judge is made_with else is_fooled
    found = {"attacked": float(len(labels)), "fooled": 100 * is_fooled.mean(), "success": 100 * is_success.mean()}
    found["passes"] = crafted.passes.double().mean().item()
    if is_success.any():
        change = distortion(pixels, crafted.images, trained.subject.pixel_range).numpy()
        found["distortion"] = float(change[is_success].mean())
    for name, of_states in scores.items():
        own = _numbers_of(of_states, is_fooled[-len(of_states["clean"]) :])
        found |= {f"{number}:{name}": value for number, value in own.items()}
    return Measurement(numbers=found, scores=scores)


def _seen_by_attacker(network: Network, detector: str) -> ClassDensity:
    """The density that an attack on a detector makes large: for K-density, that of a few training images."""
    fitted = network.fitted(detector)
    if isinstance(fitted, KDensity):
        return fitted.subset(CENTERS, seed=0)
    assert isinstance(fitted, GMLikelihood)
    return fitted.log_density


# ------------------------------------------------------------------------------------------------- judgement


def _judged(
    judge: Network, states: Mapping[str, Images], labels: Labels, crafted: Crafted, detectors: Sequence[str]
) -> tuple[dict[str, Scores], Flags]:
    """The scores of each detector, and which attacked images are taken for what the attacker wants."""
    trained, reference = judge.trained, None
    if LID.name in detectors:
        training = trained.training_images
        reference = trained.read(training, evenly_spaced(len(training.samples), REFERENCE))
    with full_precision(trained.subject.device):
        observed = {
            state: observe(
                trained.subject,
                some,
                labels=labels,
                reference=reference,
                with_uncertainty=KDBU.name in detectors,
            )
            for state, some in states.items()
        }
    predicted = observed["attacked"].predicted
    is_fooled = predicted != labels if crafted.targets is None else predicted == crafted.targets
    return {name: _scores(judge, name, observed) for name in detectors}, is_fooled.numpy()


def _scores(judge: Network, detector: str, observed: Mapping[str, Observations]) -> Scores:
    """Of all images, or for a detector that is shown the attack of those that it was not fitted to."""
    if detector not in (LID.name, KDBU.name):
        unsupervised = judge.fitted(detector)
        return {state: unsupervised.score_samples(one) for state, one in observed.items()}
    supervised: SupervisedDetector = LID()
    if detector == KDBU.name:
        density = judge.fitted(KDensity.name)
        assert isinstance(density, KDensity)
        supervised = KDBU(density)
    split = int(FITTED * len(observed["clean"].logits))
    fitted_to = {state: _part(one, slice(split)) for state, one in observed.items()}
    supervised.fit(fitted_to["clean"], noisy=fitted_to["noisy"], adversarial=fitted_to["attacked"])
    return {state: supervised.score_samples(_part(one, slice(split, None))) for state, one in observed.items()}


def _part(observed: Observations, rows: slice) -> Observations:
    """What was observed of some of the images."""
    found = {one.name: getattr(observed, one.name) for one in fields(observed)}
    return Observations(**{name: None if part is None else part[rows] for name, part in found.items()})


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
