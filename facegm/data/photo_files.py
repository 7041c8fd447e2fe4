"""The encoded bytes of photos: of files of their own, of tar members, and of records."""

import os
import stat
from pathlib import Path

from facegm.data.find_photos import Photo
from facegm.data.record_io import DamagedRecordError, is_record_name, unpack_image
from facegm.errors import FacegmError


class UnreadablePhotoError(FacegmError):
    """A photo that cannot be read or decoded; the message is the reason, without the file's name."""


def read_photo_bytes(photo: Photo) -> bytes:
    """Read a photo as it is encoded, wherever it lies.

    Raises:
        UnreadablePhotoError: the file is missing, empty or no regular file, or its record is damaged.
    """
    if photo.offset is None or photo.length is None:
        return read_file(photo.path)
    if not photo.length:
        raise UnreadablePhotoError("empty, or not a regular file")
    try:
        with photo.path.open("rb", buffering=0) as container:
            data = os.pread(container.fileno(), photo.length, photo.offset)
        if len(data) < photo.length:
            raise UnreadablePhotoError(f"cut off: {photo.path.name} has become shorter")
        image = unpack_image(data) if is_record_name(photo.path.name) else data
        if not image:
            raise UnreadablePhotoError("empty record")
        return image
    except DamagedRecordError as error:
        raise UnreadablePhotoError(f"damaged record: {error}") from error
    except OSError as error:
        raise UnreadablePhotoError(_reason(photo.path, error)) from error


def read_file(path: Path) -> bytes:
    """Read a photo that is a file of its own.

    Raises:
        UnreadablePhotoError: the file is missing, empty or no regular file.
    """
    try:
        # A pipe or a device must not even be opened: that may wait for ever.
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise UnreadablePhotoError("not a regular file")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadablePhotoError(_reason(path, error)) from error
    if not data:
        raise UnreadablePhotoError("empty file")
    return data


def _reason(path: Path, error: Exception) -> str:
    # os.path answers False where Path's own methods raise, as for a name that is too long.
    if os.path.isdir(path):
        return "a folder, not a file"
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to a missing file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}".replace(str(path), path.name)
