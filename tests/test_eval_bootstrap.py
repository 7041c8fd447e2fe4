"""The bootstrap against resamples that are written out as lists of pairs, its intervals against many sets of pairs."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from facegm.errors import FacegmError
from facegm.eval.bootstrap import Bootstrap, IdentityBootstrap, PairBootstrap
from facegm.eval.metrics import accuracy_at, roc, true_accept_rate
from facegm.eval.resampled import ResampledRates, percentile_interval, resampled_rates

BOUNDS = (0.3, 0.1, 0.02)


def few_people(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each of twelve people with themselves, some twice, and with others, some both ways; distances with ties."""
    rng = np.random.default_rng(seed)
    own = np.concatenate([np.arange(12), [0, 0, 3, 5]])
    a, b = rng.integers(0, 12, (2, 60))
    b = np.where(a == b, (b + 1) % 12, b)
    people_a, people_b = np.concatenate([own, a, b[:5]]), np.concatenate([own, b, a[:5]])
    distances = rng.integers(0, 20, len(people_a)) / 4 + np.where(people_a == people_b, 0, 1.5)
    return people_a * 10, people_b * 10, distances


def all_weights(bootstrap: Bootstrap) -> np.ndarray:
    return np.concatenate([*bootstrap.weights()])


def test_a_pair_is_there_as_often_as_its_people_were_drawn() -> None:
    people_a, people_b, _ = few_people()
    weights = all_weights(IdentityBootstrap(people_a, people_b, resamples=50, seed=1))
    assert weights.shape == (50, len(people_a))
    for row in weights.tolist():
        times = dict(zip(people_a[:12].tolist(), row[:12], strict=True))
        assert sum(times.values()) == 12, "as many people are drawn as there are"
        for a, b, weight in zip(people_a.tolist(), people_b.tolist(), row, strict=True):
            assert weight == (times[a] if a == b else times[a] * times[b])
    assert weights[:, :12].mean() == pytest.approx(1)
    assert weights[:, :12].var() == pytest.approx(1 - 1 / 12, rel=0.15)


def test_pairs_are_drawn_where_people_are_unknown() -> None:
    same = np.arange(40) % 3 == 0
    weights = all_weights(PairBootstrap(same, resamples=200, seed=1))
    assert weights.sum(axis=1).tolist() == [40] * 200
    assert weights.var() == pytest.approx(1 - 1 / 40, rel=0.1)
    assert (PairBootstrap.unit, IdentityBootstrap.unit) == ("pairs", "people")


def test_resamples_follow_from_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    people_a, people_b, _ = few_people()
    bootstrap = IdentityBootstrap(people_a, people_b, resamples=20, seed=1)
    first = all_weights(bootstrap)
    assert np.array_equal(all_weights(bootstrap), first)
    assert not np.array_equal(all_weights(IdentityBootstrap(people_a, people_b, resamples=20, seed=2)), first)
    monkeypatch.setattr("facegm.eval.bootstrap._BLOCK", 300)
    blocks = [*bootstrap.weights()]
    assert len(blocks) > 5
    assert np.array_equal(np.concatenate(blocks), first)


def test_resamples_without_a_kind_are_drawn_again() -> None:
    bootstrap = IdentityBootstrap(np.array([0, 0]), np.array([0, 1]), resamples=300)
    weights = all_weights(bootstrap)
    assert weights.tolist() == [[1, 1]] * 300  # of the four draws of two people those of both alone have both kinds
    with pytest.raises(FacegmError, match="all 2 show one person"):
        PairBootstrap(np.array([True, True]))
    with pytest.raises(FacegmError, match="all 2 show different people"):
        IdentityBootstrap(np.array([0, 1]), np.array([1, 2]))


def naive_damping(a: np.ndarray, b: np.ndarray, distances: np.ndarray) -> float:
    """From the products of residuals of all two pairs, by how many people they share."""
    ranks = [sum(other < d for other in distances) + sum(other == d for other in distances) / 2 for d in distances]
    residual = np.array(ranks) - np.mean(ranks)
    robust = product = 0.0
    for i in range(len(a)):
        for j in range(len(a)):
            shared = len({a[i], b[i]} & {a[j], b[j]})
            robust += (0, 1, 1)[shared] * residual[i] * residual[j]
            product += (0, 1, 3)[shared] * residual[i] * residual[j]
    return float(np.sqrt(max(robust / product, 1 / 3)))


