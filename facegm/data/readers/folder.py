"""Folder trees of photos, or of files in which photos are packed."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from facegm.data.readers import lmdb, record, tar
from facegm.data.readers.formats import PHOTO_SUFFIXES, is_photo_name, is_picture_file, passed_over, suffix_of
from facegm.data.readers.identities import Identities
from facegm.data.readers.photo import Photo, PhotoSource
from facegm.errors import FacegmError


@dataclass
class _Tree:
    """What lies in a folder and below it; hidden files and folders do not count."""

    photos: list[str] = field(default_factory=list)
    """Paths."""
    shards: list[Path] = field(default_factory=list)
    records: list[Path] = field(default_factory=list)
    sets: list[Path] = field(default_factory=list)
    """LMDB sets."""
    others: Counter[str] = field(default_factory=Counter)
    """How many files of each suffix are none of these."""


def recognizes(source: Path) -> bool:
    """Whether a source is a folder."""
    return source.is_dir()


def list_photos(source: Path, identity_level: int) -> PhotoSource:
    """List a tree's photos or, where it has none, those that are packed in its files.

    Raises:
        FacegmError: a folder cannot be listed, or there are packed files of which one has to be named.
    """
    tree = _walk(source)
    others = [passed_over(tree.others)] if tree.others else []
    packed = sorted([*tree.shards, *tree.records, *tree.sets])
    if not tree.photos and packed:
        found = _photos_of_packed(source, tree, packed, identity_level)
        return PhotoSource(photos=found.photos, remarks=(*found.remarks, *others))
    if packed:
        others.append(f"photos are taken, not what is packed in {_names(source, packed)}; name that to take it")
    identities = Identities(identity_level)
    start = len(os.path.join(source, ""))
    photos = []
    for path in tree.photos:
        key = path[start:].replace(os.sep, "/")
        photos.append(Photo(path=path, key=key, identity=identities.of(key)))
    return PhotoSource(photos=photos, remarks=(*identities.doubts(), *others))


def _walk(root: Path) -> _Tree:
    tree = _Tree()
    for folder, folders, files in os.walk(root, onerror=_unlistable, followlinks=True):
        # A folder called x.jpg holds no identity of its own: it is passed on, and recorded as unreadable.
        posing = [name for name in folders if suffix_of(name) in PHOTO_SUFFIXES]
        folders[:] = [
            name
            for name in folders
            if name not in posing and not name.startswith(".") and not _leads_back(Path(folder, name))
        ]
        if lmdb.DATA_FILE in files:
            tree.sets.append(Path(folder))
            files = [name for name in files if name not in (lmdb.DATA_FILE, lmdb.LOCK_FILE)]
        for name in (*files, *posing):
            _sort_in(tree, folder, name)
    if tree.records:
        del tree.others[record.INDEX_SUFFIX]
    return tree


def _sort_in(tree: _Tree, folder: str, name: str) -> None:
    path = os.path.join(folder, name)
    if name.startswith("."):
        return
    if is_photo_name(name):
        tree.photos.append(path)
    elif tar.is_shard_name(name):
        tree.shards.append(Path(path))
    elif record.is_record_name(name):
        tree.records.append(Path(path))
    elif lmdb.is_set_name(name):
        tree.sets.append(Path(path))
    elif is_picture_file(path):
        tree.photos.append(path)
    else:
        tree.others[suffix_of(name)] += 1


def _photos_of_packed(root: Path, tree: _Tree, packed: list[Path], identity_level: int) -> PhotoSource:
    if len(tree.shards) == len(packed):
        return tar.list_shards(root, tree.shards, identity_level)
    if len(packed) > 1:
        raise FacegmError(f"{root}: holds {len(packed)} packed files; name one of {_names(root, packed)}")
    if tree.records:
        return record.list_photos(packed[0], identity_level)
    return lmdb.list_photos(packed[0], identity_level)


def _names(root: Path, paths: list[Path]) -> str:
    return ", ".join(str(path.relative_to(root)) for path in paths[:5])


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, so that walking it would never end."""
    if not folder.is_symlink():
        return False
    # Not the nearest alone: of two folders that link to each other, neither lies in the other.
    target = folder.resolve()
    return any(parent.resolve().is_relative_to(target) for parent in folder.parents)


def _unlistable(error: OSError) -> None:
    raise FacegmError(f"{error.filename}: cannot list this folder: {error.strerror}")
