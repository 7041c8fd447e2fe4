"""What a worker does with the photos it is given: find, align and embed their faces, and make rows of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from facegm.align.networks import Runtime
from facegm.align.photo_job import Groups
from facegm.data.readers.photo import Photo, UnreadablePhotoError
from facegm.data.readers.source import read_photo_bytes
from facegm.embedding.comparison import FacePolicy
from facegm.embedding.embedder import FaceEmbedder, PhotoFaces
from facegm.embedding.face_table import Row, face_row, missing_row
from facegm.embedding.reasons import Reason, RefusedPhotoError

Rows = Sequence[Row]
"""Those of one photo, at least one."""


@dataclass(frozen=True, kw_only=True)
class EmbedJob:
    """The embedding of photos, as it travels to workers; see `facegm.align.photo_job.PhotoJob`."""

    model: Path
    policy: FacePolicy | Literal["all"]
    device: str
    """Where the network runs: `cuda` for the worker's own GPU."""
    runtime: Runtime
    photos: int
    """How many there are in all, by which is chosen what computes the network."""

    def begin(self, gpu: int) -> "PhotoEmbedding":
        """See `PhotoJob`."""
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        device = f"cuda:{gpu}" if self.device == "cuda" else self.device
        embedder = FaceEmbedder.load(self.model, device=device, runtime=self.runtime)
        embedder.expect(self.photos)
        return PhotoEmbedding(embedder, self.policy)

    def lost(self, photo: Photo) -> Rows:
        """See `PhotoJob`."""
        return [missing_row(photo, Reason.UNREADABLE, "killed the worker")]


class PhotoEmbedding:
    """Embeds photos in this process."""

    def __init__(self, embedder: FaceEmbedder, policy: FacePolicy | Literal["all"]) -> None:
        self._embedder, self._policy = embedder, policy

    def process(self, groups: Groups) -> Iterator[list[Rows]]:
        """See `facegm.align.photo_job.PhotoProcessor`; a group's rows come together."""
        for group in groups:
            yield self._rows(group)

    def check(self) -> None:
        """Look at a plain grey picture of 48 megapixels: whoever cannot do that has too little memory for photos."""
        self._embedder.find(np.full((6000, 8000), 128, np.uint8))

    def _rows(self, photos: Sequence[Photo]) -> list[Rows]:
        rows: dict[str, Rows] = {}
        read = {}
        for photo in photos:
            try:
                read[photo.key] = read_photo_bytes(photo)
            except UnreadablePhotoError as error:
                rows[photo.key] = [missing_row(photo, Reason.UNREADABLE, str(error))]
        found = self._embedder.find_batch([*read.values()], policy=self._policy)
        looked_at = [photo for photo in photos if photo.key in read]
        rows |= {photo.key: _rows_of(photo, faces) for photo, faces in zip(looked_at, found, strict=True)}
        return [rows[photo.key] for photo in photos]


def _rows_of(photo: Photo, found: PhotoFaces) -> Rows:
    if found.reason is not None:
        return [missing_row(photo, found.reason, found.message)]
    if not found.faces:
        return [missing_row(photo, Reason.NO_FACE, "no face found")]
    return [face_row(photo, number, face) for number, face in enumerate(found.faces)]
