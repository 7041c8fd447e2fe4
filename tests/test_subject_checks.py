"""A subject is looked at before it is attacked: each thing that makes an attack worthless is refused, and said."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_subjects import CLASSES, KINDS, Kind, small_subject, some_images
from torch import Tensor
from torch.nn.functional import one_hot

from facegm.adversarial.objectives import CrossEntropy
from facegm.adversarial.subject import Subject, outputs_of
from facegm.adversarial.subject_checks import check_subject, zero_gradients
from facegm.errors import FacegmError

IMAGES = some_images(60)


def labels_of(subject: Subject, wrong: int = 15) -> Tensor:
    """What the subject takes the images for, but for some."""
    with torch.no_grad():
        labels = outputs_of(subject, IMAGES).logits.argmax(dim=1)
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    return labels


def with_logits(change: Callable[[Tensor], Tensor]) -> Subject:
    """The small network, whose logits are changed."""
    subject = small_subject("gm")
    return replace(subject, logits=lambda features: change(subject.logits(features)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_in_order_passes(kind: Kind) -> None:
    subject = small_subject(kind)
    found = check_subject(subject, IMAGES, labels_of(subject), batch_size=7)
    assert found.accuracy == 0.75
    assert found.zero_gradients == 0


def test_a_network_in_training_mode_is_refused() -> None:
    subject = small_subject()
    labels = labels_of(subject)
    subject.module.get_submodule("linear").train()
    with pytest.raises(FacegmError, match=r"training mode \(linear\).*eval\(\)"):
        check_subject(subject, IMAGES, labels)
    subject.module.train()
    with pytest.raises(FacegmError, match="training mode,"):
        check_subject(subject, IMAGES, labels)


def test_images_beyond_the_range_are_refused() -> None:
    subject = small_subject()
    with pytest.raises(FacegmError, match="pixels from 0 to 255"):
        check_subject(subject, 255 * IMAGES, labels_of(subject))


def test_outputs_of_a_softmax_are_refused_and_logits_that_resemble_them_are_not() -> None:
    subject = with_logits(lambda logits: logits.softmax(dim=1))
    with pytest.raises(FacegmError, match="probabilities"):
        check_subject(subject, IMAGES, labels_of(subject))
    for change in (
        lambda logits: 1 / CLASSES + 3 * (logits - logits.mean(dim=1, keepdim=True)),  # they add up, and leave [0, 1]
        lambda logits: logits.sigmoid(),  # they stay in it, and do not add up
        lambda logits: logits.log_softmax(dim=1),
    ):
        subject = with_logits(change)
        check_subject(subject, IMAGES, labels_of(subject))


def test_outputs_that_are_no_numbers_are_refused() -> None:
    labels = labels_of(small_subject())
    with pytest.raises(FacegmError, match="not finite"):
        check_subject(with_logits(lambda logits: logits / 0), IMAGES, labels)


def test_labels_that_are_not_the_images_are_refused() -> None:
    subject = small_subject()
    labels = labels_of(subject)
    with pytest.raises(FacegmError, match="59, of 60 images"):
        check_subject(subject, IMAGES, labels[1:])
    labels[3] = CLASSES
    with pytest.raises(FacegmError, match="classes 0 to 3"):
        check_subject(subject, IMAGES, labels)
    with pytest.raises(FacegmError, match=r"right on 25\.0 % of the images, which is chance among 4 classes"):
        check_subject(subject, IMAGES, labels_of(subject, wrong=45))


def test_a_few_images_that_are_all_right_are_enough() -> None:
    subject = small_subject()
    assert check_subject(subject, IMAGES[-1:], labels_of(subject)[-1:]).accuracy == 1


def test_a_network_without_gradients_is_refused() -> None:
    """One that gives none back, and one that rounds its logits, of which all are 0."""
    for change in (
        lambda logits: logits.detach(),
        lambda logits: torch.from_numpy(logits.detach().numpy().copy()),
    ):
        subject = with_logits(change)
        with pytest.raises(FacegmError, match="no gradient comes back"):
            check_subject(subject, IMAGES, labels_of(subject))
    rounded = with_logits(torch.round)
    with pytest.raises(FacegmError, match=r"at 100\.0 % of the images the gradient"):
        check_subject(rounded, IMAGES, labels_of(rounded))


def test_a_network_that_is_sure_of_everything_passes() -> None:
    """Its posteriors round to 1, where the cross-entropy has no gradient; targeted attacks and margins have one."""
    plain = small_subject()
    plain.module.float()
    subject = replace(plain, logits=lambda features: 1e4 * plain.logits(features))
    images, labels = IMAGES.float(), labels_of(small_subject())
    assert outputs_of(subject, images).logits.softmax(dim=1).amax(dim=1).median() == 1
    assert check_subject(subject, images, labels).zero_gradients == 0


def test_the_share_of_zero_gradients_is_that_of_the_images_that_have_none() -> None:
    """In single precision a cross-entropy vanishes where the lead is huge: here of every third image."""

    def lead(logits: Tensor) -> Tensor:
        huge = 500 * one_hot(logits.argmax(dim=1), CLASSES)
        third = (torch.arange(len(logits)) % 3 == 0)[:, None]
        return logits + torch.where(third, huge, 0)

    plain = small_subject()
    plain.module.float()
    subject = replace(plain, logits=lambda features: lead(plain.logits(features)))
    images = IMAGES.float()
    predicted = outputs_of(plain, images).logits.argmax(dim=1)
    objective = CrossEntropy(subject=subject, classes=predicted, is_targeted=True)
    assert zero_gradients(objective, images) == pytest.approx(1 / 3)
