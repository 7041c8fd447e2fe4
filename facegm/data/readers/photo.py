"""A photo of a data set: where its bytes lie, its name, whose face it shows; and the reading of files and of parts."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from facegm.errors import FacegmError


class UnreadablePhotoError(FacegmError):
    """A photo that cannot be read or decoded; the message is the reason, without the file's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One input photo; sets have millions of them, so that it holds no more than it must."""

    path: str
    """The photo's own file, or the tar file, record file or LMDB set that holds it."""
    key: str
    """Relative POSIX path that names the photo within its data set, such as `Ann/Ann_0001.jpg`."""
    identity: str | None
    """None: not known, as of a photo that lies beside the identities' folders."""
    offset: int | None = None
    """Byte at which it lies in the file that holds it; None for a file of its own."""
    length: int | None = None
    """Bytes there."""
    entry: bytes | None = None
    """Its key in an LMDB set."""


@dataclass(frozen=True, kw_only=True)
class PhotoSource:
    """The photos of a source."""

    photos: list[Photo]
    """Sorted by the bytes of their keys, each key once."""
    remarks: tuple[str, ...]
    """What the user must be told, a line each: files that are passed over, doubts about identities."""


def read_file(path: str | Path) -> bytes:
    """Read a photo that is a file of its own.

    Raises:
        UnreadablePhotoError: the file is missing, empty or no regular file.
    """
    path = Path(path)
    try:
        # A pipe or a device must not even be opened: that may wait for ever.
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise UnreadablePhotoError("not a regular file")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadablePhotoError(reason_of(path, error)) from error
    if not data:
        raise UnreadablePhotoError("empty file")
    return data


def read_range(path: str | Path, offset: int, length: int) -> bytes:
    """Read a part of a file that holds many photos or faces.

    Raises:
        UnreadablePhotoError: the file is missing, or ends before.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
    except OSError as error:
        raise UnreadablePhotoError(reason_of(Path(path), error)) from error
    if len(data) < length:
        raise UnreadablePhotoError(f"cut off: {os.path.basename(path)} has become shorter")
    return data


def reason_of(path: Path, error: Exception) -> str:
    """Why a file cannot be read, in words that do not name it."""
    # os.path answers False where Path's own methods raise, as for a name that is too long.
    if os.path.isdir(path):
        return "a folder, not a file"
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to a missing file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}".replace(str(path), path.name)
