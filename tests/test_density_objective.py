"""The white-box attack on a density: its loss against plain sums, its images against where the nearest must be."""

import math

import numpy as np
import pytest
import torch
from plane import MEANS, images_at, plane_subject, points_of
from small_subjects import CLASSES, DIM, KINDS, Kind, small_subject, some_images
from torch import Tensor

from facegm.adversarial.density_objective import (
    DensityMargin,
    DensityShortfall,
    density_thresholds,
    no_density,
    white_box_carlini_wagner,
)
from facegm.adversarial.detectors.base import ClassDensity
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.observations import Observations
from facegm.adversarial.sign_attack import gradient_of
from facegm.adversarial.subject import UNIT_RANGE, Subject, outputs_of
from facegm.errors import FacegmError

WIDTH = 0.7


def centers(seed: int = 5) -> Tensor:
    """Nine of each class."""
    return torch.randn(CLASSES, 9, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel_density(features: Tensor, classes: Tensor) -> Tensor:
    squares = (features[:, None] - centers().to(features)[classes]).square().sum(dim=2)
    return torch.logsumexp(-squares / (2 * WIDTH**2), dim=1) - math.log(9)


def plain_density(feature: list[float], number: int) -> float:
    kernels = []
    for center in centers()[number].tolist():
        squared_distance = sum((a - b) ** 2 for a, b in zip(feature, center, strict=True))
        kernels.append(math.exp(-squared_distance / (2 * WIDTH**2)))
    return sum(kernels) / len(kernels)


def plain_outputs(subject: Subject, image: Tensor) -> tuple[list[float], list[float]]:
    features, logits = outputs_of(subject, image[None])
    return features[0].tolist(), logits[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("floor", [False, True])
def test_the_loss_is_what_is_missing_to_both_goals(kind: Kind, floor: bool) -> None:
    """An easy and a hard threshold each, so that either term is 0 for some images, and both for some."""
    subject, images = small_subject(kind), some_images(40)
    targets, thresholds = torch.arange(40) % CLASSES, torch.tensor([70.0, 3.0, 9.0, 90.0], dtype=torch.float64)
    objective = DensityMargin(
        subject=subject, targets=targets, density=kernel_density, thresholds=thresholds, confidence=0.1, floor=floor
    )
    rows = torch.tensor([39, *range(38)])
    loss, is_reached = objective(images[rows], rows)
    seen = set()
    for row, found, reached in zip(rows.tolist(), loss.tolist(), is_reached.tolist(), strict=True):
        feature, logits = plain_outputs(subject, images[row])
        target = row % CLASSES
        margin = max(logits[:target] + logits[target + 1 :]) - logits[target] + 0.1
        surprise = -math.log(plain_density(feature, target) + (1e-30 if floor else 0)) - thresholds[target].item()
        assert found == pytest.approx(max(0, margin) + max(0, surprise), rel=1e-9, abs=1e-12)
        assert reached == (margin < 0 and surprise <= 0)
        seen.add((margin < 0, surprise <= 0))
    assert len(seen) == 4, "all cases"


def test_far_from_a_class_the_floor_takes_the_gradient_and_the_logarithm_keeps_it() -> None:
    """A density of e^-500, in single precision; the network is fooled, so that no other gradient is there."""
    subject = plane_subject()
    subject.module.float()
    image = images_at(torch.tensor([[8.0, 5.0]]))

    def density(features: Tensor, classes: Tensor) -> Tensor:
        return -500 - (features[:, 0] - 5) ** 2

    def gradient(floor: bool) -> Tensor:
        objective = DensityMargin(
            subject=subject,
            targets=torch.tensor([1]),
            density=density,
            thresholds=torch.zeros(3),
            confidence=-1e-3,
            floor=floor,
        )
        return gradient_of(objective, image, torch.tensor([0]))[0].flatten()

    assert gradient(floor=True).tolist() == [0, 0]
    assert gradient(floor=False).tolist() == pytest.approx([60, 0])


def test_the_shortfall_is_that_of_the_target_or_of_the_likeliest_other_class() -> None:
    subject, images = small_subject("gm"), some_images(12)
    classes, thresholds = torch.arange(12) % CLASSES, torch.tensor([1.0, 2.0, 3.0, 12.0], dtype=torch.float64)
    rows = torch.tensor([11, 0, 1, 2, 3, 4, 5, 6])
    for is_targeted in (True, False):
        objective = DensityShortfall(
            subject=subject, classes=classes, is_targeted=is_targeted, density=kernel_density, thresholds=thresholds
        )
        found = objective(images[rows], rows)
        others = []
        for row, loss, reached in zip(rows.tolist(), found.loss.tolist(), found.is_reached.tolist(), strict=True):
            feature, logits = plain_outputs(subject, images[row])
            own = row % CLASSES
            other = max((number for number in range(CLASSES) if number != own), key=logits.__getitem__)
            number = own if is_targeted else other
            expected = -math.log(plain_density(feature, number)) - thresholds[number].item()
            assert loss == pytest.approx(expected, rel=1e-9)
            assert reached == (expected <= 0)
            others.append(other)
        assert len(set(others)) > 1


def clean(counts: list[int]) -> Observations:
    labels = torch.tensor([number for number, count in enumerate(counts) for _ in range(count)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    features = torch.randn(len(labels), DIM, dtype=torch.float64)
    return Observations(features=features, logits=features[:, :CLASSES], labels=labels)


def test_a_threshold_is_the_median_surprise_of_a_class_at_its_own_images() -> None:
    observed = clean([5, 8, 1, 13])
    assert observed.labels is not None
    found = density_thresholds(kernel_density, observed)
    for number in range(CLASSES):
        own = observed.features[observed.labels == number].tolist()
        assert found[number].item() == pytest.approx(
            np.median([-math.log(plain_density(feature, number)) for feature in own])
        )
    with pytest.raises(FacegmError, match="class 2"):
        density_thresholds(kernel_density, clean([5, 8, 0, 13]))


def attacked(
    density: ClassDensity, eta: float, points: Tensor, *, confidence: float = 0.0, iterations: int = 200
) -> tuple[Tensor, list[bool]]:
    objective = DensityMargin(
        subject=plane_subject(),
        targets=torch.ones(len(points), dtype=torch.int64),
        density=density,
        thresholds=torch.full((3,), eta, dtype=torch.float64),
        confidence=confidence,
    )
    found = white_box_carlini_wagner(
        objective, images_at(points), UNIT_RANGE, iterations=iterations, start_iterations=30, initial_constant=1e-3
    )
    return points_of(found.images), found.is_success.tolist()


POINTS = torch.tensor([[2.0, 5.0], [3.1, 4.2], [4.0, 2.0]], dtype=torch.float64)
"""Of class 0."""


def test_the_attack_ends_at_the_nearest_point_that_is_dense_in_the_target() -> None:
    """Of Gaussian density: on the circle around the target's mean; on the way the border between classes is nearer."""
    radius = 1.5
    found, is_success = attacked(GMLikelihood(MEANS).log_density, radius**2 / 2, POINTS)
    assert all(is_success)
    for point, end in zip(POINTS, found, strict=True):
        to_mean = MEANS[1] - point
        nearest = MEANS[1] - radius * to_mean / to_mean.norm()
        assert (end - MEANS[1]).norm() <= radius * (1 + 1e-9)
        assert (end - point).norm().item() == pytest.approx((nearest - point).norm().item(), rel=0.01)
        assert (end - nearest).norm() < 0.3


def test_without_a_density_it_is_the_attack_on_the_network() -> None:
    """The border between two means lies in the middle; one unit beyond it, logits differ by 6."""
    for confidence, border in ((0.0, 5.0), (6.0, 6.0)):
        found, is_success = attacked(no_density, 0.0, POINTS[:2], confidence=confidence, iterations=50)
        assert all(is_success)
        assert found[:, 0].tolist() == pytest.approx([border, border], abs=0.03)
        assert found[:, 0].min() > border - 1e-9
        assert found[:, 1].tolist() == pytest.approx(POINTS[:2, 1].tolist(), abs=0.1)


def test_where_the_density_is_out_of_reach_the_densest_of_the_target_is_what_remains() -> None:
    """Of all points that the second phase, which alone asks for the density, came by; it ends in another class."""
    asked: list[Tensor] = []
    densest = torch.tensor([4.0, 5.0], dtype=torch.float64)  # of class 0, and near the border to class 1

    def density(features: Tensor, classes: Tensor) -> Tensor:
        asked.append(features.detach())
        return -1 - 9 * (features - densest).square().sum(dim=1)

    found, is_success = attacked(density, 0.5, POINTS[1:2], iterations=60)
    assert is_success == [False]
    looked_at = torch.cat(asked)
    is_of_target = torch.cdist(looked_at, MEANS).argmin(dim=1) == 1
    assert not is_of_target[-1]
    nearest = (looked_at[is_of_target] - densest).norm(dim=1).amin().item()
    assert (found[0] - densest).norm().item() == pytest.approx(nearest, rel=1e-9)
    assert found[0, 0] > 5, "beyond the border"
