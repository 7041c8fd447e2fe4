"""What requests ask of the embedder: photos of many clients in, faces out."""

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from starlette.datastructures import UploadFile

from facegm.embedding.comparison import FacePolicy, chosen_face
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.photo_faces import PhotoFaces
from facegm.embedding.reasons import RefusedPhotoError
from facegm.gallery.gallery import Gallery
from facegm.serving.batching import Batcher
from facegm.serving.errors import RequestError
from facegm.serving.limits import Limits
from facegm.serving.photos import FORMATS, Uploads


class FaceService:
    """An embedder, and perhaps a gallery, as all requests share them.

    Args:
        embedder: looks at the photos of all clients, on one thread.
        gallery: of the people who are enrolled; None: nobody can be.
        limits: what a request may ask for.
        keep: folder that the photos are kept in; None: no photo is kept.
    """

    def __init__(self, embedder: FaceEmbedder, gallery: Gallery | None, limits: Limits, keep: Path | None) -> None:
        self.embedder, self.limits = embedder, limits
        self._gallery = gallery
        self._uploads = Uploads(limits, keep)
        self._batcher = Batcher(self._look, max_batch=limits.max_batch)

    async def run(self) -> None:
        """Look at photos until the task is cancelled."""
        await self._batcher.run()

    async def look(self, upload: UploadFile, field: str) -> PhotoFaces:
        """The faces of a photo, the largest central one first.

        Args:
            upload: of a form.
            field: its name there, for messages.

        Raises:
            RequestError: it is no photo, or has too many pixels or faces.
        """
        photo, pixels = await self._uploads.take(upload, field)
        found = await self._batcher.find(photo, pixels)
        if found.reason is not None:
            raise RequestError(found.reason.value, f"{field}: {found.message}")
        return found

    async def look_at_two(self, a: tuple[UploadFile, str], b: tuple[UploadFile, str]) -> tuple[PhotoFaces, PhotoFaces]:
        """The faces of two photos, which are looked at together; see `look`."""
        found_a, found_b = await asyncio.gather(self.look(*a), self.look(*b))
        return found_a, found_b

    def choose(self, photo: PhotoFaces, policy: FacePolicy, field: str) -> int:
        """Index of the face that a request is about.

        Raises:
            RequestError: there is none, or the policy takes only one and there are several.
        """
        try:
            return chosen_face(photo.faces, policy)
        except RefusedPhotoError as error:
            raise RequestError(error.reason.value, f"{field}: {error}") from error

    @property
    def has_gallery(self) -> bool:
        """Whether people can be enrolled."""
        return self._gallery is not None

    @property
    def gallery(self) -> Gallery:
        """The gallery.

        Raises:
            RequestError: the server was started without one.
        """
        if self._gallery is None:
            raise RequestError("no-gallery", "this server has no gallery; start it with --gallery FILE")
        return self._gallery

    def warm_up(self) -> None:
        """Have the embedder make ready whatever it puts off until its first photo, and the gallery its index."""
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, "PNG")
        file.seek(0)
        self._look([file])
        if self._gallery is not None:
            self._gallery.warm_up()

    def _look(self, photos: Sequence[BinaryIO]) -> Sequence[PhotoFaces]:
        return list(self.embedder.find_batch(photos, max_faces=self.limits.max_faces, formats=FORMATS))
