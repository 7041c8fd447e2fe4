"""One trial of quality scores: some pairs of one person, a threshold, and what discarding by each score gives."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

from facegm.eval.quality.discard import (
    LIMITS,
    DiscardCurve,
    discard_curve,
    ideal_curve,
    pair_quality,
    random_areas,
    resampled_areas,
)
from facegm.eval.quality.scores import Scores
from facegm.eval.resampled import percentile_interval

Verdict = Literal["helps", "harms", "not told from chance"]
RESAMPLES, PERMUTATIONS = 1000, 200
"""Of the bootstrap, and of what chance gives."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold, which no discard moves."""

    name: str
    threshold: float
    """L2 distance of unit-length embeddings; a pair is accepted below it."""


@dataclass(frozen=True, eq=False)
class ComparedPairs:
    """Pairs of measured faces."""

    row_a: Int[np.ndarray, " pairs"]
    """Each pair's left face among those measured."""
    row_b: Int[np.ndarray, " pairs"]
    """Its right one."""
    same: Bool[np.ndarray, " pairs"]
    """True where both show one person."""
    people: Int[np.ndarray, " pairs"]
    """Number of each pair's left person, or, where people are not known, of the pair."""
    distances: Float64[np.ndarray, " pairs"]
    """L2, of unit-length embeddings."""

    def where(self, chosen: Bool[np.ndarray, " pairs"]) -> "ComparedPairs":
        """Some of them."""
        return ComparedPairs(*(getattr(self, column.name)[chosen] for column in fields(self)))


@dataclass(frozen=True, kw_only=True)
class RelativeArea:
    """A partial area under an error-versus-discard curve over what it would be if discarding changed nothing.

    1 where discarding by the score helps nothing on average, less where it helps, more where it leaves the wrong ones.
    """

    limit: float
    """Share of the pairs up to which is discarded."""
    area: float
    interval: tuple[float, float]
    """95 % by bootstrap over people, or, where they are not known, over pairs."""
    random: tuple[float, float]
    """Where 95 % of the areas lie if chance hands the same qualities to the images."""
    random_mean: float
    ideal: float
    """The least there can be: the rejected pairs leave first."""

    @property
    def verdict(self) -> Verdict:
        """Whether discarding helps: told by both the spread over people and the spread of chance."""
        if self.area < self.random[0] and self.interval[1] < self.random_mean:
            return "helps"
        if self.area > self.random[1] and self.interval[0] > self.random_mean:
            return "harms"
        return "not told from chance"


@dataclass(frozen=True, eq=False, kw_only=True)
class DiscardTrial:
    """What discarding by each score gives, at one threshold."""

    condition: str
    """Which faces."""
    point: OperatingPoint
    false_match_rate: float | None
    """Share of the pairs of different people that is accepted; None where there are none."""
    pairs: int
    """Of one person."""
    rejected: int
    """Of these, before any is discarded."""
    ideal: DiscardCurve
    curves: Mapping[str, DiscardCurve]
    """Of each score."""
    areas: Mapping[str, tuple[RelativeArea, ...]]
    """Of each score, up to each of `LIMITS`; empty where no pair is rejected, so that nothing can be measured."""

    @property
    def false_non_match_rate(self) -> float:
        """Before any pair is discarded."""
        return self.rejected / self.pairs


def discard_trial(condition: str, point: OperatingPoint, scores: Scores, pairs: ComparedPairs) -> DiscardTrial:
    """Discard pairs of one person by each score.

    Args:
        condition: which faces they are of.
        point: the threshold.
        scores: of all measured faces.
        pairs: of which one at least is of one person.
    """
    others, pairs = pairs.where(~pairs.same), pairs.where(pairs.same)
    is_rejected = pairs.distances >= point.threshold
    faces, rows = np.unique(np.concatenate([pairs.row_a, pairs.row_b]), return_inverse=True)
    a, b = np.split(rows, 2)
    ideal = ideal_curve(is_rejected)
    curves, areas = {}, {}
    for name, of_all in scores.items():
        quality = of_all[faces]
        curves[name] = discard_curve(pair_quality(quality, a, b), is_rejected)
        areas[name] = _relative_areas(curves[name], ideal, quality, a, b, is_rejected, pairs.people)
    return DiscardTrial(
        condition=condition,
        point=point,
        false_match_rate=float(np.mean(others.distances < point.threshold)) if len(others.same) else None,
        pairs=len(is_rejected),
        rejected=int(is_rejected.sum()),
        ideal=ideal,
        curves=curves,
        areas=areas,
    )


def _relative_areas(
    curve: DiscardCurve,
    ideal: DiscardCurve,
    quality: Float64[np.ndarray, " faces"],
    row_a: Int[np.ndarray, " pairs"],
    row_b: Int[np.ndarray, " pairs"],
    is_rejected: Bool[np.ndarray, " pairs"],
    people: Int[np.ndarray, " pairs"],
) -> tuple[RelativeArea, ...]:
    """One for each limit; none where nothing is rejected. Of a bootstrap count the resamples in which anything is."""
    start = float(is_rejected.mean())
    if not start:
        return ()
    of_pairs = pair_quality(quality, row_a, row_b)
    resampled = resampled_areas(of_pairs, is_rejected, people, LIMITS, resamples=RESAMPLES)
    by_chance = random_areas(quality, row_a, row_b, is_rejected, LIMITS, permutations=PERMUTATIONS) / start
    has_errors = resampled.starts > 0
    return tuple(
        RelativeArea(
            limit=limit,
            area=curve.area(limit) / start,
            interval=percentile_interval(drawn / resampled.starts[has_errors]),
            random=percentile_interval(random),
            random_mean=float(random.mean()),
            ideal=ideal.area(limit) / start,
        )
        for limit, drawn, random in zip(LIMITS, resampled.areas[:, has_errors], by_chance, strict=True)
    )
