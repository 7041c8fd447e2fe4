"""FGSM, BIM, ILCM and PGD against a plain reference, one image at a time; and what becomes of images that are done."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_subjects import KINDS, Kind, planted_subject, small_subject, some_images
from torch import Tensor

from facegm.adversarial.chance import generators_of
from facegm.adversarial.objectives import CrossEntropy, Judgement, Objective
from facegm.adversarial.result import check_attacked
from facegm.adversarial.sign_attack import sign_attack
from facegm.adversarial.subject import UNIT_RANGE, PixelRange, Subject

RANGES = (UNIT_RANGE, PixelRange(-0.5, 0.5), PixelRange(0.0, 255.0))
NUMBERS = torch.tensor([7, 0, 300, 2])
COUNT = len(NUMBERS)


def reference(
    subject: Subject,
    image: Tensor,
    own: int,
    *,
    is_targeted: bool,
    epsilon: float,
    step: float,
    iterations: int,
    restarts: int = 0,
    stops: bool = False,
    number: int = 0,
    seed: int = 0,
) -> tuple[Tensor, bool, int]:
    """The attack on one image: the image, whether it reaches the goal, and the gradients taken."""
    (generator,) = generators_of(torch.tensor([number]), seed)
    low, high = subject.pixel_range

    def logits(attacked: Tensor) -> Tensor:
        return subject.logits(subject.features(attacked[None]))[0]

    def reached(attacked: Tensor) -> bool:
        return (logits(attacked).tolist().index(max(logits(attacked).tolist())) == own) == is_targeted

    attacked, gradients = image, 0
    for _ in range(max(1, restarts)):
        attacked = image.clone()
        if restarts:
            attacked += epsilon * (2 * torch.rand(image.shape, generator=generator).double() - 1)
            attacked = attacked.clamp(low, high)
        for _ in range(iterations):
            attacked = attacked.requires_grad_()
            gradients += 1
            if stops and reached(attacked):
                break
            posterior = logits(attacked).exp() / logits(attacked).exp().sum()
            (gradient,) = torch.autograd.grad(-posterior[own].log(), attacked)
            slopes = gradient if is_targeted else -gradient
            pixels = []
            for x, clean, slope in zip(*(of.flatten().tolist() for of in (attacked, image, slopes)), strict=True):
                moved = x - step if slope > 0 else x + step if slope < 0 else x
                pixels.append(min(max(moved, clean - epsilon, low), clean + epsilon, high))
            attacked = torch.tensor(pixels, dtype=torch.float64).reshape(image.shape)
        if reached(attacked):
            return attacked.detach(), True, gradients
    return attacked.detach(), False, gradients


FGSM = {"step": 0.1, "iterations": 1}
BIM = {"step": 0.03, "iterations": 6}
PGD = {"step": 0.02, "iterations": 5, "restarts": 3, "stops": True}


@pytest.mark.parametrize("is_targeted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pixel_range", RANGES)
@pytest.mark.parametrize("attack", [FGSM, BIM, PGD], ids=["fgsm", "bim", "pgd"])
def test_each_image_is_attacked_as_by_the_reference(
    attack: dict[str, float], pixel_range: PixelRange, kind: Kind, is_targeted: bool
) -> None:
    subject, images = small_subject(kind, pixel_range), some_images(COUNT, pixel_range)
    classes = torch.arange(COUNT) % 4
    scaled = {**attack, "epsilon": 0.1 * pixel_range.width, "step": attack["step"] * pixel_range.width}
    found = sign_attack(
        CrossEntropy(subject=subject, classes=classes, is_targeted=is_targeted),
        images,
        pixel_range,
        generators=generators_of(NUMBERS, 3),
        **scaled,  # type: ignore[arg-type]
    )
    for row in range(COUNT):
        image, is_success, passes = reference(
            subject,
            images[row],
            int(classes[row]),
            is_targeted=is_targeted,
            number=int(NUMBERS[row]),
            seed=3,
            **scaled,  # type: ignore[arg-type]
        )
        torch.testing.assert_close(found.images[row], image, rtol=0, atol=1e-12 * pixel_range.width)
        assert (bool(found.is_success[row]), int(found.passes[row])) == (is_success, passes)
    assert not torch.equal(found.images, images)
    assert found.is_success.sum() > 0


@dataclass(eq=False)
class Watched:
    """An objective that keeps which images it was asked about."""

    objective: Objective
    asked: list[list[int]] = field(default_factory=list)

    def __call__(self, images: Tensor, rows: Tensor) -> Judgement:
        self.asked.append(rows.tolist())
        return self.objective(images, rows)


def test_images_that_reach_the_goal_from_the_outset_stay_as_they_are_and_cost_one_pass() -> None:
    subject, images = small_subject(), some_images(40)
    predicted = subject.logits(subject.features(images)).argmax(dim=1)
    classes = torch.where(torch.arange(40) % 2 == 0, predicted, (predicted + 1) % 4)
    watched = Watched(CrossEntropy(subject=subject, classes=classes, is_targeted=True))
    found = sign_attack(watched, images, UNIT_RANGE, epsilon=0.1, step=0.01, iterations=12, stops=True)
    assert torch.equal(found.images[::2], images[::2])
    assert found.is_success[::2].all()
    assert (found.passes[::2] == 1).all()
    assert watched.asked[1] == list(range(1, 40, 2))
    later = found.is_success & (found.passes > 1)
    assert later.any()
    for row in later.nonzero().flatten().tolist():
        # An image leaves the batch with the pass that finds it done; the last look is at all of them.
        assert sum(row in asked for asked in watched.asked[:-1]) == found.passes[row]
    without_stop = sign_attack(watched, images, UNIT_RANGE, epsilon=0.1, step=0.01, iterations=12)
    assert (without_stop.passes == 12).all()
    assert not torch.equal(without_stop.images[::2], images[::2])


def test_restarts_go_on_with_images_that_have_not_reached_the_goal() -> None:
    subject, images = small_subject(), some_images(30)
    goal = CrossEntropy(subject=subject, classes=torch.arange(30) % 4, is_targeted=True)

    def attacked(restarts: int) -> tuple[Watched, Tensor, Tensor, Tensor]:
        watched = Watched(goal)
        found = sign_attack(
            watched,
            images,
            UNIT_RANGE,
            epsilon=0.06,
            step=0.03,
            iterations=2,
            restarts=restarts,
            generators=generators_of(torch.arange(30), 0),
        )
        return watched, found.images, found.is_success, found.passes

    _, once, at_once, passes = attacked(1)
    watched, later, in_the_end, all_passes = attacked(4)
    assert 0 < at_once.sum() < in_the_end.sum() < 30
    assert torch.equal(later[at_once], once[at_once])
    assert torch.equal(all_passes[at_once], passes[at_once])
    assert (all_passes[~in_the_end] == 8).all()
    assert watched.asked[3] == (~at_once).nonzero().flatten().tolist()


def test_the_random_points_differ_and_follow_from_seed_and_number() -> None:
    images = torch.full((6, 2, 7, 6), 0.5, dtype=torch.float64)
    goal = CrossEntropy(subject=small_subject(), classes=torch.zeros(6, dtype=torch.int64), is_targeted=False)
    numbers = torch.tensor([0, 1, 2, 3, 3, 2**40])

    def points(rows: slice, seed: int) -> Tensor:
        generators = generators_of(numbers[rows], seed)
        return sign_attack(
            goal, images[rows], UNIT_RANGE, epsilon=0.2, step=0.0, iterations=1, restarts=1, generators=generators
        ).images

    together = points(slice(6), 5)
    assert torch.equal(together, torch.cat([points(slice(2), 5), points(slice(2, 6), 5)]))
    assert torch.equal(together[3], together[4])
    assert len({tuple(image.flatten().tolist()) for image in [*together, *points(slice(6), 6)]}) == 10
    change = together[[0, 1, 2, 3, 5]] - 0.5
    assert change.amin() < -0.19
    assert change.amax() > 0.19
    assert abs(float(change.mean())) < 0.02


@given(
    st.floats(0.001, 1.5),
    st.floats(0.001, 2.0),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([*RANGES, PixelRange(3.0, 3.5)]),
    st.integers(0, 99),
)
def test_nothing_leaves_ball_or_range(
    epsilon: float, step: float, restarts: int, stops: bool, pixel_range: PixelRange, seed: int
) -> None:
    images, width = some_images(3, pixel_range, seed).float(), pixel_range.width
    subject = small_subject("gm", pixel_range)
    subject.module.float()
    found = sign_attack(
        CrossEntropy(subject=subject, classes=torch.arange(3), is_targeted=True),
        images,
        pixel_range,
        epsilon=epsilon * width,
        step=step * width,
        iterations=3,
        restarts=restarts,
        stops=stops,
        generators=generators_of(torch.arange(3), seed),
    )
    assert found.images.amin() >= pixel_range.low
    assert found.images.amax() <= pixel_range.high
    check_attacked(images, found.images, pixel_range, epsilon=epsilon * width)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_adversarial_is_found(seed: int) -> None:
    """Random points do not find it; 20 steps do."""
    image = some_images(1, seed=seed + 10)
    subject = planted_subject(image, 0.1, seed)
    goal = CrossEntropy(subject=subject, classes=torch.tensor([1]), is_targeted=True)
    still = sign_attack(
        goal,
        image,
        UNIT_RANGE,
        epsilon=0.1,
        step=0.0,
        iterations=1,
        restarts=200,
        generators=generators_of(torch.tensor([0]), 0),
    )
    assert not still.is_success.item()
    found = sign_attack(goal, image, UNIT_RANGE, epsilon=0.1, step=0.01, iterations=20)
    assert found.is_success.item()
    check_attacked(image, found.images, UNIT_RANGE, epsilon=0.1)
