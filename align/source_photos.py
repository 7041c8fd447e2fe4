"""The photos that a store was made from, as far as they are still there."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from facegm.data.decoding import decode_photo, read_photo
from facegm.data.readers import lmdb
from facegm.data.readers.source import Photo, UnreadablePhotoError, find_photos, read_photo_bytes
from facegm.errors import FacegmError

THUMBNAIL_SIDE = 128
"""Longer side of a thumbnail in pixels."""


class SourcePhotos:
    """Finds a store's photos through the `source` that its settings name.

    Args:
        settings: the store's.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._source = Path(settings["source"]) if "source" in settings else None

    def thumbnail(self, key: str) -> UInt8[np.ndarray, "height width 3"]:
        """Read a photo and shrink it: RGB, 0 to 255.

        Raises:
            UnreadablePhotoError: the photo cannot be found or decoded.
        """
        photo = self._read(key)
        height, width = photo.shape[:2]
        shrink = THUMBNAIL_SIDE / max(height, width)
        if shrink >= 1:
            return photo
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _read(self, key: str) -> UInt8[np.ndarray, "height width 3"]:
        if self._source is None:
            raise UnreadablePhotoError("the store does not name its source")
        path = self._source / key
        # Of all sources a tree alone has the photo's folder, and listing it would take long.
        if os.path.isdir(path.parent) and not lmdb.recognizes(self._source):
            return read_photo(path)
        if key not in self._listed:
            raise UnreadablePhotoError("no longer in the source")
        return decode_photo(read_photo_bytes(self._listed[key]))

    @cached_property
    def _listed(self) -> dict[str, Photo]:
        assert self._source is not None
        try:
            return {photo.key: photo for photo in find_photos(self._source).photos}
        except FacegmError:  # the source has changed since, beyond reading
            return {}
