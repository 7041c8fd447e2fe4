"""Orthogonal PGD: orthogonal indeed, equal to a plain loop over one image, and sure to find what is surely there."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from plane import MEANS, images_at, plane_subject, points_of
from small_subjects import CLASSES, DIM, small_subject, some_images
from torch import Tensor

from facegm.adversarial.density_objective import DensityShortfall
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.objectives import Judgement, Margin
from facegm.adversarial.orthogonal_attack import JointObjective, across, orthogonal_attack
from facegm.adversarial.result import check_attacked
from facegm.adversarial.sign_attack import sign_attack
from facegm.adversarial.subject import UNIT_RANGE, PixelRange, outputs_of

COUNT = 12
TARGETS = torch.arange(COUNT) % CLASSES
OTHER_MEANS = 0.5 * torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
"""Not those of the network, so that the gradients are neither parallel nor orthogonal."""


def both(eta: float, pixel_range: PixelRange = UNIT_RANGE) -> tuple[Margin, DensityShortfall]:
    subject = small_subject("gm", pixel_range)
    return (
        Margin(subject=subject, classes=TARGETS, is_targeted=True, confidence=0.05),
        DensityShortfall(
            subject=subject,
            classes=TARGETS,
            is_targeted=True,
            density=GMLikelihood(OTHER_MEANS).log_density,
            thresholds=torch.full((CLASSES,), eta, dtype=torch.float64),
        ),
    )


@dataclass(frozen=True)
class Settings:
    strict: bool
    eta: float = 0.8
    epsilon: float = 0.15
    step: float = 0.03
    iterations: int = 12


def reference(image: Tensor, target: int, s: Settings) -> tuple[np.ndarray, int]:
    """The attack on one image, with gradients by differences of the losses; and how many pairs of them it took."""
    subject = small_subject("gm")

    def losses(pixels: np.ndarray) -> np.ndarray:
        """Of network and detector, a row an image."""
        with torch.no_grad():
            features, logits = (part.numpy() for part in outputs_of(subject, torch.from_numpy(pixels)))
        network = np.delete(logits, target, axis=1).max(axis=1) - logits[:, target] + 0.05
        detector = 0.5 * np.square(features - OTHER_MEANS[target].numpy()).sum(axis=1) - s.eta
        return np.stack([network, detector], axis=1)

    clean = image.numpy()
    nudges = 1e-6 * np.eye(clean.size).reshape(-1, *clean.shape)
    now, kept, least = clean, None, np.inf
    for iteration in range(s.iterations + 1):
        network, detector = losses(now[None])[0]
        if network < 0 and detector < least:
            kept, least = now, detector
        if least <= 0 or iteration == s.iterations:
            break
        a, b = (losses(now + nudges) - losses(now - nudges)).T
        direction, other = (b, a) if network < 0 else (a, b)
        if s.strict or direction @ other < 0:
            direction = direction - (direction @ other) / (other @ other) * other
        moved = now - s.step * np.sign(direction.reshape(clean.shape))
        now = np.clip(np.clip(moved, clean - s.epsilon, clean + s.epsilon), 0, 1)
    return (now if kept is None else kept), min(iteration + 1, s.iterations)


@pytest.mark.parametrize("s", [Settings(strict=False), Settings(strict=True)])
def test_each_image_is_attacked_as_by_the_reference(s: Settings) -> None:
    images = some_images(COUNT)
    network, detector = both(s.eta)
    found = orthogonal_attack(
        network,
        detector,
        images,
        UNIT_RANGE,
        epsilon=s.epsilon,
        step=s.step,
        iterations=s.iterations,
        strict=s.strict,
    )
    fooled, unseen = (goal(found.images, torch.arange(COUNT)).is_reached for goal in (network, detector))
    assert 0 < found.is_success.sum() < fooled.sum() < COUNT, "all cases"
    for row in range(COUNT):
        expected, pairs = reference(images[row], row % CLASSES, s)
        assert np.abs(found.images[row].numpy() - expected).max() < 1e-9, row
        assert found.passes[row] == 2 * pairs
    assert found.is_success.tolist() == (fooled & unseen).tolist()
    assert len(found.passes.unique()) > 2, "what is done leaves"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_left_of_a_gradient_is_orthogonal_to_the_other(dtype: torch.dtype) -> None:
    """By the definition of a projection, for nearly parallel ones too."""
    rng = torch.Generator().manual_seed(0)
    one, noise = (torch.randn(6, *(3, 8, 8), generator=rng, dtype=dtype) for _ in range(2))
    other = noise.clone()
    other[3:] = one[3:] + 0.01 * noise[3:]
    other[1] *= 1e-12
    found = across(one, other)
    for whole, against, part in zip(*(some.double().flatten(1) for some in (one, other, found)), strict=True):
        expected = whole - (whole @ against) / (against @ against) * against
        assert (part - expected).norm() <= 1e-4 * expected.norm()
        assert abs(part @ against) <= 1e-6 * part.norm() * against.norm()
    assert torch.equal(across(one, -2 * one), one), "of parallel ones rounding would be left, and its sign"
    assert torch.equal(across(one, torch.zeros_like(one)), one)


START = torch.tensor([[2.0, 5.0], [2.4, 5.5], [1.5, 4.0], [3.0, 3.5]], dtype=torch.float64)
"""Of class 0."""


def on_the_plane() -> tuple[Margin, DensityShortfall]:
    """To be taken for class 1, and to lie within 1 of its mean: where that is, is known."""
    subject, classes = plane_subject(), torch.ones(len(START), dtype=torch.int64)
    return (
        Margin(subject=subject, classes=classes, is_targeted=True),
        DensityShortfall(
            subject=subject,
            classes=classes,
            is_targeted=True,
            density=GMLikelihood(MEANS).log_density,
            thresholds=torch.full((3,), 0.5, dtype=torch.float64),
        ),
    )


def test_a_joint_adversarial_that_is_there_is_found() -> None:
    """The target's mean lies in every ball; an attack on the network alone stops far from it."""
    network, detector = on_the_plane()
    images = images_at(START)
    epsilon, step, iterations = 0.7, 0.01, 200
    alone = sign_attack(network, images, UNIT_RANGE, epsilon=epsilon, step=step, iterations=iterations, stops=True)
    assert alone.is_success.all()
    assert not detector(alone.images, torch.arange(len(START))).is_reached.any()
    orthogonal = orthogonal_attack(
        network, detector, images, UNIT_RANGE, epsilon=epsilon, step=step, iterations=iterations
    )
    joint = sign_attack(
        JointObjective(network=network, detector=detector),
        images,
        UNIT_RANGE,
        epsilon=epsilon,
        step=step,
        iterations=iterations,
        stops=True,
    )
    for found in (orthogonal, joint):
        assert found.is_success.all()
        assert ((points_of(found.images) - MEANS[1]).norm(dim=1) <= 1).all()


