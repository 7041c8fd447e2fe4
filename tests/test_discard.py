"""Protects the error-versus-discard curves: against plain loops, with ties, and against a threshold that moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.eval.discard import (
    LIMITS,
    discard_curve,
    ideal_curve,
    pair_quality,
    random_areas,
    resampled_areas,
)
from facegm.eval.metrics import threshold_at

Case = tuple[np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Qualities with many ties, and which pairs are rejected."""
    length = draw(st.integers(1, 30))
    quality = draw(st.lists(st.integers(0, 8), min_size=length, max_size=length))
    rejected = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    return np.array(quality, np.float64), np.array(rejected)


def naive_points(quality: list[float], rejected: list[bool]) -> list[tuple[float, float]]:
    """Discard everything below each quality that occurs, and count who is left."""
    points = []
    for lowest in sorted(set(quality)):
        left = [error for value, error in zip(quality, rejected, strict=True) if value >= lowest]
        points.append((1 - len(left) / len(quality), sum(left) / len(left)))
    return points


def naive_area(points: list[tuple[float, float]], limit: float, steps: int = 20_000) -> float:
    """Mean over many shares of the rate of the last point that is allowed."""
    shares = (np.arange(steps) + 0.5) / steps * limit
    reached = np.searchsorted([share for share, _ in points], shares, side="right") - 1
    return float(np.array([rate for _, rate in points])[reached].mean())


@given(cases())
def test_points_and_areas_equal_a_plain_loop(case: Case) -> None:
    quality, rejected = case
    curve, points = discard_curve(quality, rejected), naive_points(quality.tolist(), rejected.tolist())
    assert curve.discarded == pytest.approx([share for share, _ in points], abs=1e-12)
    assert curve.false_non_match_rate == pytest.approx([rate for _, rate in points], abs=1e-12)
    for limit in LIMITS:
        assert curve.area(limit) == pytest.approx(naive_area(points, limit), abs=1e-3)
    shares = np.array([0.0, 0.1, 0.25, 0.5, 0.99])
    allowed = [[rate for share, rate in points if share <= at + 1e-9][-1] for at in shares]
    assert curve.at(shares) == pytest.approx(allowed, abs=1e-12)


