"""What stands in a gallery's file: people, and their samples with embeddings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from facegm.data.names import printable
from facegm.embedding.contract import EmbeddingContract
from facegm.errors import FacegmError
from facegm.gallery.database import Database

ROWS = 8192
"""Embeddings that are read at a time."""
MAX_ID = 2**63 - 1
"""SQLite's largest whole number."""


class UnknownPersonError(FacegmError):
    """A person or sample that the gallery does not hold."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is known of an enrolled sample beside its embedding; neither photo nor face is kept."""

    id: int
    source: str | None
    """Name of the photo."""
    digest: str | None
    """SHA-256 of the photo's bytes, in hexadecimal."""
    enrolled: str
    """When, in UTC, as ISO 8601 has it."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """By what one sees cheaply, against an extent from before, which samples came and whether some went."""

    last_id: int
    """The largest id that was ever given."""
    removals: int
    """Samples that were ever removed."""


class GalleryFile:
    """The people and samples of a gallery's file. Not for several threads at a time; see `Gallery`.

    Args:
        path: the file.
        contract: whose embeddings it must hold; None for those that it does hold.
        is_created: make it where it is missing, which takes a contract.

    Raises:
        FacegmError: no such gallery, a file of another kind, a damaged one, or another model's gallery. All methods:
            the file cannot be read or written.
    """

    def __init__(self, path: Path, contract: EmbeddingContract | None, *, is_created: bool = False) -> None:
        self._database = Database(path, contract, is_created=is_created)
        self.contract, self.uuid = self._database.contract, self._database.uuid
        self.close = self._database.close

    @contextmanager
    def writing(self) -> Iterator["GalleryFile"]:
        """A transaction; see `Database.writing`.

        Yields:
            The file by a connection of its own: who reads by this one does not wait while that one waits for another
            process, and sees nothing of the changes before the end.
        """
        writer = GalleryFile(self._database.path, self.contract)
        try:
            if writer.uuid != self.uuid:
                raise FacegmError(f"{self._database.path}: another gallery than was opened is there now; open it anew")
            with writer._database.writing():
                yield writer
        finally:
            writer.close()

    def extent(self) -> Extent:
        """What the file holds now, in short."""
        last = self._database.query("SELECT seq FROM sqlite_sequence WHERE name = 'samples'")
        ((removals,),) = self._database.query("SELECT value FROM gallery WHERE key = 'removals'")
        return Extent(last_id=last[0][0] if last else 0, removals=removals)

    def ids(self) -> Int64[np.ndarray, " samples"]:
        """The ids of all samples, ascending."""
        return np.array(self._database.query("SELECT id FROM samples ORDER BY id"), np.int64).reshape(-1)

    def embeddings_between(
        self, after: int, last: int
    ) -> Iterator[tuple[Int64[np.ndarray, " rows"], Float32[np.ndarray, "rows dim"]]]:
        """Yield ids and embeddings of the samples whose ids are above `after` and at most `last`, ascending."""
        statement = "SELECT id, embedding FROM samples WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        while rows := self._database.query(statement, (after, last, ROWS)):
            yield np.array([row[0] for row in rows], np.int64), self._embeddings([row[1] for row in rows])
            after = rows[-1][0]

    def samples_of(self, name: str) -> tuple[list[Sample], Float32[np.ndarray, "samples dim"]]:
        """The same as `samples` with their embeddings, read at one time."""
        rows = self._rows(name, "samples.id, source, digest, enrolled, embedding")
        return [_sample(row) for row in rows], self._embeddings([row[4] for row in rows])

    def _embeddings(self, blobs: Sequence[bytes]) -> Float32[np.ndarray, "rows dim"]:
        dim = self.contract.dim
        if all(len(blob) == 4 * dim for blob in blobs):
            embeddings = np.frombuffer(b"".join(blobs), "<f4").astype(np.float32, copy=False).reshape(-1, dim)
            if is_unit_length(embeddings).all():
                return embeddings
        raise FacegmError(f"{self._database.path}: damaged embeddings; take a copy of the gallery from before")

    def people(self) -> dict[str, int]:
        """How many samples each person has, by name, in the names' order."""
        return dict(
            self._database.query(
                "SELECT name, count(*) FROM people JOIN samples ON person = people.id GROUP BY people.id ORDER BY name"
            )
        )

    def num_people(self, *, at_most: int) -> int:
        """How many people there are, counted up to a number."""
        ((count,),) = self._database.query("SELECT count(*) FROM (SELECT 1 FROM people LIMIT ?)", (at_most,))
        return int(count)

    def samples(self, name: str) -> list[Sample]:
        """A person's samples, in the order of their enrolment; none of a person who is not there."""
        return [_sample(row) for row in self._rows(name, "samples.id, source, digest, enrolled")]

    def _rows(self, name: str, columns: str) -> list[tuple[Any, ...]]:
        return self._database.query(
            f"SELECT {columns} FROM samples JOIN people ON people.id = person WHERE name = ? ORDER BY samples.id",
            (name,),
        )

    def names_of(self, ids: Sequence[int]) -> dict[int, str]:
        """The person of each sample; samples that are not there are left out."""
        statement = "SELECT name FROM people JOIN samples ON person = people.id WHERE samples.id = ?"
        return {sample: name for sample in ids for (name,) in self._database.query(statement, (sample,))}

    def add(self, name: str, embedding: Float32[np.ndarray, " dim"], *, source: str | None, digest: str | None) -> int:
        """Add a sample, within a transaction; its person comes to be where there is none of the name.

        Returns:
            The sample's id.
        """
        self._database.query("INSERT OR IGNORE INTO people (name) VALUES (?)", (name,))
        enrolled = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._database.query(
            "INSERT INTO samples (person, source, digest, enrolled, embedding) VALUES (?, ?, ?, ?, ?)",
            (self._person(name), source, digest, enrolled, embedding.astype("<f4").tobytes()),
        )
        ((added,),) = self._database.query("SELECT last_insert_rowid()")
        return int(added)

    def remove_person(self, name: str) -> None:
        """Remove a person with all samples, within a transaction."""
        person = self._person(name)
        self._database.query("DELETE FROM samples WHERE person = ?", (person,))
        self._database.query("DELETE FROM people WHERE id = ?", (person,))

    def remove_sample(self, sample: int) -> None:
        """Remove a sample, within a transaction; a person without samples goes as well."""
        is_possible = 0 < sample <= MAX_ID
        people = self._database.query("SELECT person FROM samples WHERE id = ?", (sample,)) if is_possible else []
        if not people:
            raise UnknownPersonError(f"{self._database.path}: no sample {sample}")
        self._database.query("DELETE FROM samples WHERE id = ?", (sample,))
        self._database.query(
            "DELETE FROM people WHERE id = ? AND NOT EXISTS (SELECT 1 FROM samples WHERE person = people.id)", people[0]
        )

    def rename(self, old: str, new: str) -> None:
        """Give a person a name that nobody else has, within a transaction."""
        person, taken = self._person(old), self._database.query("SELECT id FROM people WHERE name = ?", (new,))
        if taken and taken != [(person,)]:
            raise FacegmError(
                f"{self._database.path}: {printable(new)} is there already; merge the two if they are one person"
            )
        self._database.query("UPDATE people SET name = ? WHERE id = ?", (new, person))

    def merge(self, name: str, into: str) -> None:
        """Give all samples of a person to another one, within a transaction."""
        person, other = self._person(name), self._person(into)
        if person != other:
            self._database.query("UPDATE samples SET person = ? WHERE person = ?", (other, person))
            self._database.query("DELETE FROM people WHERE id = ?", (person,))

    def _person(self, name: str) -> int:
        found = self._database.query("SELECT id FROM people WHERE name = ?", (name,))
        if not found:
            raise UnknownPersonError(f"{self._database.path}: nobody is called {printable(name)}")
        return int(found[0][0])


def _sample(row: tuple[Any, ...]) -> Sample:
    return Sample(id=row[0], source=row[1], digest=row[2], enrolled=row[3])


def is_unit_length(embeddings: Float32[np.ndarray, "rows dim"]) -> Bool[np.ndarray, " rows"]:
    """Which embeddings have unit L2 norm, but for the rounding of whatever scaled them; NaN has not."""
    return np.asarray(np.abs(np.linalg.norm(embeddings, axis=1) - 1) < 1e-3)
