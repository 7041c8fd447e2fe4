"""Protects the report's intervals: people are drawn where they are known, the band is of the resampled curves."""

from dataclasses import replace

import numpy as np
import pytest

from facegm.eval.bootstrap import IdentityBootstrap
from facegm.eval.intervals import bootstrap_intervals
from facegm.eval.pairs import Pairs
from facegm.eval.protocol import Verification, verify
from facegm.eval.scores import NO_PCA

PEOPLE, FOLDS = 12, 4


@pytest.fixture(scope="module")
def scored() -> tuple[Pairs, Verification]:
    """Pairs of people in folds of their own, three photos each."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(FOLDS):
        people = range(k * PEOPLE // FOLDS, (k + 1) * PEOPLE // FOLDS)
        rows += [(f"P{p}/1", f"P{p}/{n}", True, k) for p in people for n in (2, 3)]
        rows += [(f"P{p}/1", f"P{q}/2", False, k) for p in people for q in people if p < q]
    a, b, same, fold = zip(*rows, strict=True)
    pairs = Pairs(a, b, np.array(same), np.array(fold))
    mean = {f"P{p}": rng.normal(size=8) for p in range(PEOPLE)}
    of = {name: mean[name.split("/")[0]] + rng.normal(size=8) for name in pairs.images}
    left, right = (np.stack([of[name] for name in side]) for side in (a, b))
    return pairs, verify(left, right, pairs.same, pairs.fold, variant=NO_PCA)


def test_people_are_drawn_and_the_figures_are_those_of_a_loop(scored: tuple[Pairs, Verification]) -> None:
    pairs, verification = scored
    assert pairs.people is not None
    found = bootstrap_intervals(pairs, verification)
    assert found.unit == "people"
    accuracy, rates = [], []
    distances, same, bounds = verification.distances, pairs.same, found.band.false_accept_rate[::20]
    bootstrap = IdentityBootstrap(*pairs.people)
    # The protocol's own threshold of each pair, then every one that separates two distances.
    splits = [distances <= one for one in np.sort(distances)]
    accepted = np.stack([distances < verification.fold_threshold[pairs.fold], *splits])
    false_of_all = accepted[:, ~same].mean(axis=1)
    for weights in (weights for block in bootstrap.weights() for weights in block):
        true = accepted[:, same] @ weights[same] / weights[same].sum()
        false = accepted[:, ~same] @ weights[~same] / weights[~same].sum()
        false = false_of_all + bootstrap.damping(distances) * (false - false_of_all)
        accuracy.append(same.mean() * true[0] + (1 - same.mean()) * (1 - false[0]))
        rates.append([max([0, *true[1:][false[1:] <= bound + 1e-12]]) for bound in bounds])
    assert found.resamples == len(accuracy) == 1000
    assert found.accuracy == pytest.approx(np.quantile(accuracy, [0.025, 0.975]))
    low, high = np.quantile(rates, [0.025, 0.975], axis=0)
    assert found.band.low[::20] == pytest.approx(low)
    assert found.band.high[::20] == pytest.approx(high)


def test_pairs_are_drawn_where_nobody_knows_who_is_on_them(scored: tuple[Pairs, Verification]) -> None:
    pairs, verification = scored
    assert pairs.people is not None
    a, b = (tuple(name.replace("/", "-") for name in side) for side in (pairs.names_a, pairs.names_b))
    nameless = replace(pairs, names_a=a, names_b=b)
    found = bootstrap_intervals(nameless, verification)
    assert found.unit == "pairs"
    assert found.describe()["unit"] == "pairs"


def test_a_perfect_score_has_an_interval_all_the_same(scored: tuple[Pairs, Verification]) -> None:
    """Resamples of no mistakes have no mistakes; that says nothing of pairs that are not there."""
    pairs, verification = scored
    distances = np.where(pairs.same, 0.1, 0.9) + np.linspace(0, 0.01, len(pairs))
    perfect = replace(verification, distances=distances, fold_threshold=np.full(FOLDS, 0.5), accuracy=1.0)
    low, high = bootstrap_intervals(pairs, perfect).accuracy
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / len(pairs)))  # Clopper and Pearson, no mistake