def test_strictly_orthogonal_steps_stay_at_the_border_where_the_goals_agree() -> None:
    """Beyond the border of two classes, x = 5, the network's gradient lies along x; only y is left for the detector."""
    images = images_at(START)
    found = orthogonal_attack(*on_the_plane(), images, UNIT_RANGE, epsilon=0.7, step=0.01, iterations=200, strict=True)
    assert not found.is_success.any()


def test_a_joint_objective_is_the_sum_of_what_is_missing() -> None:
    network, detector = on_the_plane()
    rows = torch.tensor([2, 0, 1])
    images = images_at(torch.tensor([[8.0, 5.2], [8.0, 7.0], [2.0, 5.0]], dtype=torch.float64))
    found = JointObjective(network=network, detector=detector)(images, rows)
    # Logits: half squared distances. In the second, 2 from the mean and as far from no other; the third 6 from it.
    assert found.loss.tolist() == pytest.approx([0, 2 - 0.5, 18 + 18 - 0.5])
    assert found.is_reached.tolist() == [True, False, False]


def test_the_point_that_fools_the_network_and_is_least_conspicuous_is_kept() -> None:
    """Of all that were judged, though the detector is never fooled; and the last where the network is never fooled."""
    network, detector = both(eta=-100.0)
    images = some_images(COUNT)
    seen: dict[int, list[tuple[bool, float, Tensor]]] = {row: [] for row in range(COUNT)}

    def watched(images: Tensor, rows: Tensor) -> Judgement:
        judgement = detector(images, rows)
        fools = network(images, rows).is_reached.tolist()
        for row, is_fooled, loss, image in zip(rows.tolist(), fools, judgement.loss.tolist(), images, strict=True):
            seen[row].append((is_fooled, loss, image.detach()))
        return judgement

    found = orthogonal_attack(network, watched, images, UNIT_RANGE, epsilon=0.15, step=0.04, iterations=9)
    assert not found.is_success.any()
    never = 0
    for row, points in seen.items():
        assert len(points) == 10
        fooling = [(loss, image) for is_fooled, loss, image in points if is_fooled]
        expected = min(fooling, key=lambda one: one[0])[1] if fooling else points[-1][2]
        never += not fooling
        assert torch.equal(found.images[row], expected)
    assert 0 < never < COUNT, "both cases"


@pytest.mark.parametrize("pixel_range", [PixelRange(-0.5, 0.5), PixelRange(0.0, 255.0)])
def test_nothing_leaves_the_ball_or_the_range(pixel_range: PixelRange) -> None:
    epsilon = 0.1 * pixel_range.width
    images = some_images(COUNT, pixel_range)
    found = orthogonal_attack(
        *both(0.1, pixel_range), images, pixel_range, epsilon=epsilon, step=epsilon / 3, iterations=8
    )
    check_attacked(images, found.images, pixel_range, epsilon=epsilon)
    assert (found.images - images).abs().amax() == pytest.approx(epsilon)
