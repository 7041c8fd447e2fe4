"""A look at a subject before it is attacked: figures of attacks on one that is not in order are worth nothing."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.adversarial.objectives import Margin, Objective
from facegm.adversarial.result import check_images
from facegm.adversarial.sign_attack import gradient_of
from facegm.adversarial.subject import Images, Subject, outputs_of
from facegm.errors import FacegmError

MOST_ZERO_GRADIENTS = 0.1
"""Share of images without gradient from which on a subject is refused."""
SUM_TOLERANCE = 1e-4
"""How near to 1 the outputs of a softmax add up."""


@dataclass(frozen=True, kw_only=True)
class SubjectCheck:
    """What was seen; shares from 0 to 1."""

    accuracy: float
    """Share of the clean images that are classified right."""
    zero_gradients: float
    """Share of them at which the lead of the own class has a gradient of 0."""


def check_subject(
    subject: Subject, images: Images, labels: Int64[Tensor, " batch"], *, batch_size: int = 100
) -> SubjectCheck:
    """Make sure that a subject can be attacked in earnest.

    Args:
        subject: what is to be attacked.
        images: clean ones, of the pixel range, on the subject's device.
        labels: their classes.
        batch_size: images at a time.

    Raises:
        FacegmError: the network is in training mode; an image is not in range; outputs are not finite, or are
            probabilities; a label is no class; no more images are classified right than by chance; or no gradient
            comes back to the images, or to too many of them one of 0.
    """
    check_mode(subject)
    check_images(images, subject.pixel_range)
    with torch.no_grad():
        logits = torch.cat([outputs_of(subject, some).logits for some in images.split(batch_size)])
    _check_logits(logits)
    accuracy = _check_labels(logits, labels)
    # Not the cross-entropy: a sure network's vanishes in single precision, and that alone is no fault.
    objective = Margin(subject=subject, classes=labels, is_targeted=False)
    return SubjectCheck(accuracy=accuracy, zero_gradients=check_gradients(objective, images, batch_size=batch_size))


def check_mode(subject: Subject) -> None:
    """Make sure that neither other images of a batch nor chance change a subject's outputs.

    Raises:
        FacegmError: a module of it is in training mode.
    """
    training = [name for name, module in subject.module.named_modules() if module.training]
    if training:
        where = f" ({training[0]})" if training[0] else ""
        raise FacegmError(
            f"model: in training mode{where}, where batches and chance change its outputs; call its eval()"
        )


def check_gradients(objective: Objective, images: Images, *, batch_size: int = 100) -> float:
    """Make sure that attacks which follow the gradient have one; and return the share of images without.

    Args:
        objective: of the attack.
        images: of the subject's pixel range.
        batch_size: images at a time.

    Raises:
        FacegmError: no gradient comes back to the images, or to too many of them one of 0.
    """
    share = zero_gradients(objective, images, batch_size=batch_size)
    if share > MOST_ZERO_GRADIENTS:
        raise FacegmError(
            f"model: at {100 * share:.1f} % of the images the gradient of the outputs is 0, and attacks that follow "
            "it say nothing; leave away operations that round or saturate"
        )
    return share


def zero_gradients(objective: Objective, images: Images, *, batch_size: int = 100) -> float:
    """Share of images at which the gradient of an attack's loss is 0 in all pixels, or no number.

    Args:
        objective: of the attack.
        images: of the subject's pixel range.
        batch_size: images at a time.

    Raises:
        FacegmError: the loss has no gradient at all.
    """
    without = 0
    for rows in torch.arange(len(images), device=images.device).split(batch_size):
        try:
            gradient, _ = gradient_of(objective, images[rows], rows)
        except RuntimeError as error:
            if "does not require grad" not in str(error) and "not have been used" not in str(error):
                raise
            raise FacegmError(
                "model: no gradient comes back to the images; leave away torch.no_grad, detach and conversions to numpy"
            ) from error
        largest = gradient.flatten(1).abs().amax(dim=1)
        without += int((~(largest > 0)).sum())
    return without / len(images)


def _check_logits(logits: Float[Tensor, "batch classes"]) -> None:
    if not torch.isfinite(logits).all():
        raise FacegmError("model: outputs that are not finite; is the pixel range the one that it was trained with?")
    adds_up = (logits.sum(dim=1) - 1).abs().amax() <= SUM_TOLERANCE
    if adds_up and logits.amin() >= 0 and logits.amax() <= 1:
        raise FacegmError(
            "model: its outputs are probabilities, as of a softmax, whose gradients vanish; give the logits before it"
        )


def _check_labels(logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]) -> float:
    """The accuracy, which has to be above chance by two standard errors."""
    images, classes = logits.shape
    if len(labels) != images:
        raise FacegmError(f"labels: {len(labels)}, of {images} images; give each image one")
    if labels.amin() < 0 or labels.amax() >= classes:
        raise FacegmError(
            f"labels: from {labels.amin()} to {labels.amax()}, but the model has classes 0 to {classes - 1}"
        )
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    chance = 1 / classes
    if accuracy < min(1.0, chance + 2 * math.sqrt(chance * (1 - chance) / images)):
        raise FacegmError(
            f"labels: the model is right on {100 * accuracy:.1f} % of the images, which is chance among {classes} "
            "classes; are pixel range, order of channels and numbers of classes those that it was trained with?"
        )
    return accuracy
