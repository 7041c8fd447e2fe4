"""What an attacker wants of images, against plain arithmetic on each; logits of any sign."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_subjects import CLASSES, KINDS, Kind, small_subject, some_images
from torch import Tensor

from facegm.adversarial.chance import generators_of, uniform
from facegm.adversarial.objectives import (
    CrossEntropy,
    Judgement,
    Margin,
    Objective,
    lead_of,
    least_likely_classes,
    random_other_classes,
)

COUNT = 12
LOGITS = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6)


@given(LOGITS, st.data())
def test_lead_is_the_own_logit_above_the_largest_other(logits: list[float], data: st.DataObject) -> None:
    own = data.draw(st.integers(0, len(logits) - 1))
    others = [logit for k, logit in enumerate(logits) if k != own]
    row = torch.tensor([logits, [-logit for logit in logits]], dtype=torch.float64)
    lead = lead_of(row, torch.tensor([own, own]))
    assert lead.tolist() == [logits[own] - max(others), min(others) - logits[own]]


@given(st.lists(st.floats(-1e6, -1), min_size=2, max_size=6, unique=True))
def test_the_gradient_of_a_lead_is_that_of_two_logits_though_all_be_negative(logits: list[float]) -> None:
    row = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(lead_of(row, torch.tensor([0])).sum(), row)
    assert sorted(gradient[0].tolist()) == [-1.0, *[0.0] * (len(logits) - 2), 1.0]
    assert gradient[0, 0] == 1


def judged(objective: Objective, images: Tensor, rows: list[int]) -> Judgement:
    with torch.no_grad():
        return objective(images[rows], torch.tensor(rows))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_targeted", [True, False])
def test_each_image_is_judged_by_its_own_logits_and_class(kind: Kind, is_targeted: bool) -> None:
    subject, images = small_subject(kind), some_images(COUNT)
    classes, rows = torch.arange(COUNT) % CLASSES, [7, 1, 3, 0, 11, 5, 2]
    cross_entropy = judged(CrossEntropy(subject=subject, classes=classes, is_targeted=is_targeted), images, rows)
    margins = {
        kappa: judged(Margin(subject=subject, classes=classes, is_targeted=is_targeted, confidence=kappa), images, rows)
        for kappa in (0.0, 2.0)
    }
    seen = set()
    for place, row in enumerate(rows):
        logits = subject.module(images[row : row + 1])[0].tolist()
        assert all((logit > 0) == (kind == "positive") for logit in logits)
        own, largest = logits[row % CLASSES], max(logits)
        is_predicted = own == largest
        total = sum(math.exp(logit - largest) for logit in logits)
        posterior = math.exp(own - largest) / total
        assert float(cross_entropy.loss[place]) == pytest.approx(-math.log(posterior) * (1 if is_targeted else -1))
        assert bool(cross_entropy.is_reached[place]) == (is_predicted == is_targeted)
        lead = own - max(logit for k, logit in enumerate(logits) if k != row % CLASSES)
        for kappa, margin in margins.items():
            shortfall = (-lead if is_targeted else lead) + kappa
            assert float(margin.loss[place]) == pytest.approx(shortfall)
            assert bool(margin.is_reached[place]) == (shortfall < 0)
        assert bool(margins[0.0].is_reached[place]) == bool(cross_entropy.is_reached[place])
        seen.add(is_predicted)
    assert seen == {True, False}


def test_the_least_likely_class_has_the_least_logit() -> None:
    subject, images = small_subject(), some_images(COUNT)
    found = least_likely_classes(subject, images)
    for image, least in zip(images, found.tolist(), strict=True):
        logits = subject.module(image[None])[0].tolist()
        assert logits[least] == min(logits)
    assert len(set(found.tolist())) > 1


@given(st.integers(2, 9), st.lists(st.integers(0, 2**62), min_size=1, max_size=20), st.integers(0, 2**62))
def test_a_random_target_is_another_class_and_an_image_has_one_in_any_batch(
    classes: int, numbers: list[int], seed: int
) -> None:
    labels = torch.arange(len(numbers)) % classes
    found = random_other_classes(labels, classes, generators_of(torch.tensor(numbers), seed))
    assert (found != labels).all()
    assert found.amin() >= 0
    assert found.amax() < classes
    for row, number in enumerate(numbers):
        generators = generators_of(torch.tensor([number]), seed)
        assert random_other_classes(labels[row : row + 1], classes, generators).item() == found[row]


def test_random_targets_are_all_others_equally() -> None:
    numbers = torch.arange(3000)
    found = random_other_classes(torch.full((3000,), 2), 4, generators_of(numbers, 0))
    counts = found.bincount(minlength=4)
    assert counts[2] == 0
    assert ((counts[[0, 1, 3]] - 1000).abs() < 4 * math.sqrt(3000 * 2 / 9)).all()
    assert not torch.equal(found, random_other_classes(torch.full((3000,), 2), 4, generators_of(numbers, 1)))


def test_numbers_of_images_are_independent_and_uniform() -> None:
    draws = uniform(generators_of(torch.arange(400), 0), (2, 3))
    assert draws.shape == (400, 2, 3)
    assert ((draws >= 0) & (draws < 1)).all()
    others = torch.cat([uniform(generators_of(torch.arange(400), seed), (2, 3)) for seed in (1, 2**62)])
    assert len(torch.cat([draws, others]).flatten(1).unique(dim=0)) == 1200  # seed and number are not just added
    assert ((draws.mean(dim=0) - 0.5).abs() < 4 * (1 / 12 / 400) ** 0.5).all()
    correlations = torch.corrcoef(draws.flatten(1).T) - torch.eye(6)
    assert (correlations.abs() < 4 / 20).all()
    assert abs(float(torch.corrcoef(torch.stack([draws[:-1].flatten(), draws[1:].flatten()]))[0, 1])) < 4 / 49
