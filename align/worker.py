"""What one worker does with the photos it is given: decode, detect, choose, warp, measure, encode.

Photos are looked at in batches, and which photos make a batch follows from the list of photos alone: products are
rounded according to the sizes of their factors, so that a face can differ in the last bit in other company, and a store
that was interrupted or shared among machines must not differ from one that was not.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from facegm.align.config import AlignConfig
from facegm.align.detector import FaceDetector
from facegm.align.face import Subject, contrast, perceptual_hash, resize_aligned, sharpness
from facegm.align.finder import FaceFinder, Trouble, batches, decoded_ahead
from facegm.align.found_face import BOX_DECIMALS, LANDMARK_DECIMALS, PROBABILITY_DECIMALS, QUALITY_DECIMALS
from facegm.align.networks import Runtime
from facegm.align.photo_job import Groups, make_worker
from facegm.data.decoding import decode, decode_photo
from facegm.data.readers.photo import Photo
from facegm.data.readers.source import UnreadablePhotoError, photo_stamp, read_photo_bytes
from facegm.store.format import FaceRecord, encode_face


class Result(NamedTuple):
    """What became of a photo."""

    record: FaceRecord
    face: bytes | None
    """The encoded face, if there is one."""


@dataclass
class _Decoded:
    record: FaceRecord
    pixels: UInt8[np.ndarray, "height width 3"] | None
    reduction: int = 1
    """By how much the photo's sides were divided when it was decoded."""
    subject: Subject | Trouble | None = None
    """What was found; None before it was looked at, and of faces that are aligned already."""


@dataclass(frozen=True, kw_only=True)
class AlignJob:
    """The alignment, as it travels to workers; see `facegm.align.photo_job.PhotoJob`."""

    config: AlignConfig
    runtime: Runtime
    """What computes the detector."""

    @property
    def uses_gpu(self) -> bool:
        """See `PhotoJob`."""
        return self.runtime == "cuda"

    def begin(self, gpu: int) -> "Aligner":
        """See `PhotoJob`."""
        return Aligner(self.config, self.runtime, gpu)

    def lost(self, photo: Photo) -> Result:
        """See `PhotoJob`."""
        return Result(_failed(new_record(photo), "killed the worker"), None)


class Aligner:
    """Aligns photos in this process, on one thread beside the one that decodes ahead.

    Args:
        config: the options.
        runtime: what computes the detector.
        gpu: number of the GPU that does, where one does.

    Raises:
        FacegmError: what computes the detector is not there.
    """

    def __init__(self, config: AlignConfig, runtime: Runtime, gpu: int = 0) -> None:
        make_worker()
        self._config = config
        self._finder = None
        if not config.is_aligned:
            self._finder = FaceFinder(FaceDetector(runtime, minimum_face=config.minimum_face, gpu=gpu))

    def process(self, groups: Groups) -> Iterator[list[Result]]:
        """Align groups of up to `BATCH` photos; yields the results of those looked at together, in the photos' order.

        Raises:
            FacegmError: the detector fails on every photo.
        """
        cut = chain.from_iterable(batches(map(_decode, group)) for group in groups)
        for batch in decoded_ahead(cut):
            yield list(self._align_batch(batch))

    def check(self) -> None:
        """Look at a plain grey picture of 48 megapixels: whoever cannot do that has too little memory for photos."""
        _, jpeg = cv2.imencode(".jpg", np.full((6000, 8000), 128, np.uint8))
        pixels = decode_photo(jpeg.tobytes())
        if self._finder is not None:
            [found] = self._finder.find([pixels], [1])
            if isinstance(found, Trouble):
                raise RuntimeError(found.reason)

    def _align_batch(self, batch: list[_Decoded]) -> Iterator[Result]:
        if self._finder is not None:
            self._find(self._finder, [photo for photo in batch if photo.pixels is not None])
        for photo in batch:
            try:
                record, face = self._finish(photo)
            except Exception as error:  # one odd photo must not end an alignment of half a million; its reason is kept
                record, face = _failed(photo.record, f"{type(error).__name__}: {error}"), None
            photo.pixels = None
            yield Result(record, face)

    def _find(self, finder: FaceFinder, photos: list[_Decoded]) -> None:
        subjects = finder.align(
            [photo.pixels for photo in photos if photo.pixels is not None],
            [photo.reduction for photo in photos],
            self._config.choice,
            crop_when_missing=self._config.on_missing == "center-crop",
        )
        for photo, subject in zip(photos, subjects, strict=True):
            photo.subject = subject

    def _finish(self, photo: _Decoded) -> tuple[FaceRecord, bytes | None]:
        if photo.pixels is None:
            return photo.record, None
        if isinstance(photo.subject, Trouble):
            return _failed(photo.record, photo.subject.reason), None
        if photo.subject is None:  # aligned already
            chip, record = resize_aligned(photo.pixels), photo.record
        else:
            record = _with_detection(photo.record, photo.subject)
            if photo.subject.image is None:
                return record, None
            chip = photo.subject.image
        return _with_quality(record, chip), encode_face(chip, self._config.store_format.encoding)


def _decode(photo: Photo) -> _Decoded:
    record = new_record(photo)
    pixels, reduction = None, 1
    try:
        data = read_photo_bytes(photo)
        record = replace(record, digest=hashlib.sha256(data).hexdigest())
        pixels, reduction = decode(data)
    except UnreadablePhotoError as error:
        record = _failed(record, str(error))
    except Exception as error:
        record = _failed(record, f"{type(error).__name__}: {error}")
    return _Decoded(record, pixels, reduction)


def new_record(photo: Photo) -> FaceRecord:
    """The record of a photo that has not been read yet: its names, and by what one sees whether it has changed."""
    photo_bytes, photo_modified_ns = photo_stamp(photo) or (None, None)
    return FaceRecord(
        key=photo.key,
        identity=photo.identity,
        status="aligned",
        photo_bytes=photo_bytes,
        photo_modified_ns=photo_modified_ns,
    )


def _failed(record: FaceRecord, reason: str) -> FaceRecord:
    return replace(record, status="failed", reason=reason)


def _with_detection(record: FaceRecord, subject: Subject) -> FaceRecord:
    record = replace(record, faces=subject.faces, reason=subject.reason)
    face = subject.face
    if face is None:
        return replace(record, status="failed" if subject.image is None else "center-crop")
    return replace(
        record,
        box=face.box.round(BOX_DECIMALS).tolist(),
        landmarks=face.landmarks.round(LANDMARK_DECIMALS).tolist(),
        probability=round(face.probability, PROBABILITY_DECIMALS),
        residual=round(face.quality.residual, QUALITY_DECIMALS),
        profile=round(face.quality.profile, QUALITY_DECIMALS),
    )


def _with_quality(record: FaceRecord, chip: UInt8[np.ndarray, "128 128 3"]) -> FaceRecord:
    return replace(
        record,
        sharpness=round(sharpness(chip), QUALITY_DECIMALS),
        contrast=round(contrast(chip), QUALITY_DECIMALS),
        perceptual_hash=perceptual_hash(chip),
    )
