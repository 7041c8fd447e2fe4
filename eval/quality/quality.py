"""Is a number that comes with a face a quality? Tried on pairs of faces, as they are and degraded on purpose."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt8

from facegm.data.progress import Progress
from facegm.embedding.aligned_embedder import normalised
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import weights_digest
from facegm.errors import FacegmError
from facegm.eval.metrics import best_threshold, threshold_at
from facegm.eval.quality.degradations import LADDER, STRENGTHS, Degradation, Kind, degrade, drawn_degradation
from facegm.eval.quality.measurement import View, measure
from facegm.eval.quality.scores import Scores, quality_scores, severity_correlation
from facegm.eval.quality.trial import ComparedPairs, DiscardTrial, OperatingPoint, discard_trial
from facegm.eval.sets.found_faces import rows_of_images
from facegm.eval.sets.pairs import Pairs, read_pairs
from facegm.eval.verify_lfw import find_pairs
from facegm.store.reader import FaceStore

AS_THEY_ARE, HALF_DEGRADED = "as they are", "half of them degraded"
FALSE_MATCH_RATES = (1e-2, 1e-1)
HIGHEST_ACCURACY = "highest accuracy"
LADDER_IMAGES = 100
"""Images that are measured at every rung of the ladder."""
BLOCKS_FOLDER = "measured"


@dataclass(frozen=True, eq=False, kw_only=True)
class QualityReport:
    """All that was found."""

    facts: Mapping[str, str]
    """What was measured, in words."""
    trials: tuple[DiscardTrial, ...]
    """Of each condition that has pairs, at each threshold."""
    correlations: Mapping[str, Mapping[str, float]]
    """By score and kind of degradation: Spearman's correlation with severity within an image, mean over images."""
    ladder_images: int
    """Images behind the correlations."""
    views: tuple[View, ...]
    """All faces that were measured."""
    drawn: frozenset[View]
    """Those of the set of which half is degraded."""
    scores: Scores
    """Of these."""
    example: Mapping[View, UInt8[np.ndarray, "side side 3"]]
    """One image at every rung, as it is first."""

    def trials_at(self, point: str) -> tuple[DiscardTrial, ...]:
        """Those at one threshold, by its name."""
        return tuple(trial for trial in self.trials if trial.point.name == point)


def measure_quality(
    model: Path,
    photos: Path,
    output: Path,
    *,
    means: Float[np.ndarray, "identities dim"] | None,
    pairs_file: Path | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
) -> QualityReport:
    """Measure the faces of pairs, as they are and degraded, and try each score as a quality.

    Args:
        model: run folder or embedder file.
        photos: store of the aligned faces of all images that the pairs name.
        output: folder in which measured faces are kept, so that the same call goes on where it was interrupted.
        means: of the training identities under the GM loss; None for a model without, which has no likelihoods.
        pairs_file: the protocol file; None for `pairs.txt` in the store or in the folder above.
        max_pairs: pairs to take, half of them of one person, by chance; None for all.
        seed: of the degradations and of that chance.

    Raises:
        FacegmError: model, store or pairs are missing or unusable, or the pairs are all of one kind.
    """
    embedder = FaceEmbedder.load(model)
    store, pairs_file = FaceStore(photos), pairs_file or find_pairs(photos)
    pairs = _some_pairs(read_pairs(pairs_file), max_pairs, seed)
    row_of_face = rows_of_images(store, pairs.images)
    checksums = store.table(["checksum"])["checksum"].take([*row_of_face.values()]).to_pylist()
    views = _views(pairs, seed)
    measured = measure(
        output / BLOCKS_FOLDER,
        views,
        lambda name: store.read_face(row_of_face[name]),
        embedder,
        seed=seed,
        made_of={"model": weights_digest(model), "faces": hashlib.sha256(repr(checksums).encode()).hexdigest()},
    )
    scores = quality_scores(measured, means, is_mirrored=embedder.is_mirrored)
    row_of = {view: row for row, view in enumerate(views)}
    ladder = ladder_images(pairs, seed)
    return QualityReport(
        facts={
            "model": str(model),
            "embedding": embedder.describe(),
            "faces": str(photos),
            "pairs": f"{pairs_file}: {len(pairs):,}, {np.count_nonzero(pairs.same):,} of them of one person",
            "seed": str(seed),
            "intervals": "by bootstrap over people"
            if pairs.people is not None
            else "by bootstrap over pairs, whose people their names do not tell",
            "likelihoods": "not offered: they take a model of the GM loss that carries the means of its identities"
            if means is None
            else f"under the {len(means):,} identities of the training",
        },
        trials=_trials(pairs, views, normalised(measured.features(is_mirrored=embedder.is_mirrored)), scores, seed),
        correlations={
            name: {
                kind: float(severity_correlation(of_all[rows]).mean())
                for kind, rows in _ladder_rows(ladder, row_of).items()
            }
            for name, of_all in scores.items()
        },
        ladder_images=len(ladder),
        views=views,
        drawn=frozenset(View(name, drawn_degradation(name, seed)) for name in pairs.images),
        scores=scores,
        example={
            view: degrade(store.read_face(row_of_face[view.name]), view.degradation, name=view.name, seed=seed)
            for view in (View(ladder[0], rung) for rung in (None, *LADDER))
        },
    )


