"""A store of aligned faces while it is made: what it holds already, what is still to do, and in what order it ends."""

import errno
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from facegm.align.config import AlignConfig
from facegm.align.shards import MERGED, ManifestFiles, check_division, merge_shards
from facegm.align.store_settings import open_folder
from facegm.align.worker import Result
from facegm.data.face_files import FIRST_PART, append_faces
from facegm.data.files import atomic_file
from facegm.data.find_photos import Photo
from facegm.data.store import FaceRecord, count_statuses, encode_record, read_manifest
from facegm.errors import FacegmError


class GrowingStore:
    """A new or unfinished store, for the photos of one source.

    Faces are written before their lines of the manifest, lines of photos that were looked at together at once, and all
    in the order of the photos, so that a store that was interrupted and gone on with ends like one that was not. Photos
    that could not be read are tried again.

    Args:
        folder: the store's folder, made when missing.
        source: what the photos come from.
        groups: all photos that the store shall hold, in order, as they are looked at together.
        config: how they are aligned and kept. A shard takes every so manieth group, and has a manifest of its own until
            all shards are at their end.

    Raises:
        FacegmError: the folder is something else, or a store of another source or other options; or another process
            is writing its tar file.
    """

    def __init__(self, folder: Path, source: Path, groups: Sequence[Sequence[Photo]], config: AlignConfig) -> None:
        if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
            raise FacegmError(f"{folder}: lies inside the photos' own folder {source}; give an --output outside of it")
        self.runtime = open_folder(folder, source, config)
        self._folder, self._groups, self._shard = folder, groups, config.shard
        self._files = MERGED if config.shard is None else ManifestFiles.of(config.shard)
        mine = groups if config.shard is None else groups[config.shard.index :: config.shard.count]
        self._manifest = folder / self._files.manifest
        check_division(folder, config.shard)
        self._manifest.parent.mkdir(exist_ok=True)
        # What follows the last complete line, left by an interruption, goes as well.
        self._records = _whole_groups(list(read_manifest(self._manifest)), mine)
        pictured = [key for key, record in self._records.items() if record.has_face_image]
        part = FIRST_PART if config.shard is None else f"{config.shard.index:05}"
        self._faces = append_faces(folder, config.store_format, recorded=pictured, part=part)
        for key in self._faces.lost:
            del self._records[key]
        self._write_manifest()
        final = {key for key, record in self._records.items() if record.is_final}
        waiting = [[photo for photo in group if photo.key not in final] for group in mine]
        self.waiting = [group for group in waiting if group]
        self.done = sum(map(len, mine)) - sum(map(len, self.waiting))

    def __enter__(self) -> "GrowingStore":
        with ExitStack() as opened:
            opened.callback(self._faces.close)
            self._lines = opened.enter_context(self._manifest.open("a", encoding="ascii"))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()
        if error == (None, None, None):
            self._records = dict(sorted(self._records.items(), key=lambda item: os.fsencode(item[0])))
            self._write_manifest()
            if self._shard is not None:
                merge_shards(self._folder, self._shard, [photo.key for group in self._groups for photo in group])

    def add(self, results: Sequence[Result]) -> None:
        """Keep the faces and records of the next photos, whole groups of them."""
        records = [self._keep(result) for result in results]
        self._lines.write("".join(map(encode_record, records)))
        self._lines.flush()
        self._records.update((record.key, record) for record in records)

    def counts(self) -> Counter[str]:
        """How many photos have each status, and under `failed: <reason>` how many failed for each reason."""
        return count_statuses(self._records.values())

    def _keep(self, result: Result) -> FaceRecord:
        record = result.record
        if result.face is None:
            return record
        try:
            self._faces.append(record.key, result.face)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            # The store's names are a little longer than the photos'.
            reason = "file name too long for the store"
            return FaceRecord(key=record.key, identity=record.identity, status="failed", reason=reason)
        return record

    def _write_manifest(self) -> None:
        with atomic_file(self._manifest) as file:
            file.writelines(encode_record(record).encode("ascii") for record in self._records.values())


def _whole_groups(records: Sequence[FaceRecord], groups: Sequence[Sequence[Photo]]) -> dict[str, FaceRecord]:
    """The records by key, without those of a group that a kill has torn: it is looked at again, in the same company."""
    by_key = {record.key: record for record in records}
    for group in groups:
        keys = [photo.key for photo in group]
        if records and records[-1].key in keys and not by_key.keys() >= set(keys):
            return {key: record for key, record in by_key.items() if key not in keys}
    return by_key
