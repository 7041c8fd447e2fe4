"""Embeddings in, verification report out: every score of the protocol on every pair, joined by image name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, UInt8

from facegm.errors import FacegmError
from facegm.eval.baseline import raw_pixels
from facegm.eval.calibration import CalibrationReport, calibrate
from facegm.eval.embedding_map import EmbeddingMap, embedding_map
from facegm.eval.error_rates import OperatingPoint, operating_point
from facegm.eval.groups import Attributes, GroupResult, group_results, ungrouped_images
from facegm.eval.intervals import Intervals, bootstrap_intervals
from facegm.eval.metrics import Roc, TrueAcceptRate, roc, true_accept_rate
from facegm.eval.missing import DroppedPairs
from facegm.eval.pairs import Pairs
from facegm.eval.plda import Plda
from facegm.eval.protocol import Verification, verify
from facegm.eval.provenance import Provenance
from facegm.eval.scores import PCA_64, STANDARD_VARIANTS, Cosine, FittedPlda, FoldPlda, Score

FALSE_ACCEPT_BOUNDS = (1e-1, 1e-2, 1e-3)

FaceOf = Callable[[str], UInt8[np.ndarray, "height width 3"]]
"""Gives the aligned face (RGB, 0 to 255) of an image name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationReport:
    """All results of one model on one set of pairs."""

    pairs: Pairs
    verifications: tuple[Verification, ...]
    """All scores, the primary one first."""
    not_scored: tuple[tuple[str, str], ...] = ()
    """Scores that these pairs do not allow, each with the reason."""
    baseline: Verification | None
    """Raw pixels in place of embeddings, under the primary score; None where no faces were given."""
    calibrations: tuple[CalibrationReport, ...]
    """Of each score, in the order of `verifications`."""
    intervals: Intervals
    """Of the primary score's figures."""
    dropped: DroppedPairs | None = None
    """Pairs of the set that are not among `pairs`; None where all are."""
    fallback_images: tuple[str, ...] = ()
    """Images of the pairs whose face was not found, so that a fallback crop was scored."""
    groups: tuple[GroupResult, ...] = ()
    """Results by group under the primary score; none where no attributes were given."""
    images_without_attributes: int | None = None
    """Images of the pairs of which the attributes say nothing; None where none were given."""
    map: EmbeddingMap | None = None
    """Some people's images in the plane; None where nobody knows who has several."""
    provenance: Provenance = field(default_factory=Provenance)
    """Where the embeddings come from."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the caller tells about model and run, shown as it is."""
    note: str = ""
    """One line that readers must see beside the numbers, such as `synthetic identities`."""

    @property
    def primary(self) -> Verification:
        """The score whose accuracy is the headline."""
        return self.verifications[0]

    @property
    def people(self) -> int | None:
        """Number of people on the pairs; None where nobody knows who is on them."""
        return None if self.pairs.people is None else len(np.unique(np.concatenate(self.pairs.people)))

    @cached_property
    def acquired(self) -> Bool[np.ndarray, " pairs"]:
        """True where the faces of both images were found."""
        fallback = {*self.fallback_images}
        sides = zip(self.pairs.names_a, self.pairs.names_b, strict=True)
        return np.array([a not in fallback and b not in fallback for a, b in sides])

    @property
    def accepted(self) -> Bool[np.ndarray, " pairs"]:
        """Pairs that the primary score calls the same person, each by the threshold of its fold."""
        return np.asarray(self.primary.distances < self.primary.fold_threshold[self.pairs.fold])

    @cached_property
    def operating_point(self) -> OperatingPoint:
        """Errors of the primary score, each pair judged by the threshold of its fold."""
        thresholds = self.primary.fold_threshold[self.pairs.fold]
        return operating_point(self.primary.distances, self.pairs.same, thresholds, self.acquired)

    def roc(self) -> Roc:
        """ROC of the primary score's out-of-fold distances."""
        return roc(self.primary.distances, self.pairs.same)

    def true_accept_rates(self) -> tuple[TrueAcceptRate, ...]:
        """TAR of the primary score at each false accept rate of the protocol."""
        return tuple(true_accept_rate(self.primary.distances, self.pairs.same, far) for far in FALSE_ACCEPT_BOUNDS)

    def summary(self) -> str:
        """The results as a few lines of plain text."""
        rows = [*self.verifications, *([] if self.baseline is None else [self.baseline])]
        curve, intervals = self.roc(), self.intervals
        lines = [
            f"{len(self.pairs):,} pairs in {len(self.primary.fold_accuracy)} folds, {len(self.pairs.images):,} images, "
            f"{len(self.fallback_images):,} of them fallback crops",
            *(f"  {row.variant.name:<32} {row.accuracy:8.2%} ± {row.standard_error:.2%}" for row in rows),
            f"{self.primary.variant.name}: accuracy {intervals.accuracy[0]:.2%} to {intervals.accuracy[1]:.2%} (95 %, "
            f"bootstrap of {intervals.unit}), AUC {curve.area:.4f}, EER {curve.equal_error_rate:.2%}, "
            f"oracle accuracy {self.primary.oracle_accuracy:.2%}",
            f"  FMR {self.operating_point.false_match}, FNMR {self.operating_point.false_non_match}",
            *(f"  TAR at FAR {rate.false_accept_bound:g}: {rate}" for rate in self.true_accept_rates()),
        ]
        warnings = ["" if self.dropped is None else self.dropped.describe(), self.note]
        return "\n".join([*lines, *(f"Note: {warning}" for warning in warnings if warning)])