@pytest.mark.parametrize("seed", range(5))
def test_damping_is_the_robust_variance_over_that_of_products(seed: int) -> None:
    people_a, people_b, distances = few_people(seed)
    other = people_a != people_b
    expected = naive_damping(people_a[other], people_b[other], distances[other])
    assert 0.57 < expected < 1
    assert IdentityBootstrap(people_a, people_b).damping(distances) == pytest.approx(expected)
    assert PairBootstrap(~other).damping(distances) == 1


def written_out(weights: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """Columns of the list that has each pair as often as its weight says."""
    rows = [pair for pair, times in enumerate(weights.tolist()) for _ in range(times)]
    return [column[rows] for column in columns]


def test_metrics_are_those_of_the_list_of_drawn_pairs() -> None:
    people_a, people_b, distances = few_people()
    same = people_a == people_b
    bootstrap = PairBootstrap(same, resamples=40, seed=3)
    thresholds = np.linspace(1, 4, len(same))
    found = resampled_rates(bootstrap, distances, thresholds, BOUNDS)
    for number, weights in enumerate(all_weights(bootstrap)):
        drawn, kind, own = written_out(weights, distances, same, thresholds)
        recalled, refused = (accuracy_score(kind[of], (drawn < own)[of]) for of in (kind, ~kind))
        assert found.accuracy[number] == pytest.approx(same.mean() * recalled + (~same).mean() * refused)
        assert found.area[number] == pytest.approx(roc_auc_score(kind, -drawn))
        assert found.equal_error_rate[number] == pytest.approx(roc(drawn, kind).equal_error_rate)
        for bound, rate in zip(BOUNDS, found.true_accept_rate[number], strict=True):
            assert rate == pytest.approx(true_accept_rate(drawn, kind, bound).true_accepted.value)


def test_rates_of_different_people_are_damped() -> None:
    people_a, people_b, distances = few_people()
    same = people_a == people_b
    bootstrap = IdentityBootstrap(people_a, people_b, resamples=40, seed=3)
    damping = bootstrap.damping(distances)
    found = resampled_rates(bootstrap, distances, 2.0, BOUNDS)
    for number, weights in enumerate(all_weights(bootstrap)):
        drawn, kind = written_out(weights, distances, same)

        def false_accept_rate(threshold: float, drawn: np.ndarray = drawn[~kind]) -> float:
            of_all = np.mean(distances[~same] < threshold)
            return float(of_all + damping * (np.mean(drawn < threshold) - of_all))

        def true_accept_rate(threshold: float, drawn: np.ndarray = drawn[kind]) -> float:
            return float(np.mean(drawn < threshold))

        right = same.mean() * true_accept_rate(2) + (~same).mean() * (1 - false_accept_rate(2))
        assert found.accuracy[number] == pytest.approx(right)
        splits = [*np.unique(distances), np.inf]
        points = [(false_accept_rate(split), true_accept_rate(split)) for split in splits]
        area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
        assert found.area[number] == pytest.approx(area)
        (low, high) = next((a, b) for a, b in pairwise(points) if sum(b) >= 1)  # the lines between them meet FAR = FRR
        along = (1 - sum(low)) / (sum(high) - sum(low))
        assert found.equal_error_rate[number] == pytest.approx(low[0] + along * (high[0] - low[0]))
        for bound, rate in zip(BOUNDS, found.true_accept_rate[number], strict=True):
            assert rate == pytest.approx(max(tar for far, tar in points if far <= bound + 1e-12))


def test_all_pairs_once_give_the_metrics_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    people_a, people_b, distances = few_people()
    bootstrap = IdentityBootstrap(people_a, people_b, resamples=1)
    monkeypatch.setattr(bootstrap, "weights", lambda: iter([np.ones((1, len(distances)), np.int64)]))
    found, curve = resampled_rates(bootstrap, distances, 2.0, BOUNDS), roc(distances, bootstrap.same)
    assert found.accuracy == pytest.approx(accuracy_at(2.0, distances, bootstrap.same))
    assert found.area == pytest.approx(curve.area)
    assert found.equal_error_rate == pytest.approx(curve.equal_error_rate)
    expected = [true_accept_rate(distances, bootstrap.same, bound).true_accepted.value for bound in BOUNDS]
    assert found.true_accept_rate[0] == pytest.approx(expected)


def test_an_interval_leaves_out_one_fortieth_on_either_side() -> None:
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25, 975))


