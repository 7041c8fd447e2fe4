"""What has been done since a store's manifest was written: a line for photos that were looked at together.

A line is the CRC-32 of its content in hexadecimal, a space, and the content: a JSON list of the fields of `FaceRecord`
and of the pictures' places. So whatever a killed process or a power cut leaves of it, whole lines count and others do
not. Each of several jobs has a file of its own, and whoever holds its lock is at work on it.
"""

import fcntl
import json
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegm.errors import FacegmError

JOURNALS = "journal*.jsonl"
MAX_SHARDS = 512
"""The last one to finish opens the journals of all."""
SYNC_SECONDS = 5.0
"""Between two moments at which the disk is made to hold what was written."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several jobs that make a store together; they may run on different machines at the same time."""

    index: int
    """This job, from 0."""
    count: int
    """Number of jobs."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count <= MAX_SHARDS:
            raise ValueError(f"shard: {self.index}/{self.count}, must be from 0/N to N-1/N, N at most {MAX_SHARDS}")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `i/n`.

        Raises:
            ValueError: it is something else, or i is not below n.
        """
        numbers = re.fullmatch(r"(\d+)/(\d+)", text)
        if numbers is None:
            raise ValueError(f"shard: {text}, must be i/n, such as 0/4 for the first of four jobs")
        return cls(index=int(numbers[1]), count=int(numbers[2]))

    @property
    def name(self) -> str:
        """Names this job's journal."""
        return f"{self.index:05}-of-{self.count:05}"


class Journal:
    """The journal of a job, which this process alone appends to; made when missing.

    Args:
        path: the file.

    Raises:
        FacegmError: another process is at work on it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self._file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), "r+b", buffering=0)  # noqa: SIM115
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
                    break
                self._file.close()
            except FileNotFoundError:  # the job that had it is at its end, and has taken it away
                self._file.close()
            except BlockingIOError as error:
                self._file.close()
                raise FacegmError(
                    f"{path.parent}: another `facegm align` is at work on this store; wait for its end"
                ) from error
        self._synced = time.monotonic()

    @classmethod
    def begin(cls, folder: Path, shard: Shard | None) -> "Journal":
        """The journal of a job that begins.

        Raises:
            FacegmError: another process is at work on it, or the store was begun in another number of jobs.
        """
        division = "" if shard is None else f"{shard.count:05}"
        for path in folder.glob(JOURNALS):
            begun = path.stem.partition("-of-")[2]
            if begun != division:
                how = (
                    f"by jobs with --shard I/{int(begun)}; go on with those"
                    if begun
                    else "without --shard; go on without it"
                )
                raise FacegmError(f"{folder}: begun {how}")
        return cls(folder / ("journal.jsonl" if shard is None else f"journal-{shard.name}.jsonl"))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append a line; an end of line stands before it as well, lest it go on with one that was torn."""
        content = json.dumps(rows, separators=(",", ":")).encode("ascii")
        data = b"\n%08x %b\n" % (zlib.crc32(content), content)
        while data:  # a disk that has become full takes less than it was given
            data = data[self._file.write(data) :]
        if time.monotonic() > self._synced + SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Let others at it; one in which nothing stands goes."""
        if not self._file.closed:
            if not os.fstat(self._file.fileno()).st_size:
                self.remove()
            self._file.close()

    def remove(self) -> None:
        """Take the file away: what stands in it is in the manifest."""
        self.path.unlink(missing_ok=True)


def read_journal(path: Path) -> Iterator[list[dict[str, Any]]]:
    """What stands in the whole lines of a journal; nothing where its job has taken it away."""
    with suppress(FileNotFoundError), path.open("rb") as lines:
        for line in lines:
            checksum, _, content = line.rstrip(b"\n").partition(b" ")
            if checksum == b"%08x" % zlib.crc32(content):
                yield json.loads(content)
