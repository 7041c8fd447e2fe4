"""Photos to names: whom of a gallery each face is like."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facegm.align.found_face import Face
from facegm.data.names import escaped
from facegm.data.progress import Progress
from facegm.embedding.comparison import Comparison, FacePolicy, compared
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.reasons import Reason
from facegm.gallery.gallery import Gallery
from facegm.gallery.rules import Match

TOGETHER = 32
"""Photos that are looked at together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceMatches:
    """A face, and the people it is like."""

    face: Face
    matches: tuple[tuple[Match, Comparison], ...]
    """Nearest first; none of an empty gallery."""

    @property
    def name(self) -> str | None:
        """Whose face it is: the nearest person's, if below the threshold; None for nobody's, or without a threshold."""
        return next((match.name for match, comparison in self.matches[:1] if comparison.same), None)

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return self.face.to_json() | {
            "name": self.name,
            "matches": [
                {
                    "name": match.name,
                    "sample": match.sample_id,
                    "distance": match.distance,
                    "same": comparison.same,
                    "probability": comparison.probability,
                }
                for match, comparison in self.matches
            ],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoMatches:
    """What was found of a photo."""

    photo: str
    faces: tuple[FaceMatches, ...]
    """The subject first, the largest central one; where a policy chooses, the one it has chosen."""
    reason: Reason | None
    """Why there is none; None where the photo was looked at, which may show no face."""
    message: str
    """The reason in words."""

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "photo": self.photo,
            "faces": [face.to_json() for face in self.faces],
            "reason": None if self.reason is None else self.reason.value,
            "message": self.message,
        }


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How photos are searched for."""

    k: int = 5
    """People that each face is compared with: the nearest."""
    policy: FacePolicy | Literal["all"] = "all"
    """Which of several faces of a photo."""
    threshold: float | None = None
    """Distance below which a face counts as a person's; None for the model's own."""
    false_match_rate: float | None = None
    """In place of a threshold, one of the rates that the model's calibration has one for."""
    prior: float = 0.5
    """Probability that a face is that of the person it is compared with, before they are looked at."""


def search_photos(
    photos: Sequence[Path], gallery: Gallery, embedder: FaceEmbedder, config: SearchConfig
) -> Iterator[PhotoMatches]:
    """Search a gallery for the faces of photos, in the photos' order.

    Args:
        photos: paths.
        gallery: of the embedder's contract.
        embedder: finds and embeds the faces; its calibration gives the probabilities.
        config: how.

    Raises:
        FacegmError: a threshold and a rate, a rate that was not measured, or a gallery that cannot be read.
    """
    with Progress("search", len(photos), "photos") as progress:
        for start in range(0, len(photos), TOGETHER):
            group = photos[start : start + TOGETHER]
            yield from _matches(group, gallery, embedder, config)
            progress.update(len(group))


def _matches(
    photos: Sequence[Path], gallery: Gallery, embedder: FaceEmbedder, config: SearchConfig
) -> Iterator[PhotoMatches]:
    looked_at = list(embedder.find_batch(photos, policy=config.policy))
    embeddings = [face.embedding for found in looked_at for face in found.faces]
    nearest = iter(gallery.search(np.array(embeddings).reshape(-1, embedder.dim), k=config.k))
    for photo, found in zip(photos, looked_at, strict=True):
        faces = [
            FaceMatches(
                face=face, matches=tuple((match, _compared(match, embedder, config)) for match in next(nearest))
            )
            for face in found.faces
        ]
        yield PhotoMatches(photo=escaped(str(photo)), faces=tuple(faces), reason=found.reason, message=found.message)


def _compared(match: Match, embedder: FaceEmbedder, config: SearchConfig) -> Comparison:
    return compared(
        match.distance,
        embedder.calibration,
        threshold=config.threshold,
        false_match_rate=config.false_match_rate,
        prior=config.prior,
    )
