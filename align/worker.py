"""What one worker does with the photos it is given: decode, detect, choose, warp, measure, encode.

Photos are looked at in batches, and which photos make a batch follows from the list of photos alone: products are
rounded according to the sizes of their factors, so that a face can differ in the last bit in other company, and a store
that was interrupted or shared among machines must not differ from one that was not.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from facegm.align.config import AlignConfig
from facegm.align.detector import DetectedFaces, FaceDetector
from facegm.align.face import (
    AlignedFace,
    align_face,
    alignment_residual,
    contrast,
    perceptual_hash,
    profile,
    resize_aligned,
    sharpness,
)
from facegm.align.found_face import BOX_DECIMALS, LANDMARK_DECIMALS, PROBABILITY_DECIMALS, QUALITY_DECIMALS
from facegm.align.networks import Runtime
from facegm.align.photo_job import Groups
from facegm.data.decoding import decode, decode_photo
from facegm.data.readers.photo import Photo
from facegm.data.readers.source import UnreadablePhotoError, photo_stamp, read_photo_bytes
from facegm.errors import FacegmError
from facegm.store.format import FaceRecord, encode_face

BATCH = 32
"""Photos that are looked at together at most."""
BATCH_PIXELS = 2**22
"""Pixels that are looked at together at most, so that memory is bounded; one larger photo is looked at alone."""
ALONE_PIXELS = 2**24
"""Pixels of a photo from which on no other is decoded while it is looked at, so that their memory does not add up."""


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
    faces: DetectedFaces | None = None


@dataclass(frozen=True, kw_only=True)
class AlignJob:
    """The alignment, as it travels to workers; see `facegm.align.photo_job.PhotoJob`."""

    config: AlignConfig
    runtime: Runtime
    """What computes the detector."""

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
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        self._config = config
        self._detector = None
        if not config.is_aligned:
            self._detector = FaceDetector(runtime, minimum_face=config.minimum_face, gpu=gpu)

    def process(self, groups: Groups) -> Iterator[list[Result]]:
        """Align groups of up to `BATCH` photos; yields the results of those looked at together, in the photos' order.

        Raises:
            FacegmError: the detector fails on every photo.
        """
        for batch in _made_ahead(_batches(groups)):
            yield list(self._align_batch(batch))

    def check(self) -> None:
        """Look at a plain grey picture of 48 megapixels: whoever cannot do that has too little memory for photos."""
        _, jpeg = cv2.imencode(".jpg", np.full((6000, 8000), 128, np.uint8))
        pixels = decode_photo(jpeg.tobytes())
        if self._detector is not None:
            self._detector.detect(pixels)

    def _align_batch(self, batch: list[_Decoded]) -> Iterator[Result]:
        if self._detector is not None:
            self._detect(self._detector, [photo for photo in batch if photo.pixels is not None])
        for photo in batch:
            try:
                record, face = self._finish(photo)
            except Exception as error:  # one odd photo must not end an alignment of half a million; its reason is kept
                record, face = _failed(photo.record, f"{type(error).__name__}: {error}"), None
            photo.pixels = None
            yield Result(record, face)

    def _detect(self, detector: FaceDetector, photos: list[_Decoded]) -> None:
        pixels = [photo.pixels for photo in photos if photo.pixels is not None]
        reason = ""
        try:
            found = detector.detect_batch(pixels)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        if reason and len(photos) > 1:  # so that the others do not suffer from the odd one
            for photo in photos:
                self._detect(detector, [photo])
            if all(photo.pixels is None for photo in photos):
                raise FacegmError(f"the detector fails on every photo: {reason}")
            return
        if reason:
            for photo in photos:
                photo.record, photo.pixels = _failed(photo.record, reason), None
            return
        for photo, faces in zip(photos, found, strict=True):
            photo.faces = faces

    def _finish(self, photo: _Decoded) -> tuple[FaceRecord, bytes | None]:
        if photo.pixels is None:
            return photo.record, None
        if photo.faces is None:
            face, record = resize_aligned(photo.pixels), photo.record
        else:
            crop, choice = self._config.on_missing == "center-crop", self._config.choice
            if photo.reduction > 1:
                choice = replace(choice, minimum_size=choice.minimum_size / photo.reduction)
            aligned = align_face(photo.pixels, photo.faces, choice, crop_when_missing=crop)
            record = _with_detection(photo.record, aligned, photo.reduction)
            if aligned.image is None:
                return record, None
            face = aligned.image
        return _with_quality(record, face), encode_face(face, self._config.store_format.encoding)


def _batches(groups: Sequence[Sequence[Photo]]) -> Iterator[list[_Decoded]]:
    """Decode the photos of each group, cut where they become too large to be looked at together."""
    for group in groups:
        batch: list[_Decoded] = []
        pixels = 0
        for photo in group:
            decoded = _decode(photo)
            size = 0 if decoded.pixels is None else decoded.pixels.size // 3
            if batch and pixels + size > BATCH_PIXELS:
                yield batch
                batch, pixels = [], 0
            batch.append(decoded)
            pixels += size
            del decoded  # a large photo must not live on while the next one is decoded
            if pixels >= BATCH_PIXELS:  # nor wait for it
                yield batch
                batch, pixels = [], 0
        if batch:
            yield batch


def _made_ahead(batches: Iterator[list[_Decoded]]) -> Iterator[list[_Decoded]]:
    """Yield batches while a thread makes the next one; never more than one ahead, so that memory is bounded."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            is_alone = sum(photo.pixels.size // 3 for photo in batch if photo.pixels is not None) > ALONE_PIXELS
            if not is_alone:
                coming = thread.submit(next, batches, None)
            yield batch
            del batch
            if is_alone:
                coming = thread.submit(next, batches, None)


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


def _with_detection(record: FaceRecord, aligned: AlignedFace, reduction: int) -> FaceRecord:
    record = replace(record, faces=aligned.faces, reason=aligned.reason)
    if aligned.box is None or aligned.landmarks is None:
        return replace(record, status="failed" if aligned.image is None else "center-crop")
    return replace(
        record,
        box=in_whole_photo(aligned.box, reduction).round(BOX_DECIMALS).tolist(),
        landmarks=in_whole_photo(aligned.landmarks, reduction).round(LANDMARK_DECIMALS).tolist(),
        probability=round(aligned.probability or 0.0, PROBABILITY_DECIMALS),
        residual=round(alignment_residual(aligned.landmarks), QUALITY_DECIMALS),
        profile=round(profile(aligned.landmarks), QUALITY_DECIMALS),
    )


def in_whole_photo(coordinates: Float[np.ndarray, "*shape"], reduction: int) -> Float[np.ndarray, "*shape"]:
    """Coordinates in pixels of the whole photo, of those in one whose sides were divided by `reduction`.

    Pixel centres lie at integers: x_whole = f (x_reduced + 1/2) - 1/2.
    """
    return reduction * (coordinates + 0.5) - 0.5 if reduction > 1 else coordinates


def _with_quality(record: FaceRecord, face: UInt8[np.ndarray, "128 128 3"]) -> FaceRecord:
    return replace(
        record,
        sharpness=round(sharpness(face), QUALITY_DECIMALS),
        contrast=round(contrast(face), QUALITY_DECIMALS),
        perceptual_hash=perceptual_hash(face),
    )
