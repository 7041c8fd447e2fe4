"""Stores of format 1, whose manifest was `manifest.jsonl`, and their tar files' indices `faces/NAME.idx`."""

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegm.data.files import atomic_file
from facegm.data.progress import Progress
from facegm.errors import FacegmError
from facegm.store.faces import place_of
from facegm.store.format import (
    FACES_FOLDER,
    FORMAT,
    FORMAT_BEFORE,
    SETTINGS_FILE,
    StoreFormat,
    decode_face,
    manifest_writer,
    read_settings,
    to_table,
)

_MANIFEST, _TIMINGS, _SHARDS = "manifest.jsonl", "timings.csv", "shards"


def table_before(folder: Path) -> pa.Table:
    """The manifest of a store of format 1; neither lengths nor checksums of its faces are known, but in tar files.

    Raises:
        FacegmError: a line is damaged, or jobs that make the store together are not all at their end.
    """
    if (folder / _SHARDS).is_dir() and not (folder / _MANIFEST).is_file():
        raise FacegmError(
            f"{folder}: not all jobs that made this store were at their end; run `facegm convert {folder}`"
        )
    return _table(folder, _rows(folder))


def convert_store(folder: Path) -> int:
    """Bring a store of format 1 up to date, in its place; one that is so already is left as it is.

    Faces that are missing or damaged are taken out of the manifest, so that `facegm align` makes them anew. Whenever it
    is killed, it can be called again.

    Returns:
        How many faces were missing or damaged.

    Raises:
        FacegmError: the folder is not a store, or a line of its manifest is damaged.
    """
    settings, missing = read_settings(folder), 0
    if settings["format"] == FORMAT_BEFORE:
        store_format, rows, kept = StoreFormat.of(settings), _rows(folder), []
        with Progress("convert", len(rows), "photos") as progress:
            for row in rows:
                place = place_of(
                    folder, store_format, row["key"], row.get("part"), row.get("offset", 0), row.get("length", -1)
                )
                try:
                    if row["status"] != "failed":
                        face = place.read()
                        if decode_face(face, store_format.encoding) is None:
                            raise OSError("damaged")
                        row |= {"offset": place.offset, "length": len(face), "checksum": zlib.crc32(face)}
                    kept.append(row)
                except OSError:
                    missing += 1
                progress.update(1)
        with manifest_writer(folder) as manifest:
            manifest.write_table(_table(folder, kept))
        content = json.dumps(settings | {"format": FORMAT}, indent=2) + "\n"
        with atomic_file(folder / SETTINGS_FILE, sync=True) as file:
            file.write(content.encode())
    for left in (folder / _MANIFEST, folder / _TIMINGS, *(folder / FACES_FOLDER).glob("*.idx")):
        left.unlink(missing_ok=True)
    shutil.rmtree(folder / _SHARDS, ignore_errors=True)
    return missing


def _rows(folder: Path) -> list[dict[str, Any]]:
    """What is recorded of each photo, in the order of their keys, with the places of faces in tar files."""
    manifest = folder / _MANIFEST
    manifests = [manifest] if manifest.is_file() else sorted((folder / _SHARDS).glob("*.jsonl"))
    if not manifests:
        raise FacegmError(f"{manifest}: missing; bring it back, or align into another folder")
    rows = {row["key"]: row for path in manifests for row in _lines(path, "status")}
    for index in sorted((folder / FACES_FOLDER).glob("*.idx")):
        for entry in _lines(index, "offset", "length"):
            if entry["key"] in rows:
                rows[entry["key"]] |= {"part": index.stem, "offset": entry["offset"], "length": entry["length"]}
    return sorted(rows.values(), key=lambda row: os.fsencode(row["key"]))


def _table(folder: Path, rows: list[dict[str, Any]]) -> pa.Table:
    try:
        return to_table(rows)
    except ValueError as error:
        raise FacegmError(f"{folder / _MANIFEST}: damaged ({error})") from error


def _lines(path: Path, *fields: str) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):  # else an interruption has torn it
                try:
                    row = json.loads(line)
                    _ = row["key"].encode("ascii", "ignore"), [row[field] for field in fields]
                    yield row
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise FacegmError(f"{path}, line {number}: damaged ({error}); take the line out") from error
