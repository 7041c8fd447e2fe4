"""Faces that are aligned already, as insightface's sets are: read where they lie, after a look whether they are so."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from facegm.align.detector import FaceDetector
from facegm.align.face import FACE_SIZE, TEMPLATE, FaceChoice, resize_aligned
from facegm.data.decoding import decode_photo
from facegm.data.readers.photo import Photo, UnreadablePhotoError
from facegm.data.readers.source import find_photos, read_photo_bytes
from facegm.errors import FacegmError
from facegm.store.format import is_store
from facegm.store.reader import NO_IDENTITY, AlignedFaces, FaceStore

logger = logging.getLogger(__name__)
SAMPLE = 32
"""Faces that are looked at, evenly spaced over the source."""
LARGEST_DISTANCE = 10.0
"""Root mean square distance of a face's five landmarks from the template, in pixels of the 128x128 face, below which
the median of aligned faces stays.

Of 100 faces each that were aligned it is 4.3 (LFW) and 5.5 (CelebA); of raw photos of LFW and crops of CelebA 17; of
faces that were cut out along the detector's box 12. Funneled photos of LFW, cut to their middle half, pass with 8.
"""


class PrealignedFaces:
    """The photos of a source as aligned faces; see `facegm.store.reader.AlignedFaces`.

    Args:
        source: a folder tree, list, tar file, `.rec` or LMDB, as `facegm.data.readers.source` reads them; its faces lie
            on the usual five-point template, as insightface's do, at any size.
        identity_level: which folder of each names its identity, see `find_photos`.

    Raises:
        FacegmError: the source is missing or damaged, holds no photo, or its faces are not aligned.
    """

    def __init__(self, source: Path, *, identity_level: int = 1) -> None:
        self.folder = source
        found = find_photos(source, identity_level=identity_level)
        for remark in found.remarks:
            logger.warning(f"{source}: {remark}")
        self._photos = found.photos
        require_aligned(source, found.photos)
        self.settings: dict[str, Any] = {
            "source": str(source.resolve()),
            "size": FACE_SIZE,
            "color": "RGB",
            "template": TEMPLATE.tolist(),
            "detector": "none: aligned already",
        }

    @cached_property
    def keys(self) -> Sequence[str]:
        """Names of all photos."""
        return tuple(photo.key for photo in self._photos)

    def identities(self) -> tuple[Int64[np.ndarray, " photos"], Sequence[str]]:
        """Each photo's identity as its number, or `NO_IDENTITY`; and their names."""
        numbers: dict[str, int] = {}
        labels = [
            NO_IDENTITY if photo.identity is None else numbers.setdefault(photo.identity, len(numbers))
            for photo in self._photos
        ]
        return np.array(labels, np.int64), tuple(numbers)

    def read_face(self, row: int) -> UInt8[np.ndarray, "128 128 3"]:
        """Read one face: RGB, 0 to 255.

        Raises:
            FacegmError: the photo cannot be read, or is not square.
        """
        try:
            return _read(self._photos[row])
        except (UnreadablePhotoError, ValueError) as error:
            raise FacegmError(
                f"{self.folder}: {self._photos[row].key}: {error}; align photos by `facegm align`, which with --aligned"
                " makes a store of faces that are aligned already, without those that cannot be used"
            ) from error


def require_aligned(source: Path, photos: Sequence[Photo]) -> None:
    """Look at some faces of a source by the detector, and refuse them where they do not lie on the template.

    Raises:
        FacegmError: the median distance of their landmarks from the template is too large; it is named.
    """
    detector, looked_at = FaceDetector(), 0
    distances: list[float] = []
    for number in np.unique(np.linspace(0, len(photos) - 1, SAMPLE).astype(np.int64)).tolist():
        try:
            face = _read(photos[number])
        except (UnreadablePhotoError, ValueError):  # said where it is used
            continue
        looked_at += 1
        faces = detector.detect(face)
        chosen = FaceChoice().choose(faces, face.shape)
        if chosen is not None:
            distances.append(float(np.sqrt(((faces.landmarks[chosen] - TEMPLATE) ** 2).sum(axis=1).mean())))
    if not looked_at:
        raise FacegmError(
            f"{source}: none of the pictures that were looked at is a square face that can be read; align them: facegm "
            f"align {source} --output STORE"
        )
    if 2 * len(distances) < looked_at:
        logger.warning(
            f"{source}: the detector finds a face in {len(distances)} of {looked_at} pictures that were looked at; "
            "whether they are aligned faces cannot be told"
        )
    elif np.median(distances) > LARGEST_DISTANCE:
        raise FacegmError(
            f"{source}: these are not aligned faces: the landmarks of {len(distances)} that were looked at lie "
            f"{np.median(distances):.1f} pixels (median) from the template of {FACE_SIZE}x{FACE_SIZE}, of aligned ones "
            f"below {LARGEST_DISTANCE:g}; align them: facegm align {source} --output STORE"
        )


def _read(photo: Photo) -> UInt8[np.ndarray, "128 128 3"]:
    return resize_aligned(decode_photo(read_photo_bytes(photo)))


def open_aligned_faces(source: Path, *, is_aligned: bool, identity_level: int = 1) -> AlignedFaces:
    """A store, or photos that are aligned already.

    Args:
        source: where they lie.
        is_aligned: whether the photos of a source that is no store are said to be aligned.
        identity_level: which folder of such a photo names its identity, see `find_photos`.

    Raises:
        FacegmError: it is neither, or damaged.
    """
    if is_store(source):
        return FaceStore(source)
    if is_aligned:
        return PrealignedFaces(source, identity_level=identity_level)
    raise FacegmError(
        f"{source}: not a store of aligned faces; make one by `facegm align PHOTOS --output STORE`, or say "
        "data.aligned=true where this is a source of faces that are aligned already, as insightface's are"
    )
