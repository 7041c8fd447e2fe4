"""What an embedding of photos has done so far: files of rows in a folder beside the output; a kill loses little.

    job.json                       what is embedded how, which must be the same when it goes on; its lock is the run's
    000000000-000000128.parquet    the rows of the photos from the first number to before the second

Each file appears whole, and photos are recorded in their order, so that what is there is what was done. Photos that are
looked at together are recorded together, and looked at in the same company again where they were not: products are
rounded according to the sizes of their factors, and a run that was interrupted must not differ from one that was not.
"""

import fcntl
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from facegm.data.files import atomic_file, create_atomically
from facegm.embedding.face_table import Row, description_of, to_table
from facegm.errors import FacegmError

JOB_FILE = "job.json"
PART_SECONDS = 5.0
"""Between two files: what a kill costs, about."""
logger = logging.getLogger(__name__)


class FaceParts:
    """The folder of an embedding that is under way; a context manager, at whose end what is waiting is recorded.

    Args:
        folder: made when missing.
        columns: of the table, with its description: see `facegm.embedding.face_table.schema`.
        photos: how many there are in all.
        group: how many are looked at together.

    Raises:
        FacegmError: the folder is of another embedding or of something else, or another process is at work on it.
    """

    def __init__(self, folder: Path, columns: pa.Schema, *, photos: int, group: int) -> None:
        self._folder, self._columns, self._photos, self._group = folder, columns, photos, group
        self._waiting: list[Sequence[Row]] = []
        description = description_of(columns)
        folder.mkdir(exist_ok=True)
        job = folder / JOB_FILE
        if not job.exists():
            _require_nothing_else(folder)
            create_atomically(job, (json.dumps(description, indent=1, sort_keys=True) + "\n").encode())
        self._lock = job.open("r+b")
        try:
            _take(self._lock, folder, description)
            self._parts = list(self._whole_parts())
        except BaseException:
            self._lock.close()
            raise
        self.done = _numbers(self._parts[-1])[1] if self._parts else 0
        """Photos, from the first on, that are recorded."""
        self._recorded = time.monotonic()

    def __enter__(self) -> "FaceParts":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._record()
        finally:
            self._lock.close()

    def add(self, photos: Sequence[Sequence[Row]]) -> None:
        """Take the rows of each of the next photos, and record them now and then."""
        self._waiting += photos
        if time.monotonic() > self._recorded + PART_SECONDS:
            self._record()

    def tables(self) -> Iterator[pa.Table]:
        """All rows, in the order of the photos.

        Raises:
            FacegmError: a file is damaged, or photos lack.
        """
        self._record()
        if self.done < self._photos:
            raise FacegmError(f"{self._folder}: {self._photos - self.done:,} photos lack; run the same command again")
        yield from map(self._read, self._parts)

    def remove(self) -> None:
        """Take the folder away: what is in it is in the output."""
        _remove(self._folder)

    def _read(self, part: Path) -> pa.Table:
        try:
            return pq.read_table(part, schema=self._columns, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise FacegmError(f"{part}: damaged ({error}); delete it and run the same command again") from error

    def _whole_parts(self) -> Iterator[Path]:
        """The files up to the first that lacks or is damaged; those after it are taken away."""
        done = 0
        for part in sorted(filter(_is_part, self._folder.iterdir())):
            if _numbers(part)[0] == done and _is_whole(part):
                done = _numbers(part)[1]
                yield part
            else:
                part.unlink()

    def _record(self) -> None:
        """Record the photos that are waiting, but for those of a group that is not complete."""
        count = len(self._waiting)
        if self.done + count < self._photos:
            count -= count % self._group
        if count:
            part = self._folder / f"{self.done:09}-{self.done + count:09}.parquet"
            rows = [row for photo in self._waiting[:count] for row in photo]
            with atomic_file(part, sync=True) as file:
                pq.write_table(to_table(rows, self._columns), file, compression="none", write_page_checksum=True)
            self._parts.append(part)
            self.done += count
            del self._waiting[:count]
        self._recorded = time.monotonic()


def remove_leftovers(folder: Path, columns: pa.Schema) -> None:
    """Take away what an embedding that was killed at its very end has left; what is of another, or in use, stays.

    Args:
        folder: perhaps of that embedding; perhaps there is none.
        columns: of its table, with its description.
    """
    with suppress(FileNotFoundError, NotADirectoryError, FacegmError), (folder / JOB_FILE).open("r+b") as lock:
        _take(lock, folder, description_of(columns))
        _remove(folder)


def _require_nothing_else(folder: Path) -> None:
    """Raise FacegmError where a folder without a job holds more than what a kill leaves of the making of one."""
    if any(not _is_partial(path) for path in folder.iterdir()):
        raise FacegmError(
            f"{folder}: holds no {JOB_FILE}, so that it is no folder of `facegm embed`, which would work there; move "
            "it away, or give another --output"
        )


def _take(lock: BinaryIO, folder: Path, description: Mapping[str, Any]) -> None:
    """Make sure that a folder is this run's alone, and of the same embedding.

    Args:
        lock: the opened file of its job.
        folder: for what is said.
        description: of the embedding.

    Raises:
        FacegmError: it is not.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FacegmError(f"{folder}: another `facegm embed` is at work on this; wait for its end") from error
    try:
        begun = dict(json.loads(lock.read()))
    except ValueError as error:
        raise FacegmError(f"{folder / JOB_FILE}: damaged; delete {folder} to begin anew") from error
    changed = [name for name in {**begun, **description} if begun.get(name) != description.get(name)]
    if changed:
        raise FacegmError(
            f"{folder}: the embedding that was interrupted here was of other {' and '.join(changed)}; do as then, or "
            "delete the folder to begin anew"
        )


def _remove(folder: Path) -> None:
    """Remove an embedding's own files, the job last, and then the folder; it stays where it holds anything else."""
    for path in filter(lambda path: _is_part(path) or _is_partial(path), list(folder.iterdir())):
        path.unlink(missing_ok=True)
    (folder / JOB_FILE).unlink()
    try:
        folder.rmdir()
    except OSError:
        logger.warning(f"{folder}: holds files that are not of this embedding, and is left")


def _is_part(path: Path) -> bool:
    return re.fullmatch(r"\d+-\d+\.parquet", path.name) is not None


def _is_partial(path: Path) -> bool:
    """Whether it is what a kill has left of the writing of a file here."""
    return re.fullmatch(r"\.(job\.json|\d+-\d+\.parquet)\..*partial", path.name) is not None


def _numbers(part: Path) -> tuple[int, int]:
    """The numbers of a file's first photo, and of that after its last."""
    first, _, after = part.stem.partition("-")
    return int(first), int(after)


def _is_whole(part: Path) -> bool:
    try:
        pq.read_metadata(part)
    except (pa.ArrowException, OSError):
        return False
    return True
