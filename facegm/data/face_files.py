"""How a store keeps its encoded faces: as one file each, or packed into tar files (`facegm.data.packed_faces`)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from facegm.data.files import replace_atomically
from facegm.data.packed_faces import PackedFaces
from facegm.data.packed_writer import PackedWriter

FACES_FOLDER = "faces"
FIRST_PART = "00000"

Encoding = Literal["png", "jpeg"]
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}
CONTAINERS = ("folder", "tar")


@dataclass(frozen=True, kw_only=True)
class StoreFormat:
    """How a store keeps its pictures."""

    encoding: Encoding = "png"
    """png keeps the pixels exactly; jpeg (quality 95, colour at full resolution) is lossy and smaller."""
    container: Literal["folder", "tar"] = "folder"
    """folder: one file a face; tar: all faces in an uncompressed tar file with an index, which is easier on the file
    system and to copy."""

    def __post_init__(self) -> None:
        if self.encoding not in SUFFIXES:
            raise ValueError(f"encoding: {self.encoding!r}, must be one of {', '.join(SUFFIXES)}")
        if self.container not in CONTAINERS:
            raise ValueError(f"container: {self.container!r}, must be one of {', '.join(CONTAINERS)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "StoreFormat":
        """The format that the settings of a store name.

        Raises:
            ValueError: an unknown encoding or container.
        """
        return cls(encoding=settings["encoding"], container=settings["container"])


DEFAULT_FORMAT = StoreFormat()
"""Also that of stores which do not name theirs."""


class FaceReader(Protocol):
    """Encoded faces by key; may be read from threads, forked processes, and after pickling."""

    def read(self, key: str) -> bytes:
        """Read one encoded face; one that was damaged outside of facegm comes as it is.

        Raises:
            OSError: there is none, or it cannot be read.
        """

    def place(self, key: str) -> str:
        """Name the file that holds a face, or would, for a message about it."""


class FaceWriter(Protocol):
    """Takes encoded faces one after the other; what was taken survives the process at once, whole or not at all."""

    @property
    def lost(self) -> Collection[str]:
        """Keys that the manifest records although their pictures are gone, as a power cut may bring about."""

    def append(self, key: str, data: bytes) -> None:
        """Keep one encoded face."""

    def close(self) -> None:
        """Bring the files to their finished form; they can be appended to again."""


def open_faces(folder: Path, store_format: StoreFormat) -> FaceReader:
    """Open the faces of a store's folder for reading.

    Raises:
        FacegmError: an index of packed faces is damaged.
    """
    if store_format.container == "tar":
        return PackedFaces(folder / FACES_FOLDER)
    return _FolderFaces(folder, store_format.encoding)


def append_faces(
    folder: Path, store_format: StoreFormat, *, recorded: Collection[str], part: str = FIRST_PART
) -> FaceWriter:
    """Open the faces of a store's folder for appending, after bringing them into step with the manifest.

    Args:
        folder: the store's folder.
        store_format: how it keeps its pictures.
        recorded: keys that the manifest records as having a picture. Others are as good as never written.
        part: name of the tar file to write, of which each of several jobs has its own.

    Raises:
        FacegmError: packed faces are damaged, or another process is writing this part.
    """
    if store_format.container == "tar":
        return PackedWriter(folder / FACES_FOLDER, part, SUFFIXES[store_format.encoding], recorded)
    return _FolderWriter(folder, store_format.encoding)


def face_path(folder: Path, key: str, encoding: Encoding = "png") -> Path:
    """Where the picture of a photo lies; the photo's own suffix is kept, so that names never collide."""
    return folder / FACES_FOLDER / (key + SUFFIXES[encoding])


@dataclass(frozen=True)
class _FolderFaces:
    folder: Path
    encoding: Encoding

    def read(self, key: str) -> bytes:
        return face_path(self.folder, key, self.encoding).read_bytes()

    def place(self, key: str) -> str:
        return str(face_path(self.folder, key, self.encoding))


@dataclass(frozen=True)
class _FolderWriter:
    folder: Path
    encoding: Encoding
    lost: Collection[str] = ()  # not looked for: asking a file system for every face of a large store takes minutes

    def append(self, key: str, data: bytes) -> None:
        path = face_path(self.folder, key, self.encoding)
        try:
            replace_atomically(path, data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_atomically(path, data)

    def close(self) -> None: ...