def test_pairs_of_equal_quality_leave_together() -> None:
    # Taken one by one in their order, the two rejected pairs of quality 1 would leave first, and the rate be 0 at 20 %.
    quality = np.array([1, 1, 1, 1, 2, 3, 4, 5, 6, 7], float)
    rejected = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], bool)
    curve = discard_curve(quality, rejected)
    assert curve.discarded.tolist() == pytest.approx([0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert curve.area(0.2) == pytest.approx(0.2), "nothing can leave yet"
    assert curve.area(0.5) == pytest.approx(0.2 * 0.4 / 0.5)
    one_by_one = discard_curve(np.arange(10.0), rejected)
    assert one_by_one.area(0.2) == pytest.approx((0.2 + 1 / 9) / 2)
    for order in (slice(None), slice(None, None, -1)):
        assert np.array_equal(discard_curve(quality[order], rejected[order]).false_non_match_rate[:2], [0.2, 0])


def test_all_pairs_of_one_quality_give_a_level_curve() -> None:
    rejected = np.array([1, 0, 0, 1], bool)
    curve = discard_curve(np.ones(4), rejected)
    assert (curve.discarded.tolist(), curve.false_non_match_rate.tolist()) == ([0], [0.5])
    assert [curve.area(limit) for limit in LIMITS] == pytest.approx([0.5, 0.5])


def test_the_threshold_stays_as_at_no_discard() -> None:
    """A threshold that is chosen anew at each step, as CR-FIQA's and MagFace's scripts do, gives another curve."""
    rng = np.random.default_rng(0)
    same = np.arange(400) % 2 == 0
    quality = rng.uniform(size=400)
    # Of poor pairs all distances are large, so without them the threshold of a false match rate moves.
    distances = np.where(same, 1.0, 1.6) + 0.8 * (1 - quality) + 0.3 * rng.normal(size=400)
    rate, share = 0.1, 0.3
    fixed = threshold_at(distances[~same], rate)
    curve = discard_curve(quality[same], distances[same] >= fixed)

    def left(of_kind: np.ndarray) -> np.ndarray:
        """The distances that are left of a kind of pairs once 30 % of it are discarded."""
        worst_first = np.argsort(quality[of_kind])
        return np.asarray(distances[of_kind][worst_first][round(share * of_kind.sum()) :])

    expected = float(np.mean(left(same) >= fixed))
    moved = float(np.mean(left(same) >= np.sort(left(~same))[int(rate * len(left(~same)))]))
    assert curve.at(np.array([share]))[0] == pytest.approx(expected)
    assert abs(moved - expected) > 0.03, "the case tells them apart"


@given(cases())
def test_no_order_of_leaving_is_better_than_the_ideal_one(case: Case) -> None:
    quality, rejected = case
    best = ideal_curve(rejected)
    pairs, errors = len(rejected), int(rejected.sum())
    for gone in range(pairs):
        expected = max(errors - gone, 0) / (pairs - gone)
        assert best.at(np.array([gone / pairs]))[0] == pytest.approx(expected)
    for limit in LIMITS:
        assert best.area(limit) <= discard_curve(quality, rejected).area(limit) + 1e-12


def test_a_pair_is_as_good_as_its_worse_image() -> None:
    quality = np.array([0.5, -1.0, 3.0])
    assert pair_quality(quality, np.array([0, 2, 2]), np.array([1, 0, 2])).tolist() == [-1, 0.5, 3]


def test_chance_leaves_the_rate_as_it_is_on_average() -> None:
    rng = np.random.default_rng(1)
    images, pairs = 200, 300
    a, b = rng.integers(0, images, (2, pairs))
    rejected = rng.random(pairs) < 0.3
    quality = rng.normal(size=images)
    areas = random_areas(quality, a, b, rejected, [0.2], permutations=100, seed=3)[0]
    assert areas.mean() == pytest.approx(rejected.mean(), abs=4 * areas.std() / 10)
    assert 0 < areas.std() < 0.05
    assert np.array_equal(areas, random_areas(quality, a, b, rejected, [0.2], permutations=100, seed=3)[0])
    assert not np.array_equal(areas, random_areas(quality, a, b, rejected, [0.2], permutations=100, seed=4)[0])
    level = random_areas(np.ones(images), a, b, rejected, [0.2], permutations=3)[0]
    assert level == pytest.approx([rejected.mean()] * 3), "ties are kept: where all are equal none can leave"


def test_bootstrap_equals_lists_of_pairs_drawn_person_by_person() -> None:
    """Each resample again, by writing its pairs down as often as their person was drawn."""
    rng = np.random.default_rng(2)
    people = np.array([0, 0, 0, 5, 5, 7, 8, 8, 8, 8, 9, 9])
    quality, rejected = rng.integers(0, 5, 12).astype(float), rng.random(12) < 0.4
    (areas,), starts = resampled_areas(quality, rejected, people, [0.3], resamples=150, seed=4)
    assert (len(areas), len(starts)) == (150, 150)
    # The draws are numpy's own: the same generator, asked for the same numbers.
    drawn_by = np.random.default_rng(4)
    counts = np.concatenate([drawn_by.multinomial(5, [0.2] * 5, size=size) for size in (100, 50)])
    numbers = np.unique(people, return_inverse=True)[1].tolist()
    for count, area, start in zip(counts, areas, starts, strict=True):
        rows = [row for row, person in enumerate(numbers) for _ in range(count[person])]
        points = naive_points(quality[rows].tolist(), rejected[rows].tolist())
        assert start == pytest.approx(points[0][1])
        assert area == pytest.approx(naive_area(points, 0.3, steps=3000), abs=2e-3)


def test_the_spread_over_people_is_wider_than_that_over_pairs_where_people_differ() -> None:
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(40), 25)
    rejected = rng.random(1000) < rng.choice([0.0, 0.6], 40)[people]
    quality = rng.normal(size=1000)
    by_people = resampled_areas(quality, rejected, people, [0.2], resamples=300).areas.std()
    by_pairs = resampled_areas(quality, rejected, np.arange(1000), [0.2], resamples=300).areas.std()
    assert by_people > 2.5 * by_pairs
    assert by_pairs == pytest.approx((rejected.mean() * (1 - rejected.mean()) / 1000) ** 0.5, rel=0.25)
