"""The road from decoded photos to faces that alignment, embedder and server share: detect, choose, warp, measure.

Photos are looked at in batches, of which one is decoded while the one before is looked at. One odd photo does not spoil
its batch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import UInt8

from facegm.align.detector import DetectedFaces, FaceDetector
from facegm.align.face import FaceChoice, Subject, align_face, measured_faces
from facegm.align.found_face import Face
from facegm.data.ahead import made_ahead
from facegm.errors import FacegmError

BATCH = 32
"""Photos that are looked at together at most."""
BATCH_PIXELS = 2**22
"""Pixels that are looked at together at most, so that memory is bounded; one larger photo is looked at alone."""
ALONE_PIXELS = 2**24
"""Pixels of a photo from which on no other is decoded while it is looked at, so that their memory does not add up."""

Pixels = UInt8[np.ndarray, "height width 3"]


class Decoded(Protocol):
    """A photo that was to be decoded."""

    @property
    def pixels(self) -> Pixels | None:
        """RGB, 0 to 255, upright; None where it could not be decoded."""


class Trouble(NamedTuple):
    """What kept a photo from being looked at."""

    reason: str


DecodedT = TypeVar("DecodedT", bound=Decoded)
Found = TypeVar("Found")
Finish = Callable[[Pixels, DetectedFaces, int], Found]


class FaceFinder:
    """Finds faces in photos, all of them or the subject's alone, aligned and measured.

    Args:
        detector: on whatever computes it.
    """

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector

    def find(self, photos: Sequence[Pixels], reductions: Sequence[int]) -> list[tuple[Face, ...] | Trouble]:
        """All faces of each photo, the subject (see `FaceChoice`) first, the others in the same order of prominence.

        Args:
            photos: RGB, 0 to 255, upright.
            reductions: by how much each photo's sides were divided when it was decoded.

        Raises:
            FacegmError: the detector fails on each of several photos.
        """
        return self._look_at(photos, reductions, _all_faces)

    def align(
        self, photos: Sequence[Pixels], reductions: Sequence[int], choice: FaceChoice, *, crop_when_missing: bool
    ) -> list[Subject | Trouble]:
        """The subject of each photo; see `find`.

        Args:
            photos: RGB, 0 to 255, upright.
            reductions: by how much each photo's sides were divided when it was decoded.
            choice: which face is the subject; sizes are in pixels of the whole photo.
            crop_when_missing: take the photo's middle where there is no face.

        Raises:
            FacegmError: the detector fails on each of several photos.
        """

        def subject(photo: Pixels, faces: DetectedFaces, reduction: int) -> Subject:
            scaled = replace(choice, minimum_size=choice.minimum_size / reduction)
            return align_face(photo, faces, scaled, crop_when_missing=crop_when_missing, reduction=reduction)

        return self._look_at(photos, reductions, subject)

    def _look_at(
        self, photos: Sequence[Pixels], reductions: Sequence[int], finish: Finish[Found]
    ) -> list[Found | Trouble]:
        found: list[Found | Trouble] = []
        for photo, reduction, faces in zip(photos, reductions, self._detected(photos), strict=True):
            if isinstance(faces, Trouble):
                found.append(faces)
                continue
            try:
                found.append(finish(photo, faces, reduction))
            except Exception as error:  # one odd photo must not end the work on half a million
                found.append(_trouble(error))
        return found

    def _detected(self, photos: Sequence[Pixels]) -> list[DetectedFaces | Trouble]:
        try:
            return [*self._detector.detect_batch(photos)]
        except Exception as error:
            trouble = _trouble(error)
        if len(photos) < 2:
            return [trouble] * len(photos)
        alone = [self._detected([photo])[0] for photo in photos]  # so that the others do not suffer from the odd one
        if all(isinstance(faces, Trouble) for faces in alone):
            raise FacegmError(f"the detector fails on every photo: {trouble.reason}")
        return alone


def _all_faces(photo: Pixels, faces: DetectedFaces, reduction: int) -> tuple[Face, ...]:
    """The subject first."""
    return tuple(measured_faces(photo, faces, FaceChoice().ranked(faces, photo.shape), reduction))


def batches(photos: Iterable[DecodedT]) -> Iterator[list[DecodedT]]:
    """Put photos together as they are decoded, cut where they become too many or too large to be looked at together."""
    batch: list[DecodedT] = []
    pixels = 0
    for photo in photos:
        size = _size(photo)
        if batch and pixels + size > BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
        batch.append(photo)
        pixels += size
        del photo  # a large one must not live on while the next one is decoded
        if pixels >= BATCH_PIXELS or len(batch) == BATCH:  # nor wait for it
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def decoded_ahead(batched: Iterator[list[DecodedT]]) -> Iterator[list[DecodedT]]:
    """Yield batches while a thread decodes the next one, but for those of very large photos."""
    return made_ahead(batched, is_alone=is_alone)


def is_alone(batch: Sequence[Decoded]) -> bool:
    """Whether a batch is so large that nothing else must be decoded or looked at meanwhile."""
    return sum(map(_size, batch)) > ALONE_PIXELS


def _size(photo: Decoded) -> int:
    return 0 if photo.pixels is None else photo.pixels.size // 3


def _trouble(error: Exception) -> Trouble:
    return Trouble(f"{type(error).__name__}: {error}")
