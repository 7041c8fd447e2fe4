"""The database that a gallery's file is: how it is made, opened and written to, and what it says when it cannot be.

A transaction is on the disk when it returns, and is there as a whole or not at all, whatever kill or power cut ends it:
SQLite's rollback journal with `synchronous=EXTRA`, which also waits for the journal's end to be on the disk. There is a
journal beside the file only while something is written; after a kill the next to open the gallery takes back by it what
was half done. (A write-ahead log would be faster, but leaves acknowledged samples in a second file, which a copy of the
gallery then lacks, and it does not work on network file systems.) One process at a time writes, others wait; what is
removed is overwritten.
"""

import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facegm.embedding.contract import EmbeddingContract
from facegm.errors import FacegmError

APPLICATION = int.from_bytes(b"fgmG", "big")
"""By what SQLite's header says that the database is a gallery."""
FORMAT = 1
PATIENCE = 60.0
"""Seconds that another process's transaction is waited for."""

_SCHEMA = (
    "CREATE TABLE gallery (key TEXT PRIMARY KEY, value NOT NULL)",
    "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    # An id is never given again, so that an index knows by it what is new; embeddings are float32, little-endian.
    """CREATE TABLE samples (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        person INTEGER NOT NULL REFERENCES people,
        source TEXT,
        digest TEXT,
        enrolled TEXT NOT NULL,
        embedding BLOB NOT NULL
    )""",
    "CREATE INDEX samples_of_person ON samples (person)",
    "INSERT INTO gallery VALUES ('removals', 0)",
    """CREATE TRIGGER removal AFTER DELETE ON samples BEGIN
        UPDATE gallery SET value = value + 1 WHERE key = 'removals';
    END""",
)

SETTINGS = ("synchronous=EXTRA", "foreign_keys=ON", "secure_delete=ON", "page_size=16384", "cache_spill=OFF")
"""Of a connection. What a transaction changes stays in memory until its end, so that others can read until then."""

_NO_GALLERY = "not a gallery; `facegm enroll` makes one"
_TOLD = {
    "file is not a database": _NO_GALLERY,
    "database disk image is malformed": "damaged; take a copy of the gallery from before",
    "database is locked": f"another process has been writing for {PATIENCE:.0f} seconds; try again later",
}
"""What SQLite says, in words for the user."""


class Database:
    """The database of a gallery. Not for several threads at a time.

    Args:
        path: the file.
        contract: whose embeddings it must hold; None for those that it does hold.
        is_created: make it where it is missing, which takes a contract.

    Raises:
        FacegmError: no such gallery, a file of another kind, a damaged one, or another model's gallery.
    """

    contract: EmbeddingContract
    uuid: str
    """Tells the gallery from all others."""

    def __init__(self, path: Path, contract: EmbeddingContract | None, *, is_created: bool) -> None:
        if not path.is_file() and not is_created:
            raise FacegmError(f"{path}: no such gallery; `facegm enroll` makes one")
        self.path = path
        with self._named_errors():
            self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        for setting in SETTINGS:
            self.query(f"PRAGMA {setting}")
        if is_created and contract is not None:
            self._create(contract)
        self.contract, self.uuid = self._described()
        if contract is not None:
            self.contract.require(contract, str(path))

    def _create(self, contract: EmbeddingContract) -> None:
        with self.writing():
            if self.query("SELECT 1 FROM sqlite_master"):
                return  # made before, perhaps by a process that began at the same time
            for statement in _SCHEMA:
                self.query(statement)
            self.query("INSERT INTO gallery VALUES ('contract', ?)", (json.dumps(contract.to_json()),))
            self.query("INSERT INTO gallery VALUES ('uuid', ?)", (str(uuid.uuid4()),))
            self.query(f"PRAGMA application_id={APPLICATION}")
            self.query(f"PRAGMA user_version={FORMAT}")

    def _described(self) -> tuple[EmbeddingContract, str]:
        ((application,),), ((version,),) = self.query("PRAGMA application_id"), self.query("PRAGMA user_version")
        if application != APPLICATION:
            raise FacegmError(f"{self.path}: {_NO_GALLERY}")
        if version != FORMAT:
            raise FacegmError(f"{self.path}: a gallery of format {version}; this facegm reads format {FORMAT}")
        described = dict(self.query("SELECT key, value FROM gallery"))
        try:
            return EmbeddingContract.from_json(json.loads(described["contract"])), str(described["uuid"])
        except (KeyError, TypeError, ValueError) as error:
            raise FacegmError(f"{self.path}: a gallery whose contract cannot be read ({error})") from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def query(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a statement.

        Returns:
            All rows that it gives.

        Raises:
            FacegmError: the file is damaged, another process writes without an end, or the disk is full.
        """
        with self._named_errors():
            return self._connection.execute(statement, parameters).fetchall()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: no other process writes meanwhile, and what the block does is on the disk at its end, or gone.

        Raises:
            FacegmError: as `query`.
        """
        self.query("BEGIN IMMEDIATE")
        try:
            yield
            self.query("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                self.query("ROLLBACK")
            raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise FacegmError(f"{self.path}: {_TOLD.get(str(error), error)}") from error
