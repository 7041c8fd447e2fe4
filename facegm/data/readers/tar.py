"""Photos in tar files, such as the shards of a WebDataset, and whose faces they show.

Members whose paths agree up to the first dot of the last part are one sample (WebDataset's rule): `000017.jpg` belongs
with `000017.cls` or `000017.json`, which tell the identity.
"""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from facegm.data.readers.formats import START, is_photo_name, is_picture, passed_over, suffix_of
from facegm.data.readers.identities import Identities
from facegm.data.readers.photo import Photo, PhotoSource
from facegm.errors import FacegmError

_COMPRESSED_SUFFIXES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LABEL_SUFFIXES = (".cls", ".json")
_COMPRESSED_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """Where the content of a tar member lies in the file, in bytes."""

    offset: int
    length: int
    """0 also where the file does not hold the content in one piece: links, devices, sparse files."""


def recognizes(source: Path) -> bool:
    """Whether a source is a tar file."""
    return is_shard_name(source.name) and source.is_file()


def is_shard_name(path: str) -> bool:
    """Whether a file is taken for a tar file, compressed or not."""
    name = path.rpartition("/")[2]
    return name.lower().endswith((".tar", *_COMPRESSED_SUFFIXES)) and not name.startswith(".")


def list_photos(source: Path, identity_level: int) -> PhotoSource:
    """List the photos of one tar file; see `list_shards`."""
    return list_shards(source.parent, [source], identity_level)


def list_shards(root: Path, shards: Iterable[Path], identity_level: int) -> PhotoSource:
    """List the photos of tar files that are one set; hidden members are passed over.

    Args:
        root: the folder in which keys are named: `001/Ann/1.jpg` for a photo in `ROOT/001.tar`.
        shards: the tar files, in it or below.
        identity_level: which of a photo's folders in the tar file is its identity, where no label tells it.

    Raises:
        FacegmError: a file is compressed, damaged or cut off, holds a member twice, or a `.cls` or `.json` does not
            tell an identity.
    """
    identities, others = Identities(identity_level), Counter[str]()
    photos = [photo for shard in shards for photo in _photos_of(root, shard, identities, others)]
    remarks = identities.doubts()
    if others:
        remarks.append(passed_over(others))
    return PhotoSource(photos=photos, remarks=tuple(remarks))


def _photos_of(root: Path, shard: Path, identities: Identities, others: Counter[str]) -> list[Photo]:
    if not shard.is_file():
        raise FacegmError(f"{shard}: not a regular file")
    stem = shard.relative_to(root).with_suffix("").as_posix()
    path, photos = str(shard), []
    try:
        with shard.open("rb") as file:
            if shard.name.lower().endswith(_COMPRESSED_SUFFIXES) or file.read(6).startswith(_COMPRESSED_MAGICS):
                raise FacegmError(f"{shard}: compressed, so no photo can be read by itself; decompress it to a .tar")
            members = _members(shard, file)
            for name, member in members.items():
                if not _is_photo(file, name, member):
                    if suffix_of(name) not in _LABEL_SUFFIXES:
                        others[suffix_of(name)] += 1
                    continue
                identity = _label(shard, file, members, name)
                if identity is None:
                    identity = identities.of(name) if "/" in name else stem
                key = f"{stem}/{name}"
                photos.append(Photo(path=path, key=key, identity=identity, offset=member.offset, length=member.length))
    except OSError as error:
        raise FacegmError(f"{shard}: cannot read this file: {error.strerror}") from error
    return photos


def _is_photo(file: BinaryIO, name: str, member: Member) -> bool:
    if is_photo_name(name) or suffix_of(name) in _LABEL_SUFFIXES:
        return is_photo_name(name)
    file.seek(member.offset)
    return is_picture(file.read(min(START, member.length)), name)


def _members(shard: Path, file: BinaryIO) -> dict[str, Member]:
    members: dict[str, Member] = {}
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for entry in tar:
                if entry.size < 0:  # would lead back to where tarfile came from, for ever
                    raise tarfile.HeaderError(f"member of {entry.size} bytes")
                # No name leads out of the folder that photos are named in.
                name = os.path.normpath("/" + entry.name).lstrip("/")
                if entry.isdir() or any(part.startswith(".") for part in name.split("/")):
                    continue
                if name in members:
                    raise FacegmError(f"{shard}: holds {name} twice; pack it again without the older one")
                in_one_piece = entry.isreg() and not entry.issparse()
                members[name] = Member(offset=entry.offset_data, length=entry.size if in_one_piece else 0)
                tar.members.clear()  # type: ignore[attr-defined]  # they take ten times the memory, and iterating goes on without them
            end = tar.offset
    # tarfile lets all but the first pass where a damaged header tells a size beyond any file's.
    except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:
        raise FacegmError(f"{shard}: not a tar file, damaged or cut off: {error}; copy or make it again") from error
    file.seek(end)
    # tarfile takes anything that is no header for the end, which is marked by a block of zeros.
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise FacegmError(f"{shard}: damaged or cut off at byte {end}, neither a member nor the end; make it again")
    return members


def _label(shard: Path, file: BinaryIO, members: dict[str, Member], photo: str) -> str | None:
    """What the sample's `.cls` or `.json` says; None where there is none."""
    folder, slash, name = photo.rpartition("/")
    sample = folder + slash + name.partition(".")[0]
    readers: dict[str, Callable[[bytes], str | None]] = {".cls": bytes.decode, ".json": _identity_of_json}
    for suffix, read in readers.items():
        member = members.get(sample + suffix)
        if member is None:
            continue
        file.seek(member.offset)
        try:
            identity = read(file.read(member.length))
        except ValueError as error:
            raise FacegmError(f"{shard}, {sample}{suffix}: tells no identity: {error}") from error
        if identity is None:
            return None
        if not identity.strip():
            raise FacegmError(f"{shard}, {sample}{suffix}: tells no identity: it is empty")
        return identity.strip()
    return None


def _identity_of_json(content: bytes) -> str | None:
    fields = json.loads(content)
    identity = fields.get("identity", fields.get("label")) if isinstance(fields, dict) else None
    if identity is not None and (isinstance(identity, bool) or not isinstance(identity, str | int)):
        raise ValueError(f"{identity!r} is neither text nor a whole number")
    return None if identity is None else str(identity)
