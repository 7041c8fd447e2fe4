"""The folder trees and list files that name the photos of a data set."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from facegm.errors import FacegmError

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One input photo: where it is, its name in the data set, and whose face it shows."""

    path: Path
    key: str
    """Relative POSIX path that names the photo within its data set, such as `Ann/Ann_0001.jpg`."""
    identity: str


def find_photos(source: Path) -> list[Photo]:
    """List the photos of a folder tree `identity/.../photo.jpg`, or of a list file, sorted by key.

    A list file holds one photo a line: its path (relative to the list's folder, or absolute), and optionally a tab
    and the identity. Without one, the identity is the name of the photo's folder.

    Raises:
        FacegmError: the source is missing, holds no photo, or names a photo twice.
    """
    if source.is_dir():
        photos = _photos_of_tree(source)
    elif source.is_file():
        photos = _photos_of_list(source)
    else:
        raise FacegmError(f"{source}: no such folder or list file")
    if not photos:
        raise FacegmError(
            f"{source}: no photo found; expected a folder tree identity/photo.jpg "
            f"({', '.join(sorted(PHOTO_SUFFIXES))}) or a list file with one photo a line"
        )
    return in_order(photos)


def in_order(photos: Iterable[Photo]) -> list[Photo]:
    """Sort photos by the bytes of their keys: the order of a store's manifest."""
    return sorted(photos, key=lambda photo: os.fsencode(photo.key))


def _photos_of_tree(root: Path) -> list[Photo]:
    photos = []
    for folder, folders, files in os.walk(root, onerror=_unlistable, followlinks=True):
        # A folder called x.jpg holds no identity of its own: it is passed on, and recorded as unreadable.
        posing = [name for name in folders if Path(name).suffix.lower() in PHOTO_SUFFIXES]
        folders[:] = [
            name
            for name in folders
            if name not in posing and not name.startswith(".") and not _leads_back(Path(folder, name))
        ]
        for name in [*files, *posing]:
            if Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith("."):
                path = Path(folder, name)
                key = path.relative_to(root)
                identity = key.parts[0] if len(key.parts) > 1 else root.resolve().name
                photos.append(Photo(path=path, key=key.as_posix(), identity=identity))
    return photos


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, so that walking it would never end."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _unlistable(error: OSError) -> None:
    raise FacegmError(f"{error.filename}: cannot list this folder: {error.strerror}")


def _photos_of_list(listing: Path) -> list[Photo]:
    photos: dict[str, Photo] = {}
    try:
        # Not splitlines(): it also splits at characters that names may hold, such as U+2028.
        lines = listing.read_bytes().decode("utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise FacegmError(f"{listing}: cannot read this list: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise FacegmError(f"{listing}, line {number}: not text; expected a folder or a list of photos")
        name, _, identity = line.rstrip("\r").partition("\t")
        if not name.strip():
            continue
        path = listing.parent / name
        key = PurePosixPath(os.path.normpath(name).lstrip("/")).as_posix()
        if key == ".." or key.startswith("../"):
            key = path.resolve().as_posix().lstrip("/")
        if key in photos:
            raise FacegmError(f"{listing}, line {number}: {name} is listed twice")
        photos[key] = Photo(path=path, key=key, identity=identity.strip() or path.absolute().parent.name)
    return list(photos.values())
