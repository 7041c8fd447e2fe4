"""Two faces compared: their distance, and what the model's calibration says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from facegm.align.found_face import Face
from facegm.embedding.calibration import Calibration
from facegm.embedding.reasons import Reason, RefusedPhotoError
from facegm.errors import FacegmError, UsageError

FacePolicy = Literal["largest-central", "largest", "only"]
"""Which of several faces is meant: the largest central one (see `facegm.align.face.FaceChoice`), the largest one, or
the only one, where several are refused."""
USUAL_FALSE_MATCH_RATE = 1e-3
"""Of the threshold that is taken where none is asked for."""
SAME_TO_ROUNDING = 1e-6
"""Distance up to which two embeddings are one."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of two faces."""

    distance: float
    """L2 distance (not squared) of the normalised embeddings, 0 to 2."""
    same: bool | None
    """Whether the distance is below the threshold; None without one."""
    threshold: float | None
    """The distance below which two faces count as one person's; None where none was given and the embedder has not been
    calibrated."""
    probability: float | None
    """That both are of one person, at the given prior; None where the embedder has not been calibrated."""


def compared(
    distance: float,
    calibration: Calibration | None,
    *,
    threshold: float | None,
    false_match_rate: float | None,
    prior: float,
) -> Comparison:
    """What a distance says.

    Args:
        distance: L2 distance of the normalised embeddings.
        calibration: the embedder's.
        threshold: see `applied_threshold`.
        false_match_rate: likewise.
        prior: probability that two faces are of one person, before they are looked at.

    Raises:
        FacegmError: a threshold and a false-match rate, a rate that was not measured, or no probability for a prior.
    """
    threshold = applied_threshold(calibration, threshold=threshold, false_match_rate=false_match_rate)
    return Comparison(
        distance=distance,
        same=None if threshold is None else distance < threshold,
        threshold=threshold,
        probability=None if calibration is None else calibration.probability(distance, prior=prior),
    )


def applied_threshold(
    calibration: Calibration | None, *, threshold: float | None = None, false_match_rate: float | None = None
) -> float | None:
    """The distance below which two faces count as one person's; None where nothing says it.

    Args:
        calibration: the embedder's.
        threshold: the distance itself.
        false_match_rate: in its place, one of the rates that the calibration has a threshold for. With neither, its
            `usual_threshold` is taken.

    Raises:
        FacegmError: a threshold and a false-match rate, or a rate that was not measured.
    """
    if false_match_rate is None:
        return usual_threshold(calibration) if threshold is None else threshold
    if threshold is not None:
        raise FacegmError("a threshold or a false-match rate, not both")
    if calibration is None:
        raise FacegmError("false-match rate: this embedder has not been calibrated; give a threshold")
    return calibration.threshold_at(false_match_rate)


def usual_threshold(calibration: Calibration | None) -> float | None:
    """That of a false-match rate of 0.001, or else of the smallest one; None where no rate was measured."""
    by_rate = {} if calibration is None else {of.false_match_rate: of.threshold for of in calibration.thresholds}
    if not by_rate:
        return None
    return by_rate.get(USUAL_FALSE_MATCH_RATE, by_rate[min(by_rate)])


def chosen_face(faces: Sequence[Face], policy: FacePolicy) -> int:
    """Which of a photo's faces is meant.

    Args:
        faces: the largest central one first, as `FaceEmbedder.find` gives them.
        policy: the rule.

    Raises:
        RefusedPhotoError: there is none, or there are several where only one may be.
        UsageError: no such policy.
    """
    if policy not in get_args(FacePolicy):
        raise UsageError(f"policy {policy!r}: take one of {', '.join(get_args(FacePolicy))}")
    if not faces:
        raise RefusedPhotoError(Reason.NO_FACE, "no face found")
    if policy == "only" and len(faces) > 1:
        raise RefusedPhotoError(
            Reason.SEVERAL_FACES,
            f"{len(faces)} faces, where there must be only one; cut the photo, or take the policy largest-central",
        )
    return int(np.argmax([_area(face) for face in faces])) if policy == "largest" else 0


def _area(face: Face) -> float:
    left, top, right, bottom = face.box
    return float((right - left) * (bottom - top))
