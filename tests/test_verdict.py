"""What is said of a detector: its figures against naive loops, and that a verdict notices what is not in order."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plane import MEANS, images_at, plane_subject
from torch import Tensor

from facegm.adversarial.density_objective import DensityShortfall, no_density
from facegm.adversarial.detection import (
    Detection,
    detection,
    equally_distorted_noise,
    false_alarms,
    threshold_at,
)
from facegm.adversarial.detectors.base import ClassDensity
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.objectives import Margin
from facegm.adversarial.orthogonal_attack import JointObjective, orthogonal_attack
from facegm.adversarial.result import Attacked
from facegm.adversarial.sign_attack import sign_attack
from facegm.adversarial.subject import UNIT_RANGE, outputs_of
from facegm.adversarial.trial import Defence, reach_verdict
from facegm.adversarial.verdict import Verdict
from facegm.errors import FacegmError

# ------------------------------------------------------------------------------------------------- figures

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.booleans()), min_size=1, max_size=60)
"""Scores of a clean and of an attacked image, with many ties, and whether the network is fooled."""


def naive_area(normal: list[float], other: list[float]) -> float:
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in normal for b in other]
    return sum(wins) / len(wins)


def naive_threshold(normal: list[float], rate: float) -> float:
    """The highest of the scores with no more than such a share of normal images below it."""
    return max(score for score in normal if sum(one < score for one in normal) <= rate * len(normal) + 1e-12)


@given(PAIRS)
@settings(max_examples=40)
def test_figures_are_those_of_naive_loops(pairs: list[tuple[int, int, bool]]) -> None:
    normal, attacked, fooled = (list(column) for column in zip(*pairs, strict=True))
    found = detection(np.array(normal, float), np.array(attacked, float), np.array(fooled))
    assert found.images == len(pairs)
    assert found.fooled == pytest.approx(sum(fooled) / len(pairs))
    assert found.area == pytest.approx(naive_area(normal, attacked))
    successes = [(a, b) for a, b, is_fooled in pairs if is_fooled]
    expected = naive_area([a for a, _ in successes], [b for _, b in successes]) if successes else None
    assert found.area_of_successes == (None if expected is None else pytest.approx(expected))
    assert set(found.undetected) == {0.01, 0.05, 0.10}
    for rate, share in found.undetected.items():
        threshold = naive_threshold(normal, rate)
        passed = [is_fooled and score >= threshold for score, is_fooled in zip(attacked, fooled, strict=True)]
        assert share == pytest.approx(sum(passed) / len(pairs))
    noisy = false_alarms(np.array(normal, float), np.array(attacked, float))
    for rate, share in noisy.items():
        alarms = [score < naive_threshold(normal, rate) for score in attacked]
        assert share == pytest.approx(sum(alarms) / len(pairs))


@pytest.mark.parametrize("count", [100, 700, 2900])
def test_a_threshold_lets_no_clean_image_too_many_be_taken_for_manipulated(count: int) -> None:
    scores = np.random.default_rng(0).permutation(count).astype(float)
    for rate, expected in ((0.01, count // 100), (0.05, count // 20), (0.10, count // 10)):
        assert (scores < threshold_at(scores, rate)).sum() == expected


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(FacegmError, match="1 of its scores are not finite"):
        detection(np.zeros(3), np.array([0.0, value, 1.0]), np.ones(3, bool))


def test_noise_is_as_long_as_what_the_attack_added_and_stays_in_range() -> None:
    rng = torch.Generator().manual_seed(0)
    images = 0.45 + 0.1 * torch.rand(30, 2, 9, 9, generator=rng, dtype=torch.float64)
    lengths = torch.linspace(0.0, 0.3, 30, dtype=torch.float64)[:, None, None, None]
    attacked = images + lengths * torch.sign(torch.randn(images.shape, generator=rng))
    noisy = equally_distorted_noise(images, attacked, UNIT_RANGE, torch.Generator().manual_seed(1))
    added = (noisy - images).flatten(1)
    expected = (attacked - images).flatten(1).norm(dim=1)
    assert torch.equal(noisy[0], images[0])
    assert added[:8].norm(dim=1).tolist() == pytest.approx(expected[:8].tolist())
    assert ((noisy >= 0) & (noisy <= 1)).all()
    assert ((noisy[-1] == 0) | (noisy[-1] == 1)).any(), "clipped"
    assert (added[1:].norm(dim=1) <= expected[1:] * (1 + 1e-9)).all()
    shares = (added[1:8] / expected[1:8, None] * added.shape[1] ** 0.5).abs()
    assert (shares < 1).double().mean().item() == pytest.approx(0.683, abs=0.05), "normally distributed"


# ------------------------------------------------------------------------------------------------- words

WEAK = Detection(
    images=200, area=0.99, area_of_successes=0.99, fooled=0.9, undetected={0.01: 0.0, 0.05: 0.01, 0.1: 0.02}
)
STRONG = replace(WEAK, area=0.6, undetected={0.01: 0.5, 0.05: 0.7, 0.1: 0.8})
NO_CLAIM = "No robustness claimed"
WITHSTANDS = Verdict(
    detector="GM+KD",
    attack="orthogonal PGD (epsilon 0.1, 200 iterations)",
    white_box=WEAK,
    doubled=WEAK,
    over_budget={0.1: 0.01, 0.3: 0.5, 1.0: 1.0},
    noise={0.01: 0.02, 0.05: 0.125, 0.1: 0.2},
    zero_gradients=0.0,
    transferred=WEAK,
    gradient_free=WEAK,
    undefended=1.0,
    broken=replace(STRONG, fooled=1.0, undetected={0.01: 0.99, 0.05: 0.95, 0.1: 0.9}),
)


def test_a_detector_that_withstands_everything_is_credited_with_that_and_no_more() -> None:
    assert WITHSTANDS.claims_robustness
    assert all(finding.is_in_order for finding in WITHSTANDS.findings())
    text = " ".join(WITHSTANDS.sentences())
    assert NO_CLAIM not in text
    assert text.endswith("At most 2.0 % of the images fool the network undetected; other attacks may do better.")
    for words in ("GM+KD", "epsilon 0.1", "AUC 99.0 %", "90.0 % fool", "0.0 %, 1.0 %, 2.0 %", "2.0 %, 12.5 %, 20.0 %"):
        assert words in text


@pytest.mark.parametrize(
    ("change", "number", "words"),
    [
        ({"doubled": replace(WEAK, undetected={0.01: 0.0, 0.05: 0.01, 0.1: 0.08})}, 0, "change .* by 6.0 points"),
        ({"over_budget": {0.1: 0.01, 1.0: 0.97}}, 1, "1.0 % at 0.1, 97.0 % at 1"),
        ({"over_budget": {0.1: 0.01, 0.3: 0.5, 0.5: 0.4, 1.0: 1.0}}, 1, "40.0 % at 0.5"),
        ({"zero_gradients": 0.3}, 2, "30.0 %"),
        ({"transferred": replace(WEAK, undetected={0.01: 0.0, 0.05: 0.06, 0.1: 0.06})}, 3, "6.0 % from a substitute"),
        ({"gradient_free": replace(WEAK, undetected={0.01: 0.0, 0.05: 0.04, 0.1: 0.06})}, 3, "4.0 % without gradients"),
        ({"undefended": 0.4}, 4, "40.0 %"),
        ({"broken": replace(WEAK, fooled=0.0, undetected={0.01: 0.0, 0.05: 0.0, 0.1: 0.0})}, 5, "0.0 %"),
    ],
)
def test_what_is_not_in_order_is_named_and_no_robustness_claimed(
    change: dict[str, object], number: int, words: str
) -> None:
    verdict = replace(WITHSTANDS, **change)  # type: ignore[arg-type]
    findings = verdict.findings()
    assert [finding.is_in_order for finding in findings] == [one != number for one in range(len(findings))]
    assert not verdict.claims_robustness
    sentences = verdict.sentences()
    assert sentences[-1].startswith(f"{NO_CLAIM}: 1 of the checks")
    matching = [one for one in sentences if one == findings[number].sentence]
    assert len(matching) == 1
    assert re.search(words, matching[0])


@pytest.mark.parametrize("by", ["white_box", "doubled", "transferred", "gradient_free"])
def test_whatever_attack_succeeds_no_robustness_is_claimed(by: str) -> None:
    verdict = replace(WITHSTANDS, **{by: STRONG})  # type: ignore[arg-type]
    assert not verdict.claims_robustness
    assert verdict.sentences()[-1] == (
        f"{NO_CLAIM}: with 10 % false alarms 80.0 % of the images fool the network undetected."
    )


# ------------------------------------------------------------------------------------------------- a trial

RNG = torch.Generator().manual_seed(0)
POINTS = MEANS[0] + 0.5 * torch.randn(40, 2, generator=RNG, dtype=torch.float64)
"""Of class 0, to be taken for class 1, whose mean is 6 away: on the scale of pixels 0.6."""
IMAGES = images_at(POINTS)
CLASSES = torch.ones(len(POINTS), dtype=torch.int64)
SUBJECT = plane_subject()
GOAL = Margin(subject=SUBJECT, classes=CLASSES, is_targeted=True)


def shortfall(density: ClassDensity, eta: float) -> DensityShortfall:
    return DensityShortfall(
        subject=SUBJECT,
        classes=CLASSES,
        is_targeted=True,
        density=density,
        thresholds=torch.full((3,), eta, dtype=torch.float64),
    )


def likelihood(images: Tensor) -> np.ndarray:
    with torch.no_grad():
        scores: np.ndarray = outputs_of(SUBJECT, images).logits.amax(dim=1).numpy()
    return scores


def defence(detector: DensityShortfall, scores: Callable[[Tensor], np.ndarray]) -> Defence:
    def attack(iterations: int, epsilon: float) -> Attacked:
        step = max(0.02, 2 * epsilon / iterations)
        return orthogonal_attack(GOAL, detector, IMAGES, UNIT_RANGE, epsilon=epsilon, step=step, iterations=iterations)

    return Defence(attack=attack, goal=GOAL, scores=scores)


def on_the_network(iterations: int, epsilon: float) -> Attacked:
    return sign_attack(GOAL, IMAGES, UNIT_RANGE, epsilon=epsilon, step=0.02, iterations=iterations)


def test_the_gm_likelihood_is_tried_and_found_wanting() -> None:
    """Of all figures: they are those of the attacks that a trial consists of, made here one by one."""
    likelihoods = shortfall(GMLikelihood(MEANS).log_density, 0.1)
    tried = defence(likelihoods, likelihood)
    chance = np.random.default_rng(0)
    broken = defence(shortfall(no_density, 0.0), lambda images: chance.random(len(images)))
    moved = on_the_network(3, 0.4).images
    verdict = reach_verdict(
        tried,
        IMAGES,
        UNIT_RANGE,
        detector="GM likelihood",
        attack="orthogonal PGD",
        iterations=30,
        epsilon=0.5,
        budgets=[0.2, 1.0],
        objective=JointObjective(network=GOAL, detector=likelihoods),
        transferred=moved,
        gradient_free=IMAGES,
        undefended=on_the_network,
        broken=broken,
        generator=torch.Generator().manual_seed(3),
    )

    def measured(images: Tensor) -> Detection:
        is_class_1 = outputs_of(SUBJECT, images).logits.argmax(dim=1) == 1
        return detection(likelihood(IMAGES), likelihood(images), is_class_1.numpy())

    white_box = tried.attack(30, 0.5).images
    assert verdict.white_box == measured(white_box)
    assert verdict.doubled == measured(tried.attack(60, 0.5).images)
    assert verdict.over_budget == {
        bound: measured(tried.attack(30, bound).images).undetected[0.05] for bound in (0.2, 0.5, 1.0)
    }
    assert verdict.transferred == measured(moved)
    assert verdict.gradient_free == measured(IMAGES)
    assert verdict.gradient_free.area == pytest.approx(0.5)
    assert verdict.undefended == 1.0
    noisy = equally_distorted_noise(IMAGES, white_box, UNIT_RANGE, torch.Generator().manual_seed(3))
    assert verdict.noise == false_alarms(likelihood(IMAGES), likelihood(noisy))
    assert verdict.noise[0.05] > 0.5, "noise as long as the way to another class is not normal either"
    assert verdict.zero_gradients == 0
    # Half the way to the other class is not far enough, and all of it is.
    assert verdict.over_budget[0.2] == 0
    assert verdict.over_budget[1.0] == 1
    assert verdict.white_box.undetected[0.05] > 0.5
    # The broken one falls: to the attack on the network alone, but for the images that it condemns by chance.
    assert verdict.broken.fooled == 1
    assert verdict.broken.undetected[0.05] > 0.8
    assert verdict.broken.area == pytest.approx(0.5, abs=0.15)
    assert all(finding.is_in_order for finding in verdict.findings())
    assert NO_CLAIM in verdict.sentences()[-1]


def test_an_attack_that_ignores_the_detector_is_found_out() -> None:
    """It stops at the border between classes, where the likelihood is low, whatever a pixel may change."""
    ignorant = Defence(
        attack=lambda iterations, epsilon: sign_attack(
            GOAL, IMAGES, UNIT_RANGE, epsilon=epsilon, step=0.01, iterations=iterations, stops=True
        ),
        goal=GOAL,
        scores=likelihood,
    )
    verdict = reach_verdict(
        ignorant,
        IMAGES,
        UNIT_RANGE,
        detector="GM likelihood",
        attack="PGD",
        iterations=60,
        epsilon=0.5,
        budgets=[1.0],
        objective=GOAL,
        transferred=IMAGES,
        gradient_free=IMAGES,
        undefended=on_the_network,
        broken=replace(ignorant, scores=lambda images: np.ones(len(images))),
        generator=torch.Generator().manual_seed(3),
    )
    assert verdict.white_box.fooled == 1
    assert verdict.white_box.undetected[0.1] == 0
    assert verdict.white_box.area > 0.99
    assert [finding.is_in_order for finding in verdict.findings()] == [True, False, True, True, True, True]
    assert not verdict.claims_robustness
