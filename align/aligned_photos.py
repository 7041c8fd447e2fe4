"""Faces that are aligned already, read where they lie: training on them needs no store."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from facegm.align.face import FACE_SIZE, TEMPLATE, resize_aligned
from facegm.data.find_photos import find_photos
from facegm.data.photo_files import UnreadablePhotoError, read_photo_bytes
from facegm.data.photos import decode_photo
from facegm.data.store import AlignedFaces, FaceRecord, FaceStore, is_store
from facegm.errors import FacegmError


class AlignedPhotos:
    """The photos of a source as aligned faces; see `facegm.data.store.AlignedFaces`.

    They are taken to lie on the usual five-point template, as insightface's sets do, at any size.

    Args:
        source: a folder tree, list, tar file or `.rec`, as `facegm.data.find_photos` reads them.

    Raises:
        FacegmError: the source is missing or damaged, or holds no photo.
    """

    def __init__(self, source: Path) -> None:
        self.folder = source
        self._photos = {photo.key: photo for photo in find_photos(source)}
        self.records = {
            key: FaceRecord(key=key, identity=photo.identity, status="aligned") for key, photo in self._photos.items()
        }
        self.settings: dict[str, Any] = {
            "source": str(source.resolve()),
            "size": FACE_SIZE,
            "color": "RGB",
            "template": TEMPLATE.tolist(),
            "detector": "none: aligned already",
        }

    def read_face(self, key: str) -> UInt8[np.ndarray, "128 128 3"]:
        """Read one face: RGB, 0 to 255.

        Raises:
            FacegmError: the photo cannot be read, or is not square.
        """
        try:
            return resize_aligned(decode_photo(read_photo_bytes(self._photos[key])))
        except (UnreadablePhotoError, ValueError) as error:
            raise FacegmError(
                f"{self.folder}: {key}: {error}; align photos by `facegm align`, which with --aligned makes a store of "
                "faces that are aligned already, without those that cannot be used"
            ) from error


def open_aligned_faces(source: Path) -> AlignedFaces:
    """A store, or photos that are aligned already.

    Raises:
        FacegmError: it is neither, or damaged.
    """
    if is_store(source):
        return FaceStore(source)
    try:
        return AlignedPhotos(source)
    except FacegmError as error:
        if source.is_file():
            raise
        raise FacegmError(
            f"{source}: not a store of aligned faces; make one by `facegm align PHOTOS --output {source}`, or name "
            f"faces that are aligned already ({error})"
        ) from error
