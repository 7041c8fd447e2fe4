"""People and their samples in a Milvus cluster (the extra `facegm[milvus]`), which also searches for them.

A sample is acknowledged when the cluster has it in its log. There are no transactions: samples that others enrol at the
same moment are not judged against each other, and what a broken connection ends may be done in part; the same call
again completes it.
"""

import json
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from jaxtyping import Float32

from facegm.data.names import printable
from facegm.embedding.contract import EmbeddingContract
from facegm.errors import FacegmError
from facegm.gallery.file import Sample, UnknownPersonError
from facegm.gallery.milvus_collection import ROWS, MilvusCollection, Row
from facegm.gallery.recall import Recall
from facegm.gallery.rules import Match

QUERIES = 256
"""Embeddings that are searched for in one request."""
_ID_BITS = 53
"""Of ids: all programs that read JSON have integers of so many."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    """What is known and held back while samples are added."""

    known: dict[str, list[Row]]
    """All rows of the people who were asked for, by name, with those that are held back; read once, lest another
    machine's change come between a person's samples and their embeddings."""
    added: list[Row]
    """The rows that are held back."""


class MilvusStore:
    """See `facegm.gallery.store`: a `Store` and a `Search`. For the arguments and errors see `MilvusCollection`."""

    recall: Recall | None = None

    def __init__(self, address: str, contract: EmbeddingContract | None, *, is_created: bool = False) -> None:
        self._collection = MilvusCollection(address, contract, is_created=is_created)
        self.contract, self.uuid = self._collection.contract, self._collection.uuid
        self.close = self._collection.close
        self._held: _Held | None = None

    @contextmanager
    def writing(self) -> Iterator["MilvusStore"]:
        """What the block adds is held back until its end, and then sent together; all else counts at once."""
        writer, held = copy(self), _Held(known={}, added=[])
        writer._held = held
        yield writer
        self._insert(held.added)

    def people(self) -> dict[str, int]:
        """How many samples each person has, by name, in the names' order; takes a look at all samples."""
        counts = Counter(row["name"] for row in self._collection.rows("", "name"))
        return dict(sorted(counts.items()))

    def samples(self, name: str) -> list[Sample]:
        """A person's samples, in the order of their enrolment; none of a person who is not there."""
        return _samples(self._person(name))

    def samples_of(self, name: str) -> tuple[list[Sample], Float32[np.ndarray, "samples dim"]]:
        """The same with their embeddings, read at one time."""
        rows = self._person(name)
        embeddings = np.array([row["embedding"] for row in rows], np.float32).reshape(-1, self.contract.dim)
        return _samples(rows), embeddings

    def add(self, name: str, embedding: Float32[np.ndarray, " dim"], *, source: str | None, digest: str | None) -> int:
        """Add a sample, within `writing`.

        Returns:
            Its id, which is drawn, so that processes need not agree on the next one.
        """
        assert self._held is not None
        drawn = secrets.randbits(_ID_BITS)
        row: Row = {
            "id": drawn,
            "name": name,
            "source": source,
            "digest": digest,
            "enrolled": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
            "embedding": embedding,
        }
        self._person(name).append(row)
        self._held.added.append(row)
        return drawn

    def remove_person(self, name: str) -> None:
        """Remove a person with all samples."""
        self._require(name)
        self._collection.delete(_is_of(name))

    def remove_sample(self, sample: int) -> None:
        """Remove a sample; a person without samples goes as well."""
        if not self._collection.has(f"id == {sample}"):
            raise UnknownPersonError(f"{self._collection.address}: no sample {sample}")
        self._collection.delete(f"id == {sample}")

    def rename(self, old: str, new: str) -> None:
        """Give a person a name that nobody else has."""
        self._require(old)
        if new != old and self._collection.has(_is_of(new)):
            raise FacegmError(
                f"{self._collection.address}: {printable(new)} is there already; merge the two if they are one person"
            )
        self._give(old, new)

    def merge(self, name: str, into: str) -> None:
        """Give all samples of a person to another one."""
        self._require(name)
        self._require(into)
        self._give(name, into)

    def catch_up(self) -> None:
        """Nothing: the cluster searches what it holds."""

    def nearest(self, vectors: Float32[np.ndarray, "queries dim"], k: int) -> list[list[Match]]:
        """The nearest people of each vector, each by the nearest sample."""
        found = [
            hits
            for start in range(0, len(vectors), QUERIES)
            for hits in self._collection.search(vectors[start : start + QUERIES], k, by="name")
        ]
        return [
            [
                Match(name=hit["entity"]["name"], sample_id=hit["id"], distance=max(hit["distance"], 0.0) ** 0.5)
                for hit in hits
            ]
            for hits in found
        ]

    def _insert(self, added: list[Row]) -> None:
        for start in range(0, len(added), ROWS):
            rows = added[start : start + ROWS]
            ids = [row["id"] for row in rows]
            if len(set(ids)) < len(ids) or self._collection.has(f"id in {ids}"):
                raise FacegmError(f"{self._collection.address}: an id was drawn twice, by a rare chance; try again")
            self._collection.insert(rows)

    def _give(self, name: str, into: str) -> None:
        if name != into:
            rows = [row | {"name": into} for row in self._person(name)]
            for start in range(0, len(rows), ROWS):
                self._collection.replace(rows[start : start + ROWS])

    def _person(self, name: str) -> list[Row]:
        """A person's rows, in the order of their enrolment, with those that are held back."""
        if self._held is not None and name in self._held.known:
            return self._held.known[name]
        rows = sorted(self._collection.rows(_is_of(name), "*"), key=lambda row: (row["enrolled"], row["id"]))
        if self._held is not None:
            self._held.known[name] = rows
        return rows

    def _require(self, name: str) -> None:
        if not self._collection.has(_is_of(name)):
            raise UnknownPersonError(f"{self._collection.address}: nobody is called {printable(name)}")


def _samples(rows: list[Row]) -> list[Sample]:
    fields = ("id", "source", "digest", "enrolled")
    return [Sample(**{field: row[field] for field in fields}) for row in rows]


def _is_of(name: str) -> str:
    """The condition that a row is of a person; Milvus has JSON's way to write a string."""
    return f"name == {json.dumps(name, ensure_ascii=False)}"
