"""What a worker does with the photos it is given: find, align and embed their faces, and make rows of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np

from facegm.align.networks import Runtime
from facegm.align.photo_job import Groups, make_worker
from facegm.data.readers.photo import Photo
from facegm.data.readers.source import read_photo_bytes
from facegm.embedding.comparison import FacePolicy
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.face_table import Row, face_row, missing_row
from facegm.embedding.photo_faces import PhotoFaces
from facegm.embedding.reasons import Reason

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

    @property
    def uses_gpu(self) -> bool:
        """See `PhotoJob`."""
        return "cuda" in (self.device, self.runtime)

    def begin(self, gpu: int) -> "PhotoEmbedding":
        """See `PhotoJob`."""
        make_worker()
        device = f"cuda:{gpu}" if self.device == "cuda" else self.device
        embedder = FaceEmbedder.load(self.model, device=device, detector=self.runtime, expected=self.photos)
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
        files = ([cast(BinaryIO, _Unread(photo)) for photo in group] for group in groups)
        found = self._embedder.find_groups(files, policy=self._policy)
        for group in groups:
            yield [_rows_of(*both) for both in zip(group, islice(found, len(group)), strict=True)]

    def check(self) -> None:
        """Look at a plain grey picture of 48 megapixels: whoever cannot do that has too little memory for photos."""
        self._embedder.find(np.full((6000, 8000), 128, np.uint8))


class _Unread:
    """A photo's bytes, wherever they lie, as a file that is read when its turn comes."""

    def __init__(self, photo: Photo) -> None:
        self._photo = photo

    def read(self) -> bytes:
        return read_photo_bytes(self._photo)


def _rows_of(photo: Photo, found: PhotoFaces) -> Rows:
    if found.reason is not None:
        return [missing_row(photo, found.reason, found.message)]
    if not found.faces:
        return [missing_row(photo, Reason.NO_FACE, "no face found")]
    return [face_row(photo, number, face) for number, face in enumerate(found.faces)]
