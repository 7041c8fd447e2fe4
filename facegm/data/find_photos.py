"""The sources of a data set's photos: folder trees, list files, tar shards, and insightface's record files."""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from facegm.data.photo_names import PHOTO_SUFFIXES, identities_by_folder, is_photo_name
from facegm.data.record_io import is_record_name, list_images
from facegm.data.tar_shards import is_shard_name, list_shard
from facegm.errors import FacegmError

logger = logging.getLogger(__name__)
_LABEL = re.compile(r"(.*\S) +(\d+)")
"""A line of CASIA-WebFace's usual lists: a path and a number."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One input photo: where it is, its name in the data set, and whose face it shows."""

    path: Path
    """The photo's own file, or the tar or record file that holds it."""
    key: str
    """Relative POSIX path that names the photo within its data set, such as `Ann/Ann_0001.jpg`."""
    identity: str
    offset: int | None = None
    """Byte at which it lies in the file that holds it; None for a file of its own."""
    length: int | None = None
    """Bytes there."""


def find_photos(source: Path) -> list[Photo]:
    """List the photos of a source, sorted by key.

    - A folder tree `identity/.../photo.jpg`. Leading folders that all photos share, as archives have them, are passed
      over: the identity is the first folder that tells photos apart.
    - A list file with one photo a line: its path (relative to the list's folder, or absolute), and optionally a tab and
      the identity, or a space and a number. Without one, the identity is the name of the photo's folder.
    - A tar file, or a folder tree that holds tar files and no photos: the shards of a WebDataset. The identity is what
      the sample's `.cls` or `.json` says, else the photo's folder in the shards as above, else the shard's name, below
      the folder that is the source.
    - `x.rec` with `x.idx` beside it, as insightface packs sets, or a folder that holds one such and no photos. The
      identity is the label.

    Raises:
        FacegmError: the source is missing or damaged, holds no photo, or names a photo twice.
    """
    if source.is_dir():
        photos = _photos_of_tree(source)
    elif is_record_name(source.name) and source.is_file():
        photos = _photos_of_records(source)
    elif is_shard_name(source.name) and source.is_file():
        photos = _photos_of_shards(source.parent, [source])
    elif source.is_file():
        photos = _photos_of_list(source)
    else:
        raise FacegmError(f"{source}: no such folder, list, tar or rec file")
    if not photos:
        raise FacegmError(
            f"{source}: no photo found; expected a folder tree identity/photo.jpg "
            f"({', '.join(sorted(PHOTO_SUFFIXES))}), a list file with one photo a line, tar shards or a .rec file"
        )
    photos = in_order(photos)
    for one, other in pairwise(photos):
        if one.key == other.key:
            raise FacegmError(f"{source}: {one.path} and {other.path} both hold {one.key}; rename one of them")
    return photos


def in_order(photos: Iterable[Photo]) -> list[Photo]:
    """Sort photos by the bytes of their keys: the order of a store's manifest."""
    return sorted(photos, key=lambda photo: os.fsencode(photo.key))


def _photos_of_tree(root: Path) -> list[Photo]:
    paths, shards, records = [], [], []
    for folder, folders, files in os.walk(root, onerror=_unlistable, followlinks=True):
        # A folder called x.jpg holds no identity of its own: it is passed on, and recorded as unreadable.
        posing = [name for name in folders if Path(name).suffix.lower() in PHOTO_SUFFIXES]
        folders[:] = [
            name
            for name in folders
            if name not in posing and not name.startswith(".") and not _leads_back(Path(folder, name))
        ]
        paths += [Path(folder, name) for name in (*files, *posing) if is_photo_name(name)]
        shards += [Path(folder, name) for name in files if is_shard_name(name)]
        records += [Path(folder, name) for name in files if is_record_name(name)]
    if paths and (shards or records):
        packed = ", ".join(str(path.relative_to(root)) for path in sorted([*shards, *records])[:5])
        logger.warning(f"{root}: its photos are taken, not what is packed in {packed}; name that to take it")
    elif shards:
        return _photos_of_shards(root, shards)
    elif len(records) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in sorted(records)[:5])
        raise FacegmError(f"{root}: holds {len(records)} record files; name one of {names}")
    elif records:
        return _photos_of_records(records[0])
    keys = [path.relative_to(root).as_posix() for path in paths]
    return [
        Photo(path=path, key=key, identity=identity or root.resolve().name)
        for path, key, identity in zip(paths, keys, identities_by_folder(keys), strict=True)
    ]


def _photos_of_shards(root: Path, shards: Iterable[Path]) -> list[Photo]:
    found = [(shard, photo) for shard in shards for photo in list_shard(shard)]
    folders = identities_by_folder([photo.name for _, photo in found])
    photos = []
    for (shard, photo), folder in zip(found, folders, strict=True):
        stem = shard.relative_to(root).with_suffix("").as_posix()
        photos.append(
            Photo(
                path=shard,
                key=f"{stem}/{photo.name}",
                identity=photo.identity or folder or stem,
                offset=photo.member.offset,
                length=photo.member.length,
            )
        )
    return photos


def _photos_of_records(records: Path) -> list[Photo]:
    return [
        # Padded, so that the order of the names is that of the numbers.
        Photo(
            path=records,
            key=f"{image.label:07}/{image.key:09}.jpg",
            identity=f"{image.label:07}",
            offset=image.offset,
            length=image.length,
        )
        for image in list_images(records)
    ]


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, so that walking it would never end."""
    if not folder.is_symlink():
        return False
    # Not the nearest alone: of two folders that link to each other, neither lies in the other.
    target = folder.resolve()
    return any(parent.resolve().is_relative_to(target) for parent in folder.parents)


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
        labelled = _LABEL.fullmatch(name)
        if not identity and labelled and is_photo_name(labelled[1]):
            name, identity = labelled[1], labelled[2]
        path = listing.parent / name
        key = PurePosixPath(os.path.normpath(name).lstrip("/")).as_posix()
        if key == ".." or key.startswith("../"):
            key = path.resolve().as_posix().lstrip("/")
        if key in photos:
            raise FacegmError(f"{listing}, line {number}: {name} is listed twice")
        photos[key] = Photo(path=path, key=key, identity=identity.strip() or path.absolute().parent.name)
    return list(photos.values())
