"""The numbers of a classifier's evaluation, each against a plain computation of another kind."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import beta, multivariate_normal

from facegm.classification.evaluation import (
    BINS,
    ENERGY,
    LIKELIHOOD,
    POSTERIOR,
    Predictions,
    detect,
    evaluate,
    gm_log_likelihood,
    histograms,
    ood_scores,
)


def predictions(images: int, classes: int, seed: int, scale: float = 2.0) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(images, classes)).astype(np.float32)
    labels = np.where(rng.random(images) < 0.5, logits.argmax(axis=1), rng.integers(0, classes, images))
    return Predictions(rng.normal(size=(images, 3)).astype(np.float32), logits, labels.astype(np.int64))


def posteriors(row: np.ndarray) -> list[float]:
    odds = [math.exp(float(logit)) for logit in row]
    return [one / sum(odds) for one in odds]


@given(st.integers(1, 60), st.integers(2, 9), st.integers(0, 99))
def test_rates_are_those_that_are_counted(images: int, classes: int, seed: int) -> None:
    given_ = predictions(images, classes, seed)
    found = evaluate(given_)
    right, among_five, cross_entropy = 0, 0, 0.0
    confusion = [[0] * classes for _ in range(classes)]
    for row, label in zip(given_.logits, given_.labels.tolist(), strict=True):
        above = sum(float(logit) > float(row[label]) for logit in row)
        right, among_five = right + (above == 0), among_five + (above < 5)
        cross_entropy -= math.log(posteriors(row)[label]) / images
        confusion[label][max(range(classes), key=lambda k: float(row[k]))] += 1
    assert (found.images, found.right, found.accuracy) == (images, right, right / images)
    assert found.top5 == (pytest.approx(among_five / images) if classes > 5 else None)
    assert found.cross_entropy == pytest.approx(cross_entropy)
    assert found.confusion.tolist() == confusion
    low = beta.ppf(0.025, right, images - right + 1) if right else 0
    high = beta.ppf(0.975, right + 1, images - right) if right < images else 1
    assert found.interval == pytest.approx((low, high))


def of_two_classes(posterior: list[float], right: list[bool]) -> Predictions:
    logits = np.array([[math.log(p / (1 - p)), 0] for p in posterior], np.float32)
    return Predictions(np.zeros((len(right), 1), np.float32), logits, np.where(right, 0, 1).astype(np.int64))


def test_calibration_error_of_a_few_numbers() -> None:
    found = evaluate(of_two_classes([0.9, 0.9, 0.65, 0.65], [True, False, True, True]))
    assert found.calibration_error == pytest.approx(0.5 * 0.4 + 0.5 * 0.35)  # 0.9 against 1/2, 0.65 against 1
    filled = [one for one in found.bins if one.images]
    assert [(one.images, one.accuracy) for one in filled] == [(2, 1.0), (2, 0.5)]
    assert [one.posterior for one in filled] == pytest.approx([0.65, 0.9])
    assert [(one.above, one.up_to) for one in filled] == [(9 / 15, 10 / 15), (13 / 15, 14 / 15)]
    assert sum(one.posterior is None and one.accuracy is None for one in found.bins) == BINS - 2


@given(st.integers(1, 80), st.integers(0, 99))
def test_calibration_error_is_the_mean_distance_over_bins(images: int, seed: int) -> None:
    given_ = predictions(images, 4, seed, scale=1.0)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(given_.logits, given_.labels.tolist(), strict=True):
        largest = max(posteriors(row))
        number = next(number for number in range(BINS) if largest <= (number + 1) / BINS)
        bins.setdefault(number, []).append((largest, posteriors(row)[label] == largest))
    expected = sum(abs(sum(p for p, _ in one) - sum(right for _, right in one)) / images for one in bins.values())
    assert evaluate(given_).calibration_error == pytest.approx(expected)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_likelihood_is_that_of_a_mixture_of_gaussians(offset: float) -> None:
    rng = np.random.default_rng(0)
    features, means = (rng.normal(offset, 2, (n, 6)).astype(np.float32) for n in (40, 5))
    of_each = [multivariate_normal(mean.astype(np.float64), np.eye(6)).logpdf(features) for mean in means]
    expected = logsumexp(np.stack(of_each), axis=0, b=1 / 5)
    assert gm_log_likelihood(features, means) == pytest.approx(expected, rel=1e-9)


def test_scores_by_loss() -> None:
    given_ = predictions(20, 4, 0)
    of_gm, of_others = ood_scores(given_, np.ones((4, 3), np.float32)), ood_scores(given_, None)
    assert list(of_gm) == [LIKELIHOOD, POSTERIOR]
    assert list(of_others) == [ENERGY, POSTERIOR]
    for number, row in enumerate(given_.logits):
        assert of_others[ENERGY][number] == pytest.approx(math.log(sum(math.exp(float(logit)) for logit in row)))
        assert of_gm[POSTERIOR][number] == pytest.approx(math.log(max(posteriors(row))))
    assert of_gm[LIKELIHOOD] == pytest.approx(gm_log_likelihood(given_.features, np.ones((4, 3))))


def test_posteriors_that_round_to_one_are_told_apart() -> None:
    logits = np.array([[0, 60, 1], [0, 50, 1], [70, 0, 1]], np.float32)
    found = ood_scores(Predictions(np.zeros((3, 1), np.float32), logits, np.zeros(3, np.int64)), None)[POSTERIOR]
    assert np.argsort(found).tolist() == [1, 0, 2]
    assert found[1] == pytest.approx(-math.exp(-50) - math.exp(-49), rel=1e-12)


few = st.lists(st.integers(0, 8), min_size=1, max_size=40)


@given(few, few)
def test_area_counts_pairs_and_false_alarms(inside: list[int], outside: list[int]) -> None:
    found = detect(np.array(inside, np.float64), np.array(outside, np.float64))
    won = sum((own > other) + 0.5 * (own == other) for own in inside for other in outside)
    assert found.area == pytest.approx(won / len(inside) / len(outside))
    threshold = max(t for t in inside if sum(own >= t for own in inside) >= 0.95 * len(inside))
    assert found.threshold == threshold
    assert found.false_alarm_rate == pytest.approx(sum(other >= threshold for other in outside) / len(outside))


def test_histograms_count_all_and_show_the_images_of_the_classes() -> None:
    rng = np.random.default_rng(0)
    inside, far, one = rng.normal(-90, 1, 1000), rng.normal(-5000, 10, 300), np.array([-90.0])
    edges, counts = histograms(inside, [far, one], bins=30)
    assert [count.sum() for count in counts] == [1000, 300, 1]
    assert counts[1][0] == 300
    assert -105 < edges[0] < -95
    assert edges[-1] == pytest.approx(inside.max(), abs=1e-6)
    for number in range(1, 29):
        assert counts[0][number] == sum(edges[number] <= score < edges[number + 1] for score in inside)
    assert histograms(np.full(5, 2.0), [np.full(3, 2.0)]).counts[1].sum() == 3
