"""Lists of photos: text files with one path a line, with or without the identity, and CSV files."""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from facegm.data.readers.formats import PHOTO_SUFFIXES, is_photo_name
from facegm.data.readers.identities import Identities
from facegm.data.readers.photo import Photo, PhotoSource
from facegm.errors import FacegmError

_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "photo")
_IDENTITY_COLUMNS = ("identity", "identity_id", "label", "id", "person", "person_id", "name", "subject", "class")
_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted(PHOTO_SUFFIXES))
_LABELLED = re.compile(rf"(?P<path>.*(?:{_SUFFIXES}))(?:\s*,\s*| +)(?P<identity>\S.*)", re.IGNORECASE)
"""A photo's path, and behind a space or comma the identity; of several suffixes the last one that can ends the path."""
_SAMPLE = 300
_EXPECTED = (
    "expected a photo's path on each line, relative to the list's folder or absolute, alone or followed by a tab, a "
    "comma or a space and the identity"
)


class _Line(NamedTuple):
    number: int
    name: str
    identity: str


class _Columns(NamedTuple):
    """What a header says: the separator, and which columns hold paths and identities."""

    separator: str
    path: int
    identity: int | None


def recognizes(source: Path) -> bool:
    """Whether a source is a file; asked last, as any text is taken for a list."""
    return source.is_file()


def list_photos(source: Path, identity_level: int) -> PhotoSource:
    """List the photos that a file names; some may be missing, but not all.

    Raises:
        FacegmError: the list cannot be read, is no text, names a photo twice, or none that is there.
    """
    identities = Identities(identity_level)
    photos: dict[str, Photo] = {}
    folder = str(source.parent)
    for line in _with_slashes(folder, _lines(source)):
        path = os.path.join(folder, line.name)
        key = os.path.normpath(line.name).lstrip("/")
        if key == ".." or key.startswith("../"):
            key = os.path.realpath(path).lstrip("/")
        if key in photos:
            raise FacegmError(f"{source}, line {line.number}: {line.name} is listed twice")
        photos[key] = Photo(path=path, key=key, identity=line.identity or identities.of(key))
    if photos and not any(os.path.lexists(photo.path) for photo in photos.values()):
        first = next(iter(photos.values()))
        raise FacegmError(f"{source}: none of its {len(photos):,} photos is there, such as {first.path}; {_EXPECTED}")
    return PhotoSource(photos=list(photos.values()), remarks=tuple(identities.doubts()))


def _lines(listing: Path) -> Iterator[_Line]:
    try:
        # Not splitlines(): it also splits at characters that names may hold, such as U+2028.
        lines = listing.read_bytes().decode("utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise FacegmError(f"{listing}: cannot read this list: {error.strerror}") from error
    folder, columns, is_first = str(listing.parent), None, True
    for number, ended in enumerate(lines, start=1):
        line = ended.rstrip("\r")
        if "\0" in line:
            raise FacegmError(f"{listing}, line {number}: not text; expected a folder or a list of photos")
        if not line.strip():
            continue
        if is_first:
            is_first, columns = False, _columns(line)
            if columns is not None:
                continue
        try:
            name, identity = _of_columns(line, columns) if columns is not None else _of_line(folder, line)
        except ValueError as error:
            raise FacegmError(f"{listing}, line {number}: {error}") from error
        if name.strip():
            yield _Line(number, name, identity.strip())


def _columns(header: str) -> _Columns | None:
    """What the first line says, if it is a header."""
    separator = "\t" if "\t" in header else ","
    names = [name.strip().lower() for name in _fields(header, separator)]
    path = next((names.index(name) for name in _PATH_COLUMNS if name in names), None)
    identity = next((names.index(name) for name in _IDENTITY_COLUMNS if name in names), None)
    return None if path is None or len(names) < 2 else _Columns(separator, path, identity)


def _of_columns(line: str, columns: _Columns) -> tuple[str, str]:
    fields = _fields(line, columns.separator)
    if len(fields) <= max(columns.path, columns.identity or 0):
        raise ValueError(f"{len(fields)} columns, fewer than the header names")
    return fields[columns.path], "" if columns.identity is None else fields[columns.identity]


def _of_line(folder: str, line: str) -> tuple[str, str]:
    """Path and identity of a line of a list without a header."""
    name, tab, identity = line.partition("\t")
    if tab:
        return name, identity
    if line.startswith('"'):
        fields = _fields(line, ",")
        if is_photo_name(fields[0]) and len(fields) <= 2:
            return fields[0], "".join(fields[1:])
    labelled = None if is_photo_name(line) else _LABELLED.fullmatch(line)
    if labelled is not None:
        path, identity = labelled["path"], labelled["identity"]
        if line[len(path) :].lstrip().startswith(","):
            fields = _fields(identity, ",")
            if len(fields) > 1:
                raise ValueError(f"{1 + len(fields)} columns; expected path,identity, or a first line that names them")
            identity = fields[0]
        return path, identity
    return _of_nameless(folder, line)


def _of_nameless(folder: str, line: str) -> tuple[str, str]:
    """Path and identity where no suffix tells a photo: then it is told by being there."""
    for separator in (",", " "):
        name, found, identity = line.rpartition(separator)
        if not found or not identity.strip() or os.path.lexists(os.path.join(folder, line)):
            continue
        if os.path.isfile(os.path.join(folder, name.rstrip())):
            return name.rstrip(), identity
    return line, ""


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [""])


def _with_slashes(folder: str, lines: Iterable[_Line]) -> Iterable[_Line]:
    """Turn the backslashes of lists that Windows wrote into slashes, unless such files are there under these names."""
    lines = list(lines)
    windows = [line.name for line in lines if "\\" in line.name]
    if not windows or any(os.path.lexists(os.path.join(folder, name)) for name in windows[:_SAMPLE]):
        return lines
    return [line._replace(name=line.name.replace("\\", "/")) for line in lines]
