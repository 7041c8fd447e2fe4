"""Two photos, the face of each, and what their distance says."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegm.align.found_face import Face
from facegm.embedding.calibration import Calibration
from facegm.embedding.comparison import Comparison, FacePolicy
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.photo_faces import chosen_faces


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedPhoto:
    """A photo, and the face in it that was compared."""

    path: Path
    size: tuple[int, int]
    """Width and height of the whole upright photo, in pixels."""
    faces: tuple[Face, ...]
    """All that were found, the largest central one first."""
    chosen: int
    """Number of the one that was compared."""

    @property
    def face(self) -> Face:
        """The one that was compared."""
        return self.faces[self.chosen]

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        width, height = self.size
        faces = [face.to_json() for face in self.faces]
        return {"path": str(self.path), "width": width, "height": height, "faces": faces, "chosen": self.chosen}


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """The comparison of two photos."""

    a: MatchedPhoto
    b: MatchedPhoto
    comparison: Comparison
    prior: float
    """Probability that both show one person, before they are looked at."""
    calibration: Calibration | None
    """The model's."""

    @property
    def verdict(self) -> str:
        """In words: whether the distance is below the threshold, which is as strict as its false-match rate wants."""
        return {True: "match", False: "no match", None: "no verdict"}[self.comparison.same]

    @property
    def false_match_rate(self) -> float | None:
        """The rate that the calibration has the threshold for; None where it is another's threshold."""
        thresholds = () if self.calibration is None else self.calibration.thresholds
        rates = [found.false_match_rate for found in thresholds if found.threshold == self.comparison.threshold]
        return rates[0] if rates else None

    def lines(self) -> Iterator[str]:
        """What is to be said of it, in words, a line each."""
        found = self.comparison
        if found.threshold is None:
            yield (
                f"distance {found.distance:.4f}, from 0 to 2; the model carries no threshold: calibrate it by `facegm "
                "verify --calibrate`, or give --threshold"
            )
        else:
            yield f"distance {found.distance:.4f}, from 0 to 2; a match is below {found.threshold:.4f}"
        if self.calibration is not None and self.false_match_rate is not None:
            yield (
                f"at this threshold {self.false_match_rate:g} of the pairs of different people match, as measured on "
                f"{self.calibration.different:,} of {self.calibration.measured_on}"
            )
        if found.probability is not None:
            strict = found.same is False and found.probability > 0.5
            yield (
                f"probability that it is one person: {found.probability:.4f}, where {self.prior:g} of pairs are"
                + ("; more likely than not, and not sure enough for this threshold" if strict else "")
            )
        for photo in (self.a, self.b):
            others = f" {photo.chosen} of {len(photo.faces)}, counted from 0," if len(photo.faces) > 1 else ""
            box = ", ".join(f"{side:.0f}" for side in photo.face.box)
            yield f"{photo.path}: face{others} at {box}, detected with probability {photo.face.probability:.3f}"
            if photo.face.is_abnormal:
                yield f"{photo.path}: unlike the faces that the model was trained on; distrust the verdict"

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "distance": self.comparison.distance,
            "same": self.comparison.same,
            "threshold": self.comparison.threshold,
            "false_match_rate": self.false_match_rate,
            "probability": self.comparison.probability,
            "prior": self.prior,
            "a": self.a.to_json(),
            "b": self.b.to_json(),
        }


def match_photos(
    embedder: FaceEmbedder,
    photo_a: Path,
    photo_b: Path,
    *,
    policy: FacePolicy = "largest-central",
    threshold: float | None = None,
    false_match_rate: float | None = None,
    prior: float = 0.5,
) -> Match:
    """Compare the faces of two photos; see `FaceEmbedder.verify`.

    Args:
        embedder: what finds and embeds them.
        photo_a: a photo's file.
        photo_b: the other's.
        policy: which of several faces of a photo is compared.
        threshold: distance below which both count as one person's.
        false_match_rate: in place of a threshold, one that the model was calibrated for.
        prior: probability that both show one person, before they are looked at.

    Raises:
        RefusedPhotoError: a photo that cannot be read, or shows no face, or several where the policy wants one.
        FacegmError: see `FaceEmbedder.compare`.
    """
    a, b = _matched(embedder, [photo_a, photo_b], policy)
    comparison = embedder.compare(a.face, b.face, threshold=threshold, false_match_rate=false_match_rate, prior=prior)
    return Match(a=a, b=b, comparison=comparison, prior=prior, calibration=embedder.calibration)


def _matched(embedder: FaceEmbedder, photos: list[Path], policy: FacePolicy) -> list[MatchedPhoto]:
    found, matched = [*embedder.find_batch(photos)], list[MatchedPhoto]()
    for path, photo, chosen in zip(photos, found, chosen_faces(found, policy), strict=True):
        assert photo.size is not None, "it was looked at"
        matched.append(MatchedPhoto(path=path, size=photo.size, faces=photo.faces, chosen=chosen))
    return matched