# Same pairs lie about 0 with standard deviation 1, different ones about 2, so that every metric is known.
THRESHOLD, NORMAL = 1.0, NormalDist()
TRUTH = (NORMAL.cdf(1), NORMAL.cdf(2**0.5), 1 - NORMAL.cdf(1), NORMAL.cdf(NORMAL.inv_cdf(0.1) + 2))


def few_pairs_a_person() -> tuple[np.ndarray, np.ndarray]:
    """As in LFW: most people are in a pair or two."""
    rng = np.random.default_rng(0)
    a, other = rng.integers(0, 500, 600), rng.integers(1, 500, 600)
    return a, np.where(np.arange(600) < 300, a, (a + other) % 500)


def all_pairs_of_people() -> tuple[np.ndarray, np.ndarray]:
    a, b = np.triu_indices(40, 1)
    own = np.repeat(np.arange(40), 4)
    return np.concatenate([own, a]), np.concatenate([own, b])


def noisy_distances(people_a: np.ndarray, people_b: np.ndarray, effect: float, seed: int) -> np.ndarray:
    """Of people of whom some are hard to recognize, and some are like many others."""
    rng = np.random.default_rng(seed)
    hard, alike = effect * rng.normal(size=(2, 500))
    same = people_a == people_b
    noise = rng.normal(size=len(same)) * np.sqrt(1 - effect**2 * np.where(same, 1, 2))
    return np.asarray(noise + np.where(same, hard[people_a], 2 + alike[people_a] + alike[people_b]))


def covered(case: tuple[np.ndarray, np.ndarray], effect: float, *, by_people: bool) -> tuple[np.ndarray, np.ndarray]:
    """How often the intervals of 60 sets hold the truth, and their mean width over 3.92 true standard deviations."""
    same = case[0] == case[1]
    holds, widths, values = [], [], []
    for seed in range(60):
        distances = noisy_distances(*case, effect, seed)
        bootstrap = (
            IdentityBootstrap(*case, resamples=200, seed=seed)
            if by_people
            else PairBootstrap(same, resamples=200, seed=seed)
        )
        intervals = np.array([percentile_interval(values) for values in metrics(bootstrap, distances)])
        holds.append((intervals[:, 0] <= TRUTH) & (intervals[:, 1] >= TRUTH))
        widths.append(intervals[:, 1] - intervals[:, 0])
        curve = roc(distances, same)
        tar = true_accept_rate(distances, same, 0.1).true_accepted
        values.append([accuracy_at(THRESHOLD, distances, same), curve.area, curve.equal_error_rate])
        values[-1].append(tar.count / tar.trials)
    return np.mean(holds, axis=0), np.mean(widths, axis=0) / 3.92 / np.std(values, axis=0)


def metrics(bootstrap: Bootstrap, distances: np.ndarray) -> list[np.ndarray]:
    found: ResampledRates = resampled_rates(bootstrap, distances, THRESHOLD, (0.1,))
    return [found.accuracy, found.area, found.equal_error_rate, found.true_accept_rate[:, 0]]


@pytest.mark.parametrize(("case", "effect"), [(few_pairs_a_person(), 0.0), (all_pairs_of_people(), 0.5)])
def test_intervals_of_people_hold_the_truth_as_often_as_they_say(
    case: tuple[np.ndarray, np.ndarray], effect: float
) -> None:
    coverage, width = covered(case, effect, by_people=True)
    assert ((coverage > 0.87) & (coverage <= 0.99)).all(), coverage
    assert width == pytest.approx(1, abs=0.2)


def test_intervals_of_pairs_are_too_narrow_where_people_are_in_many() -> None:
    coverage, width = covered(all_pairs_of_people(), 0.5, by_people=False)
    assert (coverage[:2] < 0.75).all(), coverage
    assert (width < 0.8).all(), width
