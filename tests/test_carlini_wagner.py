"""C&W against a plain reference, one image at a time, and against distances that are known; how images leave it."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from small_subjects import CLASSES, KINDS, Kind, hyperplane_subject, small_subject, some_images
from torch import Tensor

from facegm.adversarial.carlini_wagner import carlini_wagner
from facegm.adversarial.objectives import Judgement, Margin, Objective, lead_of
from facegm.adversarial.result import check_attacked
from facegm.adversarial.subject import UNIT_RANGE, PixelRange, Subject, outputs_of

COUNT = 3
TARGETS = torch.tensor([1, 3, 1, 0, 3, 2, 0, 1])
"""Of the subjects whose logits are the GM loss's; the images are of other classes."""


def reference(
    subject: Subject,
    image: Tensor,
    own: int,
    *,
    is_targeted: bool,
    confidence: float,
    learning_rate: float,
    search_steps: int,
    iterations: int,
    initial_constant: float,
    start: Tensor,
) -> tuple[Tensor, bool, int]:
    """The attack on one image, all in a range of 0 to 1: the image, whether it is a success, and the passes."""
    low, width = subject.pixel_range.low, subject.pixel_range.width

    def to_w(unit: Tensor) -> Tensor:
        return torch.atanh((2 * unit - 1) * 0.999999)

    clean = 0.5 * (torch.tanh(to_w((image - low) / width)) + 1)

    def one_try(constant: float, to_beat: float, *, breaks_off: bool) -> tuple[Tensor, float, int, bool]:
        """Of a try: its nearest success or else its last image, the distance, the passes, and if it was broken off."""
        w = to_w((start - low) / width).requires_grad_()
        adam = torch.optim.Adam([w], lr=learning_rate)
        shown, nearest, smallest, before = clean, math.inf, math.inf, math.inf
        first, first_at = math.inf, 0
        for iteration in range(iterations):
            unit = 0.5 * (torch.tanh(w) + 1)
            logits = subject.logits(subject.features(low + width * unit[None]))[0]
            other = logits[torch.arange(CLASSES) != own].max()
            distance = (unit - clean).square().sum()
            short = (other - logits[own] if is_targeted else logits[own] - other) + confidence
            loss = distance + constant * max(short, torch.zeros(()))
            is_first = short.item() < 0 and math.isinf(nearest)
            if math.isinf(nearest) or (short.item() < 0 and distance.item() < nearest**2):
                shown = unit.detach()
            if short.item() < 0:
                nearest = min(nearest, math.sqrt(distance.item()))
            adam.zero_grad()
            loss.backward()
            adam.step()
            smallest = min(smallest, loss.item())
            if iteration % max(1, iterations // 5) == 0:
                if smallest >= 0.9999 * before:
                    break
                before = smallest
            if iteration % max(1, iterations // 10) == 0 and math.isfinite(first):
                speed = (first - nearest) / (iteration - first_at)
                if nearest - speed * (iterations - 1 - iteration) > to_beat:
                    break
            if is_first:
                first, first_at = nearest, iteration
                if breaks_off and 0 < iteration < iterations - 1:
                    return shown, nearest, iteration + 1, True
        return shown, nearest, iteration + 1, False

    last, best, nearest, passes = clean, clean, math.inf, 0
    lower, upper, constant = 0.0, 1e10, initial_constant
    broken_off: list[tuple[float, int]] = []
    for attempt in range(search_steps):
        if search_steps >= 10 and attempt == search_steps - 1:
            constant = upper
        shown, distance, taken, is_broken_off = one_try(constant, math.inf, breaks_off=True)
        passes += taken
        if is_broken_off:
            broken_off.append((constant, taken))
        if distance < nearest:
            best, nearest = shown, distance
        if math.isfinite(distance):
            upper = min(upper, constant)
            constant = (lower + upper) / 2
        else:
            last = shown
            lower = max(lower, constant)
            constant = (lower + upper) / 2 if upper < 1e9 else 10 * constant
    is_settled = False
    for constant, taken in sorted(broken_off):
        shown, distance, all_of_it, _ = one_try(constant, nearest if is_settled else math.inf, breaks_off=False)
        passes += all_of_it - taken
        if distance < nearest:
            best, nearest = shown, distance
        else:
            is_settled = True
    is_success = math.isfinite(nearest)
    return low + width * (best if is_success else last), is_success, passes


PLAIN = {"learning_rate": 0.02, "search_steps": 4, "iterations": 30, "initial_constant": 0.1}
MANY_TRIES = {"learning_rate": 0.1, "search_steps": 10, "iterations": 9, "initial_constant": 0.05}
TOO_WEAK = {"learning_rate": 0.02, "search_steps": 3, "iterations": 20, "initial_constant": 1e-4}


@pytest.mark.parametrize(
    ("kind", "is_targeted", "confidence", "pixel_range", "settings"),
    [
        *((kind, is_targeted, 0.0, UNIT_RANGE, PLAIN) for kind in KINDS for is_targeted in (True, False)),
        ("gm", True, 0.3, UNIT_RANGE, PLAIN),
        ("gm", False, 0.3, PixelRange(0.0, 255.0), PLAIN),
        ("rce", True, 0.0, PixelRange(-1.5, 2.5), PLAIN),
        ("gm", True, 0.0, UNIT_RANGE, MANY_TRIES),
        ("rce", True, 0.0, UNIT_RANGE, TOO_WEAK),
    ],
)
def test_each_image_is_attacked_as_by_the_reference(
    kind: Kind, is_targeted: bool, confidence: float, pixel_range: PixelRange, settings: dict[str, float]
) -> None:
    subject, images = small_subject(kind, pixel_range), some_images(COUNT, pixel_range)
    classes = TARGETS[:COUNT] if is_targeted else outputs_of(subject, images).logits.argmax(dim=1)
    goal = Margin(subject=subject, classes=classes, is_targeted=is_targeted, confidence=confidence)
    found = carlini_wagner(goal, images, pixel_range, **settings)  # type: ignore[arg-type]
    check_attacked(images, found.images, pixel_range)
    for number, image in enumerate(images):
        expected, is_success, passes = reference(
            subject,
            image,
            int(classes[number]),
            is_targeted=is_targeted,
            confidence=confidence,
            start=image,
            **settings,  # type: ignore[arg-type]
        )
        assert (bool(found.is_success[number]), int(found.passes[number])) == (is_success, passes)
        torch.testing.assert_close(found.images[number], expected, rtol=0, atol=1e-7 * pixel_range.width)
    assert found.is_success.all() == (settings is not TOO_WEAK)


def test_tries_begin_where_they_are_told_and_measure_from_the_clean_image() -> None:
    subject, images = small_subject("gm"), some_images(1)
    start = some_images(1, seed=2)
    goal = Margin(subject=subject, classes=TARGETS[:1], is_targeted=True)
    found = carlini_wagner(goal, images, UNIT_RANGE, **PLAIN, start=start)  # type: ignore[arg-type]
    expected, is_success, passes = reference(
        subject,
        images[0],
        int(TARGETS[0]),
        is_targeted=True,
        confidence=0.0,
        start=start[0],
        **PLAIN,  # type: ignore[arg-type]
    )
    assert (found.is_success.item(), found.passes.item()) == (is_success, passes)
    torch.testing.assert_close(found.images[0], expected, rtol=0, atol=1e-7)


# ------------------------------------------------------------------------------------------- known distances

FINE = {"learning_rate": 0.01, "search_steps": 6, "iterations": 200, "initial_constant": 0.2}


@pytest.mark.parametrize("confidence", [0.0, 0.7])
@pytest.mark.parametrize("pixel_range", [UNIT_RANGE, PixelRange(-1.5, 2.5)])
def test_the_distance_to_a_hyperplane_is_reached(pixel_range: PixelRange, confidence: float) -> None:
    normal = some_images(1, seed=3)[0] - 0.5
    images = pixel_range.low + pixel_range.width * (0.3 + 0.4 * some_images(4))  # no bound is in the way
    subject = hyperplane_subject(normal, (images * normal).sum((1, 2, 3)).max().item() + 0.2, pixel_range)
    goal = Margin(subject=subject, classes=torch.ones(4, dtype=torch.int64), is_targeted=True, confidence=confidence)
    found = carlini_wagner(goal, images, pixel_range, **FINE)  # type: ignore[arg-type]
    lead = lead_of(outputs_of(subject, images).logits, goal.classes)
    nearest = (confidence - lead) / normal.norm()
    distance = (found.images - images).flatten(1).norm(dim=1)
    assert found.is_success.all()
    assert (lead_of(outputs_of(subject, found.images).logits, goal.classes) > confidence).all()
    assert ((distance > nearest * (1 - 1e-4)) & (distance < nearest * 1.01)).all()


def test_pixels_at_the_bounds_move() -> None:
    """All of them, and the way to the other class is straight into the range."""
    is_high = some_images(1, seed=3) > 0.5
    images = is_high.double()
    normal = torch.where(is_high, -1.0, 1.0)[0].double()
    subject = hyperplane_subject(normal, (images * normal).sum().item() + 5)
    goal = Margin(subject=subject, classes=torch.ones(1, dtype=torch.int64), is_targeted=True)
    found = carlini_wagner(goal, images, UNIT_RANGE, **FINE | {"learning_rate": 0.2})  # type: ignore[arg-type]
    assert found.is_success.item()
    assert (found.images - images).norm().item() == pytest.approx(5 / normal.norm().item(), rel=0.01)


# ------------------------------------------------------------------------------------------- images that leave


@dataclass
class Counted:
    """Another objective that counts how often it has judged each image."""

    of: Objective
    times: Tensor = field(default_factory=lambda: torch.zeros(len(TARGETS), dtype=torch.int64))
    sizes: list[int] = field(default_factory=list)

    def __call__(self, images: Tensor, rows: Tensor) -> Judgement:
        assert torch.is_grad_enabled()
        self.times[rows] += 1
        self.sizes.append(len(rows))
        return self.of(images, rows)


def test_an_image_leaves_for_itself_and_does_not_change_the_others() -> None:
    subject, images = small_subject("gm"), some_images(len(TARGETS))
    goal = Counted(Margin(subject=subject, classes=TARGETS, is_targeted=True))
    together = carlini_wagner(goal, images, UNIT_RANGE, **PLAIN)  # type: ignore[arg-type]
    assert torch.equal(together.passes, goal.times)
    assert len(together.passes.unique()) > 3  # else nothing is shown
    assert len(set(goal.sizes)) > 3
    assert len(goal.sizes) == together.passes.max()  # no image waits for another
    for number, own in enumerate(TARGETS):
        goal_alone = Margin(subject=subject, classes=own[None], is_targeted=True)
        alone = carlini_wagner(goal_alone, images[number : number + 1], UNIT_RANGE, **PLAIN)  # type: ignore[arg-type]
        assert torch.equal(alone.passes[0], together.passes[number])
        assert torch.equal(alone.is_success[0], together.is_success[number])
        torch.testing.assert_close(alone.images[0], together.images[number], rtol=0, atol=1e-9)


def test_an_image_that_is_there_already_stays() -> None:
    subject, images = small_subject("gm"), some_images(COUNT)
    classes = outputs_of(subject, images).logits.argmax(dim=1)
    found = carlini_wagner(
        Margin(subject=subject, classes=classes, is_targeted=True),
        images,
        UNIT_RANGE,
        **PLAIN,  # type: ignore[arg-type]
    )
    assert found.is_success.all()
    torch.testing.assert_close(found.images, images, rtol=0, atol=1e-6)
    assert (found.passes == 4 * (1 + 30 // 5)).all()  # each try ends as soon as it is looked at
