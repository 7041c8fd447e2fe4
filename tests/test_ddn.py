"""DDN against a plain reference, one image at a time, and against distances that are known."""

import math

import pytest
import torch
from small_subjects import CLASSES, KINDS, Kind, hyperplane_subject, small_subject, some_images
from torch import Tensor

from facegm.adversarial.ddn import ddn
from facegm.adversarial.objectives import CrossEntropy, Judgement
from facegm.adversarial.result import check_attacked
from facegm.adversarial.subject import UNIT_RANGE, PixelRange, Subject, outputs_of

ITERATIONS = 30


def reference(subject: Subject, image: Tensor, own: int, *, is_targeted: bool) -> tuple[Tensor, bool]:
    """The attack on one image, all in a range of 0 to 1: the image, and whether it is a success."""
    low, width = subject.pixel_range.low, subject.pixel_range.width
    clean = (image - low) / width
    change, norm, best, nearest = torch.zeros_like(clean), 1.0, None, math.inf
    for iteration in range(ITERATIONS):
        last = (clean + change).requires_grad_()
        logits = subject.logits(subject.features(low + width * last[None]))[0]
        cross_entropy = logits.exp().sum().log() - logits[own]
        (gradient,) = torch.autograd.grad(cross_entropy if is_targeted else -cross_entropy, last)
        is_success = (max(range(CLASSES), key=logits.tolist().__getitem__) == own) == is_targeted
        if is_success and change.norm().item() < nearest:
            best, nearest = last.detach(), change.norm().item()
        step = 0.01 + 0.99 * (1 + math.cos(math.pi * iteration / ITERATIONS)) / 2
        change = change - step * gradient / gradient.norm()
        norm *= 0.95 if is_success else 1.05
        norm = min(norm, torch.maximum(clean, 1 - clean).norm().item())
        change = (clean + change * norm / change.norm()).clamp(0, 1) - clean
    return low + width * (last.detach() if best is None else best), best is not None


@pytest.mark.parametrize("is_targeted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pixel_range", [UNIT_RANGE, PixelRange(-1.5, 2.5)])
def test_each_image_is_attacked_as_by_the_reference(kind: Kind, is_targeted: bool, pixel_range: PixelRange) -> None:
    subject, images = small_subject(kind, pixel_range), some_images(8, pixel_range)
    predicted = outputs_of(subject, images).logits.argmax(dim=1)
    classes = (predicted + 1) % CLASSES if is_targeted else predicted
    goal = CrossEntropy(subject=subject, classes=classes, is_targeted=is_targeted)
    found = ddn(goal, images, pixel_range, iterations=ITERATIONS)
    check_attacked(images, found.images, pixel_range)
    assert (found.passes == ITERATIONS).all()
    for number, image in enumerate(images):
        expected, is_success = reference(subject, image, int(classes[number]), is_targeted=is_targeted)
        assert found.is_success[number].item() == is_success
        torch.testing.assert_close(found.images[number], expected, rtol=0, atol=1e-7 * pixel_range.width)


@pytest.mark.parametrize("pixel_range", [UNIT_RANGE, PixelRange(-1.5, 2.5)])
def test_the_distance_to_a_hyperplane_is_reached(pixel_range: PixelRange) -> None:
    normal = some_images(1, seed=3)[0] - 0.5
    images = pixel_range.low + pixel_range.width * (0.3 + 0.4 * some_images(4))  # no bound is in the way
    lead = (images * normal).sum((1, 2, 3))
    subject = hyperplane_subject(normal, lead.max().item() + 0.2, pixel_range)
    goal = CrossEntropy(subject=subject, classes=torch.ones(4, dtype=torch.int64), is_targeted=True)
    found = ddn(goal, images, pixel_range, iterations=100)
    nearest = (lead.max() + 0.2 - lead) / normal.norm()
    distance = (found.images - images).flatten(1).norm(dim=1)
    assert found.is_success.all()
    assert ((distance > nearest * (1 - 1e-9)) & (distance < nearest * 1.01)).all()


def test_pixels_at_the_bounds_move() -> None:
    """All of them, and the way to the other class is straight into the range."""
    is_high = some_images(1, seed=3) > 0.5
    images = is_high.double()
    normal = torch.where(is_high, -1.0, 1.0)[0].double()
    subject = hyperplane_subject(normal, (images * normal).sum().item() + 5)
    goal = CrossEntropy(subject=subject, classes=torch.ones(1, dtype=torch.int64), is_targeted=True)
    found = ddn(goal, images, UNIT_RANGE, iterations=100)
    assert found.is_success.item()
    assert (found.images - images).norm().item() == pytest.approx(5 / normal.norm().item(), rel=0.01)


def test_an_image_that_is_there_already_stays() -> None:
    subject, images = small_subject("gm"), some_images(4)
    classes = outputs_of(subject, images).logits.argmax(dim=1)
    found = ddn(CrossEntropy(subject=subject, classes=classes, is_targeted=True), images, UNIT_RANGE, iterations=5)
    assert found.is_success.all()
    assert torch.equal(found.images, images)


@pytest.mark.parametrize("count", [1, 3])
def test_where_there_is_no_gradient_it_goes_anywhere(count: int) -> None:
    """The same way for any image, up to where there is a gradient again."""
    images = 0.4 + 0.2 * some_images(count)

    def goal(attacked: Tensor, rows: Tensor) -> Judgement:
        distance = (attacked - images[rows]).square().flatten(1).sum(dim=1)
        loss = (1.5 - distance).clamp(max=0)  # flat within a ball, and downwards beyond it
        return Judgement(loss, distance.detach() > 2)

    found = ddn(goal, images, UNIT_RANGE, iterations=60)
    assert found.is_success.all()
    assert ((found.images - images).square().flatten(1).sum(dim=1) < 2.3).all()
    direction = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))
    cosine = torch.cosine_similarity((found.images - images).flatten(1), direction.flatten()[None])
    assert (cosine.abs() > 0.95).all()


def test_the_norm_grows_no_further_than_the_farthest_image() -> None:
    """Else it would have to shrink from where no image is, once the goal is reached."""
    images, judged = some_images(1), 0

    def goal(attacked: Tensor, rows: Tensor) -> Judgement:
        nonlocal judged
        judged += 1
        return Judgement(attacked.flatten(1).sum(dim=1), torch.tensor([judged > 80]))

    found = ddn(goal, images, UNIT_RANGE, iterations=100)
    farthest = torch.maximum(images, 1 - images).norm()
    assert (found.images - images).norm() <= 0.95**19 * farthest