def evaluate(
    pairs: Pairs,
    names: Sequence[str],
    embeddings: Float[np.ndarray, "images dim"],
    *,
    face_of: FaceOf | None = None,
    dropped: DroppedPairs | None = None,
    fallback_images: Sequence[str] = (),
    plda: Plda | None = None,
    attributes: Attributes | None = None,
    provenance: Provenance | None = None,
    facts: Mapping[str, str] | None = None,
    note: str = "",
) -> VerificationReport:
    """Run every score, and the raw-pixel baseline, on all pairs.

    Args:
        pairs: the pairs and their folds; each of them is scored.
        names: image name of every embedding, in the pairs' spelling and any order; images in no pair may be among them.
        embeddings: one row per name, mirror images already summed, not normalised.
        face_of: aligned face of an image name; None leaves the raw-pixel baseline out.
        dropped: what of the set is not among the pairs, for want of images.
        fallback_images: images whose face was not found and that were cropped in another way.
        plda: fitted on embeddings of other people by the same network, such as the training identities.
        attributes: of images or people, for results by group.
        provenance: where the embeddings come from.
        facts: what to say about model and run.
        note: one line to show beside the numbers.

    Raises:
        FacegmError: images of the pairs have no embedding, a name comes twice, `verify` finds fault, or the attributes
            know none of the images.
    """
    row_a, row_b = rows_of_pairs(pairs, names, len(embeddings))
    left, right = embeddings[row_a], embeddings[row_b]

    def scored(score: Score) -> Verification:
        return verify(left, right, pairs.same, pairs.fold, variant=score)

    verifications = [scored(score) for score in (*STANDARD_VARIANTS, Cosine())]
    not_scored = []
    if pairs.people is None:
        not_scored.append((FoldPlda.name, "the names do not say who is on the pairs"))
    else:
        try:
            verifications.append(scored(FoldPlda(*pairs.people)))
        except FacegmError as error:  # of few people
            not_scored.append((FoldPlda.name, str(error)))
    if plda is not None:
        verifications.append(scored(FittedPlda(plda)))
    report = VerificationReport(
        pairs=pairs,
        verifications=tuple(verifications),
        not_scored=tuple(not_scored),
        baseline=None if face_of is None else _baseline(pairs, face_of),
        calibrations=tuple(calibrate(one.distances, pairs.same, pairs.fold) for one in verifications),
        intervals=bootstrap_intervals(pairs, verifications[0]),
        dropped=dropped,
        fallback_images=tuple(sorted({*fallback_images} & {*pairs.images})),
        map=None if pairs.people is None else embedding_map(*_once(pairs.images, names, embeddings)),
        provenance=provenance or Provenance(),
        facts=dict(facts or {}),
        note=note,
    )
    if attributes is None:
        return report
    return replace(
        report,
        groups=group_results(pairs, report.accepted, attributes),
        images_without_attributes=len(ungrouped_images(pairs, attributes)),
    )


def _once(
    images: Sequence[str], names: Sequence[str], embeddings: Float[np.ndarray, "images dim"]
) -> tuple[Sequence[str], Float[np.ndarray, "chosen dim"]]:
    """The images that the pairs name, with their embeddings."""
    row_of = {name: row for row, name in enumerate(names)}
    return images, embeddings[[row_of[name] for name in images]]


def rows_of_pairs(pairs: Pairs, names: Sequence[str], embeddings: int) -> tuple[list[int], list[int]]:
    """Row of every pair's left and right image, found by name.

    Args:
        pairs: the pairs.
        names: image name of every embedding.
        embeddings: number of embeddings.

    Raises:
        FacegmError: images of the pairs have no embedding, or a name comes twice.
    """
    row_of = {name: row for row, name in enumerate(names)}
    if len(names) != embeddings or len(row_of) != len(names):
        raise FacegmError(
            f"embeddings: {embeddings} rows for {len(names)} names, {len(row_of)} of them distinct; "
            "expected one row for each name"
        )
    missing = [image for image in pairs.images if image not in row_of]
    if missing:
        raise FacegmError(
            f"embeddings: {len(missing)} of the {len(pairs.images)} images that the pairs name have none: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; every pair must be scored"
        )
    return [row_of[name] for name in pairs.names_a], [row_of[name] for name in pairs.names_b]


def _baseline(pairs: Pairs, face_of: FaceOf) -> Verification:
    """Score raw pixels as the primary score does embeddings."""
    images = pairs.images
    pixels = np.concatenate([raw_pixels(face_of(image)[None]) for image in images])
    row_a, row_b = rows_of_pairs(pairs, images, len(pixels))
    variant = replace(PCA_64, name="raw grey pixels 32x32, PCA 64")
    return verify(pixels[row_a], pixels[row_b], pairs.same, pairs.fold, variant=variant)
