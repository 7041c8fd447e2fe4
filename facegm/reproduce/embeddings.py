"""What a classifier makes of its set: features of the training images, their density, and test images under FGSM."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.adversarial.chance import generators_of
from facegm.adversarial.detectors.kernels import likeliest_bandwidth, log_density
from facegm.adversarial.objectives import CrossEntropy, random_other_classes
from facegm.adversarial.sign_attack import sign_attack
from facegm.adversarial.subject import UNIT_RANGE, Subject
from facegm.classification.classifier import ImageClassifier
from facegm.classification.data import LabelledImages
from facegm.classification.evaluation import Predictions
from facegm.classification.prediction import ImageSet, full_precision, predict
from facegm.classification.preprocessing import unit_images
from facegm.data.samples import DrawnSamples
from facegm.losses.center import CenterLoss
from facegm.losses.gm_module import GMLoss
from facegm.losses.linear import ClassVectorLoss
from facegm.reproduce.cell_data import evenly_spaced

EPSILON = 0.1
"""What FGSM changes of each pixel, of a range of 1 (section 4.4)."""
_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The features of one classifier."""

    title: str
    """The loss and its test error."""
    features: Float[Tensor, "samples 2"] = field(repr=False)
    labels: Int64[Tensor, " samples"] = field(repr=False)
    class_vectors: Float[Tensor, "classes 2"] = field(repr=False)
    """What the loss keeps of each class."""
    are_points: bool
    """Whether class vectors are points among the features, means or centers; else only their directions count."""
    classes: Sequence[str]
    """Names."""


@dataclass(frozen=True, kw_only=True)
class DensityPanel:
    """Where a classifier's training features lie dense, and where its test images are found before and after FGSM."""

    title: str
    """The classifier."""
    training: Float[Tensor, "samples 2"] = field(repr=False)
    clean: Float[Tensor, "tested 2"] = field(repr=False)
    adversarial: Float[Tensor, "tested 2"] = field(repr=False)
    bandwidth: float
    """Standard deviation of the kernels; 1 is what the GM loss assumes of a class."""

    def medians(self) -> tuple[float, float]:
        """Median log density of the clean images and of the adversarial ones, in nats."""
        clean, adversarial = (
            log_density(found, self.training, self.bandwidth) for found in (self.clean, self.adversarial)
        )
        return float(np.median(clean.numpy())), float(np.median(adversarial.numpy()))


def embedding_panel(
    title: str, classifier: ImageClassifier, images: LabelledImages, count: int, device: torch.device
) -> Panel:
    """The features of training images without augmentation, and the class vectors of the classifier's loss.

    Args:
        title: the loss.
        classifier: in evaluation mode, on the device.
        images: the set.
        count: how many at most, evenly spaced among all.
        device: where to compute.
    """
    predictions = _predict(classifier, images, evenly_spaced(len(images.samples), count), device)
    loss = classifier.loss
    if isinstance(loss, GMLoss | CenterLoss):
        class_vectors = loss.means if isinstance(loss, GMLoss) else loss.centers
    else:
        assert isinstance(loss, ClassVectorLoss)
        class_vectors = loss.weight
    return Panel(
        title=title,
        features=torch.from_numpy(predictions.features),
        labels=torch.from_numpy(predictions.labels),
        class_vectors=class_vectors.detach().cpu(),
        are_points=isinstance(loss, GMLoss | CenterLoss),
        classes=images.classes,
    )


def density_panel(
    title: str,
    classifier: ImageClassifier,
    training: Float[Tensor, "samples 2"],
    test: LabelledImages,
    count: int,
    device: torch.device,
) -> DensityPanel:
    """Attack test images by FGSM, each towards a random other class; the density has the likeliest bandwidth.

    Args:
        title: the classifier.
        classifier: in evaluation mode, on the device.
        training: its features of the training images.
        test: images that it was not trained on; those that it classifies wrong are left out.
        count: how many at most, evenly spaced among all.
        device: where to compute.
    """
    numbers = evenly_spaced(len(test.samples), count)
    predictions = _predict(classifier, test, numbers, device)
    generators = generators_of(torch.from_numpy(numbers), seed=0)
    targets = random_other_classes(torch.from_numpy(predictions.labels), len(test.classes), generators)
    is_right = predictions.predicted == predictions.labels
    subject = Subject(module=classifier, features=classifier.features, logits=classifier.loss.logits)
    adversarial = []
    with full_precision(device):
        for number, target in zip(
            torch.from_numpy(numbers[is_right]).split(_BATCH), targets[is_right].split(_BATCH), strict=True
        ):
            fooled = CrossEntropy(subject=subject, classes=target.to(device), is_targeted=True)
            inputs = _unit_images(test, number.numpy(), device)
            attacked = sign_attack(fooled, inputs, UNIT_RANGE, epsilon=EPSILON, step=EPSILON, iterations=1)
            with torch.no_grad():
                adversarial.append(classifier.features(attacked.images).cpu())
    return DensityPanel(
        title=title,
        training=training,
        clean=torch.from_numpy(predictions.features[is_right]),
        adversarial=torch.cat(adversarial),
        bandwidth=likeliest_bandwidth([training]),
    )


def _predict(
    classifier: ImageClassifier, images: LabelledImages, numbers: Int64[np.ndarray, " some"], device: torch.device
) -> Predictions:
    return predict(classifier, _set_of(images), batch_size=_BATCH, workers=0, device=device, numbers=numbers)


def _unit_images(
    images: LabelledImages, numbers: Int64[np.ndarray, " some"], device: torch.device
) -> Float[Tensor, "some channels side side"]:
    """Images of 0 to 1 on a device, without augmentation."""
    samples = images.samples
    return unit_images(_set_of(images).pixels(samples[DrawnSamples(numbers, samples.draw(numbers, None))].to(device)))


def _set_of(images: LabelledImages) -> ImageSet:
    return ImageSet(name="images", samples=images.samples, crop=images.crop)
