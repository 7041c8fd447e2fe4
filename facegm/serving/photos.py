"""Photos as clients upload them: read, measured before they are decoded, and kept only where that is asked for."""

import hashlib
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from facegm.align.proposals import MINIMUM_FACE
from facegm.data.decoding import TooLargePhotoError, read_size
from facegm.data.files import replace_atomically
from facegm.data.readers.photo import UnreadablePhotoError
from facegm.embedding.reasons import Reason
from facegm.serving.errors import RequestError
from facegm.serving.limits import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "HEIF", "AVIF")
"""What is taken of a stranger, measured and decoded alike; others that Pillow knows, such as EPS, start other programs.
"""


class Uploads:
    """Takes photos from requests.

    Args:
        limits: what they may have.
        keep: folder that all of them are kept in, by their digests; None: no photo is kept.
    """

    def __init__(self, limits: Limits, keep: Path | None) -> None:
        self._limits, self._keep, self._keeping = limits, keep, Lock()

    async def take(self, upload: UploadFile, field: str) -> tuple[BinaryIO, int]:
        """The file of an upload, which may lie on the disk, and the pixels that it will have.

        Args:
            upload: of a form.
            field: its name there, for messages.

        Raises:
            RequestError: it has too many bytes or pixels or too few, or is no photo.
        """
        if upload.size is not None and upload.size > self._limits.max_bytes:
            raise RequestError(
                Reason.TOO_LARGE.value,
                f"{field}: {upload.size:,} bytes, at most {self._limits.max_bytes:,} are taken; make the photo smaller",
            )
        return upload.file, await run_in_threadpool(self._measured, upload.file, field)

    def _measured(self, file: BinaryIO, field: str) -> int:
        try:
            width, height = read_size(file, FORMATS)
        except TooLargePhotoError as error:
            raise RequestError(Reason.TOO_LARGE.value, f"{field}: {error}") from error
        except UnreadablePhotoError as error:
            raise RequestError(Reason.UNREADABLE.value, f"{field}: {error}") from error
        if width * height > self._limits.max_pixels:
            raise RequestError(
                Reason.TOO_LARGE.value,
                f"{field}: {width}x{height} pixels, at most {self._limits.max_pixels:,} in all are taken; make the "
                "photo smaller",
            )
        if min(width, height) < MINIMUM_FACE:
            raise RequestError("too-small", f"{field}: {width}x{height} pixels; no face has less than {MINIMUM_FACE}")
        if self._keep is not None:
            with self._keeping:
                replace_atomically(self._keep / digest_of_file(file), file.read())
        file.seek(0)
        return width * height


def digest_of_file(file: BinaryIO) -> str:
    """SHA-256 of a whole file, in hexadecimal; leaves it at its beginning."""
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(2**16):
        digest.update(part)
    file.seek(0)
    return digest.hexdigest()
