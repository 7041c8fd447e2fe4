"""Making a store of aligned faces: what it holds already, what is to be done, and how nothing is lost on the way.

What is done goes into a journal (`facegm.store.journal`), after the faces themselves; the manifest is made of it at the
end. A killed process loses what it was busy with. A power cut may take lines and faces in any order: the next run looks
at every face, and makes anew what is not whole.
"""

import errno
import fcntl
import hashlib
import logging
import os
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64

from facegm.data.names import escaped, unescaped
from facegm.data.progress import Progress
from facegm.data.readers.photo import Photo, UnreadablePhotoError
from facegm.data.readers.source import photo_stamp, read_photo_bytes
from facegm.errors import FacegmError
from facegm.store.faces import FaceWriter, FolderWriter, TarWriter, member_ends, place_of
from facegm.store.format import (
    MANIFEST_FILE,
    SCHEMA,
    SETTINGS_FILE,
    FaceRecord,
    StoreFormat,
    begin_store,
    count_statuses,
    has_face,
    manifest_writer,
    numbers_of,
    to_table,
)
from facegm.store.journal import JOURNALS, Journal, Shard, read_journal
from facegm.store.reader import read_manifest

logger = logging.getLogger(__name__)
ROWS = 2**17
"""Of the manifest that are made and written together."""
CHECKED = 64
"""Photos that a thread checks at a time."""
MAX_MISSING_SHARE = 0.1
"""Share of a store's photos that may be gone from the source, or ten of them, before it looks like a mistake."""
_STAMP = ["photo_bytes", "photo_modified_ns"]
_STATE = ["key", "status", "faces", "digest", *_STAMP, "part", "offset", "length", "checksum"]


@dataclass(frozen=True, kw_only=True)
class StoreSummary:
    """What a store holds at the end of an alignment; of a shard, its own part."""

    statuses: Counter[str]
    """As `facegm.store.format.count_statuses` counts them."""
    identities: int
    """Identities with a face."""
    faces: int
    """Photos with a face."""
    unknown: int
    """Of these, those of no known identity."""
    changes: Counter[str] = field(default_factory=Counter)
    """Photos that were there before and are `gone` now or `changed`, and faces that were found `damaged`."""