def _some_pairs(pairs: Pairs, max_pairs: int | None, seed: int) -> Pairs:
    """As many as are wanted, both kinds alike, in their order.

    Raises:
        FacegmError: there are pairs of one kind alone.
    """
    kinds = [np.flatnonzero(pairs.same == kind) for kind in (True, False)]
    if not all(map(len, kinds)):
        raise FacegmError("pairs: all of one kind; a threshold takes pairs of one person and pairs of different people")
    if max_pairs is None or max_pairs >= len(pairs):
        return pairs
    rng, each = np.random.default_rng(seed), max(1, max_pairs // 2)
    chosen = np.sort(np.concatenate([rng.permutation(kind)[:each] for kind in kinds]))
    names_a, names_b = (tuple(names[pair] for pair in chosen) for names in (pairs.names_a, pairs.names_b))
    return Pairs(names_a, names_b, pairs.same[chosen], pairs.fold[chosen])


def _views(pairs: Pairs, seed: int) -> tuple[View, ...]:
    """Every image as it is and as it is degraded by chance, and some at every rung of the ladder; each view once."""
    views = [View(name, None) for name in pairs.images]
    views += [View(name, drawn_degradation(name, seed)) for name in pairs.images]
    views += [View(name, rung) for name in ladder_images(pairs, seed) for rung in LADDER]
    return tuple(dict.fromkeys(views))


def ladder_images(pairs: Pairs, seed: int) -> list[str]:
    """The images that are measured at every rung."""
    order = np.random.default_rng(seed).permutation(len(pairs.images))
    return [pairs.images[number] for number in order[:LADDER_IMAGES]]


def _ladder_rows(names: Sequence[str], row_of: Mapping[View, int]) -> dict[Kind, Int[np.ndarray, "images rungs"]]:
    """Rows of each image's views by kind, from the face as it is to the worst one."""
    rungs = {kind: [None, *(rung for rung in LADDER if rung.kind == kind)] for kind in STRENGTHS}
    return {
        kind: np.array([[row_of[View(name, rung)] for rung in of_kind] for name in names])
        for kind, of_kind in rungs.items()
    }


def _trials(
    pairs: Pairs, views: Sequence[View], unit: Float64[np.ndarray, "views dim"], scores: Scores, seed: int
) -> tuple[DiscardTrial, ...]:
    """All conditions at all thresholds: the faces as they are; half of them degraded; and of these, each kind alone.

    Pairs of a kind are those whose faces are as they are or degraded by that kind. The thresholds are those of the
    faces as they are, for a system is set up before it meets worse ones.
    """
    clean = _compared(pairs, views, unit, dict.fromkeys(pairs.images))
    mixed = _compared(pairs, views, unit, {name: drawn_degradation(name, seed) for name in pairs.images})
    conditions = {AS_THEY_ARE: clean, HALF_DEGRADED: mixed}
    kinds = np.array([view.degradation.kind if view.degradation else "" for view in views])
    for kind in STRENGTHS:
        is_of_kind = np.isin(kinds, ("", kind))
        conditions[kind] = mixed.where(is_of_kind[mixed.row_a] & is_of_kind[mixed.row_b])
    wanted = [
        (condition, point)
        for point in operating_points(clean.distances, clean.same)
        for condition, compared in conditions.items()
        if compared.same.any()
    ]
    trials = []
    with Progress("discard", len(wanted), "trials") as progress:
        for condition, point in wanted:
            trials.append(discard_trial(condition, point, scores, conditions[condition]))
            progress.update(1)
    return tuple(trials)


def _compared(
    pairs: Pairs,
    views: Sequence[View],
    unit: Float64[np.ndarray, "views dim"],
    degradations: Mapping[str, Degradation | None],
) -> ComparedPairs:
    """All pairs, of each image the view by its name."""
    row_of = {view: row for row, view in enumerate(views)}
    a, b = (
        np.array([row_of[View(name, degradations[name])] for name in names]) for names in (pairs.names_a, pairs.names_b)
    )
    distances = np.linalg.norm(unit[a] - unit[b], axis=1)
    people = np.arange(len(pairs)) if pairs.people is None else pairs.people[0]
    return ComparedPairs(a, b, pairs.same, people, distances)


def operating_points(
    distances: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]
) -> tuple[OperatingPoint, ...]:
    """The thresholds that are tried: at bounds of the false match rate, and at the highest accuracy."""
    thresholds = {f"FMR {rate:g}": threshold_at(distances[~same], rate) for rate in FALSE_MATCH_RATES}
    thresholds[HIGHEST_ACCURACY] = best_threshold(distances, same)
    return tuple(OperatingPoint(name=name, threshold=value) for name, value in thresholds.items())
