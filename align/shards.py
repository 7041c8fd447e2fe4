"""The manifests of jobs that align a data set together, and the one that comes of them."""

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facegm.align.config import Shard
from facegm.align.timings import TIMINGS_FILE, merge_timings
from facegm.data.files import atomic_file
from facegm.data.store import MANIFEST_FILE, SETTINGS_FILE, SHARDS_FOLDER, FaceRecord, encode_record, read_manifest
from facegm.errors import FacegmError


@dataclass(frozen=True)
class ManifestFiles:
    """Where records and timings go, as paths within the store."""

    manifest: str
    timings: str

    @classmethod
    def of(cls, shard: Shard) -> "ManifestFiles":
        """The files of one job."""
        stem = f"{SHARDS_FOLDER}/{shard.name}"
        return cls(f"{stem}.jsonl", f"{stem}.{TIMINGS_FILE}")


_LOCK_FILE = ".lock"

MERGED = ManifestFiles(MANIFEST_FILE, TIMINGS_FILE)
"""The files of a whole store."""


def check_division(folder: Path, shard: Shard | None) -> None:
    """Refuse to go on with a store that was begun in another number of jobs, which would do everything again.

    Args:
        folder: the store.
        shard: the job that begins; None where there is one alone.

    Raises:
        FacegmError: the store was begun otherwise.
    """
    counts = {int(path.stem.rpartition("-")[2]) for path in (folder / SHARDS_FOLDER).glob("*-of-*.jsonl")}
    if counts - ({shard.count} if shard else set()):
        raise FacegmError(f"{folder}: begun by jobs with --shard I/{max(counts)}; go on with those")
    if shard and not counts and (folder / MANIFEST_FILE).is_file():
        raise FacegmError(f"{folder}: begun without --shard; go on without it")


def merge_shards(folder: Path, shard: Shard, keys: Sequence[str]) -> None:
    """Write the store's manifest once the manifests of all jobs together record all photos.

    Every job does so at its end, one at a time, so that the last one to end has seen what all others have.

    Args:
        folder: the store.
        shard: the job that has come to its end.
        keys: all photos of the store.
    """
    with (folder / SHARDS_FOLDER / _LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _merge(folder, shard, keys)


def _merge(folder: Path, shard: Shard, keys: Sequence[str]) -> None:
    files = [ManifestFiles.of(Shard(index=index, count=shard.count)) for index in range(shard.count)]
    records: dict[str, FaceRecord] = {}
    for one in files:
        records.update((record.key, record) for record in read_manifest(folder / one.manifest))
    if not records.keys() >= set(keys):
        return
    ordered = sorted(records.values(), key=lambda record: os.fsencode(record.key))
    with atomic_file(folder / TIMINGS_FILE, writer=shard.name) as file:
        file.write(merge_timings(folder / one.timings for one in files))
    with atomic_file(folder / MANIFEST_FILE, writer=shard.name) as file:
        file.writelines(encode_record(record).encode("ascii") for record in ordered)
    for left in folder.glob(f".{SETTINGS_FILE}.*"):  # by a job that was killed when it began
        left.unlink(missing_ok=True)