class StoreWriter:
    """A new, unfinished or finished store, to be brought into step with the photos of a source.

    Photos that the store knows already are not looked at again unless they could not be read, are others now (by size
    and time, then by digest), or their face is damaged. Records and faces follow the photos that are there now, and so
    do identities.

    Args:
        folder: the store's folder, made when missing.
        photos: all that the store shall hold, in order.
        settings: how they are aligned and kept; see `begin_store`.
        batch: photos that are looked at together.
        shard: the job that this is, where several make the store. It has every `count`-th batch and a journal of its
            own; the last one to finish writes the manifest.
        remove_missing: whether any number of photos may be gone from the source.

    Raises:
        FacegmError: the folder is something else, or a store made otherwise; another process is at work on it; it was
            begun in another number of jobs; or so many photos are gone that it looks like a mistake.
    """

    def __init__(
        self,
        folder: Path,
        photos: Sequence[Photo],
        settings: Mapping[str, Any],
        *,
        batch: int,
        shard: Shard | None = None,
        remove_missing: bool = False,
    ) -> None:
        begin_store(folder, settings)
        self._folder, self._photos, self._shard = folder, photos, shard
        self._keys = pa.array([escaped(photo.key) for photo in photos], pa.string())
        self._format = StoreFormat.of(settings)
        self.changes: Counter[str] = Counter()
        group = np.arange(len(photos)) // batch
        self._mine = np.ones_like(group, np.bool_) if shard is None else group % shard.count == shard.index
        with _alone(folder):
            self._journal = Journal.begin(folder, shard)
        try:
            done, end = self._done(remove_missing)
            self._faces: FaceWriter = (
                TarWriter(folder, self._format, self._part, end)
                if self._format.container == "tar"
                else FolderWriter(folder, self._format)
            )
        except BaseException:
            self._journal.close()
            raise
        todo = np.flatnonzero(self._mine & ~done)
        firsts = np.flatnonzero(np.diff(group[todo], prepend=-1))
        self.waiting = [[photos[number] for number in some] for some in np.split(todo, firsts[1:]) if len(some)]
        self.done = int(self._mine.sum()) - len(todo)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._faces.finish()
            if error == (None, None, None):
                os.sync()  # faces and journals, before the manifest says that they are there
                self._end()
        finally:
            self._journal.close()

    def add(self, results: Sequence[tuple[FaceRecord, bytes | None]]) -> None:
        """Keep the faces and records of photos that were looked at together, in the order of `waiting`."""
        self._journal.write([self._keep(record, face) for record, face in results])

    def summary(self) -> StoreSummary:
        """What the store holds now."""
        table = _recorded(self._folder, ["key", "status", "reason"])
        rows = _rows(table, self._keys)[self._mine]
        table = table.take(rows[rows >= 0])
        pictured = has_face(table["status"])
        identities = [self._photos[number].identity for number in np.flatnonzero(self._mine)[rows >= 0][pictured]]
        return StoreSummary(
            statuses=count_statuses(table),
            identities=len({*identities} - {None}),
            faces=len(identities),
            unknown=identities.count(None),
            changes=self.changes,
        )

    @property
    def _part(self) -> str:
        """The tar file that this job appends to."""
        return f"{0 if self._shard is None else self._shard.index:05}"

    def _keep(self, record: FaceRecord, face: bytes | None) -> dict[str, Any]:
        row = {name: value for name, value in asdict(record).items() if value is not None}
        if face is None:
            return row
        try:
            part, offset = self._faces.append(record.key, face)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            # The store's names are a little longer than the photos'.
            reason = "file name too long for the store"
            return {"key": record.key, "identity": record.identity, "status": "failed", "reason": reason}
        return row | {"part": part, "offset": offset, "length": len(face), "checksum": zlib.crc32(face)}

    def _done(self, remove_missing: bool) -> tuple[Bool[np.ndarray, " photos"], int]:
        """Which photos are done, and where in this job's tar file the faces end that count."""
        table = _recorded(self._folder, _STATE)
        rows = _rows(table, self._keys)
        is_pictured = has_face(table["status"])
        recorded = rows >= 0
        done = recorded.copy()
        # Of a photo that could not be read, the number of faces is not known: it is tried again.
        done[done] = (is_pictured | pc.is_valid(table["faces"]).to_numpy())[rows[done]]
        self._stamps = np.full((len(rows), 2), -1, np.int64)
        self._check(table, rows, done)
        here = pc.is_in(table["key"], value_set=self._keys).to_numpy()
        gone = len(table["key"].filter(pa.array(~here & is_pictured)).unique())
        # Those that are in the source's list, but not where it says, are counted by each job for its own photos.
        for missing, known in (
            (gone, gone + int(recorded.sum())),
            (self.changes["gone"], int((recorded & self._mine).sum())),
        ):
            if not remove_missing and missing > max(10, MAX_MISSING_SHARE * known):
                raise FacegmError(
                    f"{self._folder}: {missing:,} of {known:,} photos of this store are no longer in the source, and "
                    "their faces would go; if that is meant, give --remove-missing"
                )
        self.changes["gone"] += gone
        counted = table.take(pa.array(rows[done]))
        counted = counted.filter(pc.equal(counted["part"], self._part))
        ends = member_ends(numbers_of(counted, "offset"), numbers_of(counted, "length"))
        return done, int(ends.max(initial=0))

    def _check(self, table: pa.Table, rows: Int64[np.ndarray, " photos"], done: Bool[np.ndarray, " photos"]) -> None:
        """Compare what is recorded with the photos and faces that are there; what differs is not `done`."""
        stop = threading.Event()

        def faults(span: Int64[np.ndarray, " some"]) -> list[str]:
            recorded = table.take(pa.array(rows[span])).to_pylist()
            checked = zip(span.tolist(), recorded, strict=True)
            return ["" if stop.is_set() else self._fault(number, row) for number, row in checked]

        self._containers: dict[str, tuple[int, int] | None] = {}
        numbers = np.flatnonzero(self._mine & done)
        spans = [numbers[start : start + CHECKED] for start in range(0, len(numbers), CHECKED)]
        with ThreadPoolExecutor() as threads, Progress("check", len(numbers), "photos") as progress:
            try:
                for span, found in zip(spans, threads.map(faults, spans), strict=True):
                    self.changes.update(filter(None, found))
                    done[span] = [not fault for fault in found]
                    progress.update(len(span))
            except BaseException:
                stop.set()  # so that Ctrl-C waits for no more than a photo of each thread
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _fault(self, number: int, row: Mapping[str, Any]) -> str:
        """Why a photo is not done, though it is recorded: `gone`, `changed` or `damaged`; empty where it is."""
        photo = self._photos[number]
        stamp = photo_stamp(photo, self._containers)
        if stamp is None:
            return "changed" if row["status"] == "failed" else "gone"
        self._stamps[number] = stamp
        recorded = row["photo_bytes"], row["photo_modified_ns"]
        if stamp != recorded and not (row["digest"] is None and recorded == (None, None)):
            try:
                if hashlib.sha256(read_photo_bytes(photo)).digest() != row["digest"]:
                    return "changed"
            except UnreadablePhotoError:
                return "changed"
        if row["status"] != "failed":
            place = place_of(self._folder, self._format, photo.key, row["part"], row["offset"] or 0, row["length"])
            try:
                data = place.read()
            except OSError:
                return "damaged"
            if (len(data), zlib.crc32(data)) != (row["length"], row["checksum"]):
                return "damaged"
        return ""

    def _end(self) -> None:
        """Write the manifest; of several jobs, the last one does."""
        with _alone(self._folder), ExitStack() as held:
            journals = [held.enter_context(closing(self._journal))]
            others = (path for path in self._folder.glob(JOURNALS) if path != self._journal.path)
            try:
                journals += [held.enter_context(closing(Journal(path))) for path in others]
            except FacegmError:  # that job has not finished: it will do so
                logger.info(f"{self._folder}: another job is still at work, and finishes the store")
                return
            table = _recorded(self._folder, SCHEMA.names)
            rows = _rows(table, self._keys)
            if missing := int((rows < 0).sum()):
                if self._shard is None:
                    raise FacegmError(
                        f"{self._folder}: {missing:,} photos are not recorded; run the same command again"
                    )
                logger.info(
                    f"{self._folder}: {missing:,} photos are left to other --shard jobs; the last one finishes it"
                )
                return
            self._write_manifest(table, rows)
            for journal in journals:
                journal.remove()

    def _write_manifest(self, table: pa.Table, rows: Int64[np.ndarray, " photos"]) -> None:
        final = table.select(["key", "status", "part", "offset", "length"]).take(pa.array(rows))
        pictured = final.filter(pa.array(has_face(final["status"])))
        had_face = table["key"].filter(pa.array(has_face(table["status"])))
        gone = had_face.filter(pc.invert(pc.is_in(had_face, value_set=pictured["key"])))
        # Before the manifest is written: a run that is killed in between finds that they are missing.
        self._faces.discard(map(unescaped, gone.unique().to_pylist()), pictured)
        identities = pa.array([photo.identity and escaped(photo.identity) for photo in self._photos], pa.string())
        with manifest_writer(self._folder) as manifest:
            for start in range(0, len(rows), ROWS):
                part = slice(start, start + ROWS)
                content = table.take(pa.array(rows[part]))
                columns = {"identity": identities[part]}
                for name, stamps in zip(_STAMP, self._stamps[part].T, strict=True):
                    columns[name] = pc.if_else(pa.array(stamps >= 0), pa.array(stamps), content[name])
                for name, values in columns.items():
                    content = content.set_column(SCHEMA.get_field_index(name), name, values)
                manifest.write_table(content.combine_chunks())
        os.sync()
        for left in self._folder.glob(f".{SETTINGS_FILE}.*"):  # by a job that was killed when it began
            left.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One job at a time begins or ends: the last to end has seen what all others have done, and none begins then."""
    with (folder / SETTINGS_FILE).open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _recorded(folder: Path, columns: list[str]) -> pa.Table:
    """What is recorded of photos, the last of each counting: the manifest's rows, and those of all journals."""
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    tables = [schema.empty_table()]
    if (folder / MANIFEST_FILE).is_file():
        tables.append(read_manifest(folder, columns).cast(schema))
    for path in sorted(folder.glob(JOURNALS)):
        lines = (row for rows in read_journal(path) for row in rows)
        while rows := [*islice(lines, ROWS)]:
            tables.append(to_table(rows, columns))
    # In one piece: of several, each `take` would make one again.
    return pa.concat_tables(tables).combine_chunks()


def _rows(table: pa.Table, keys: pa.Array) -> Int64[np.ndarray, " photos"]:
    """The last row of a table for each key; -1 where there is none."""
    backwards = table["key"].take(pa.array(np.arange(len(table))[::-1]))
    found = pc.index_in(keys, value_set=backwards)
    return np.where(pc.is_valid(found), len(table) - 1 - pc.fill_null(found, 0).to_numpy(), -1).astype(np.int64)
