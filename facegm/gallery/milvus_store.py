"""People and their samples in a collection of a Milvus cluster (the extra `facegm[milvus]`), which also searches.

A sample is acknowledged when the cluster has it in its log. The collection is read with strong consistency: whatever
was acknowledged to anybody before is found. There are no transactions: of enrolments that end early, samples may be
there that were not acknowledged, and a merge may be done in part; the same call again completes it.
"""

import json
import logging
import os
import secrets
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float32

from facegm.data.names import printable
from facegm.embedding.contract import EmbeddingContract
from facegm.errors import FacegmError
from facegm.gallery.file import Sample, UnknownPersonError
from facegm.gallery.recall import Recall
from facegm.gallery.rules import Match

PREFIX = "milvus+"
"""By what an address says that a gallery is a collection: `milvus+http://host:19530/collection`."""
TOKEN = "FACEGM_MILVUS_TOKEN"
"""The environment's variable that holds `user:password` or an API key, where the cluster asks for one."""
FORMAT = 1
CONNECT_SECONDS = 10.0
QUERIES = 256
"""Embeddings that are searched for in one request."""
ROWS = 1000
"""Rows that are read or written in one request."""
_PROPERTY = "facegm.gallery"
_ID_BITS = 53
"""Of ids: all programs that read JSON have integers of so many."""


class MilvusStore:
    """See `facegm.gallery.store`: a `Store` and a `Search`.

    Args:
        address: `milvus+`, how pymilvus reaches the cluster, `/`, and the collection.
        contract: whose embeddings it must hold; None for those that it does hold.
        is_created: make the collection where it is missing, which takes a contract.

    Raises:
        FacegmError: pymilvus is not installed, the cluster does not answer, there is no such collection, or it holds
            something else or another model's embeddings.
    """

    recall: Recall | None = None

    def __init__(self, address: str, contract: EmbeddingContract | None, *, is_created: bool = False) -> None:
        if find_spec("pymilvus") is None:
            raise FacegmError(f'{address}: pymilvus is not installed; pip install "facegm[milvus]"')
        from pymilvus import MilvusClient

        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs whatever it raises
        self._address = address
        uri, _, self._collection = address.removeprefix(PREFIX).rpartition("/")
        with self._named_errors():
            self._client = MilvusClient(uri, token=os.environ.get(TOKEN, ""), timeout=CONNECT_SECONDS)
            if is_created and contract is not None and not self._client.has_collection(self._collection):
                self._create(contract)
        self.contract, self.uuid = self._described()
        if contract is not None:
            self.contract.require(contract, address)
        with self._named_errors():
            self._client.load_collection(self._collection)

    def _create(self, contract: EmbeddingContract) -> None:
        from pymilvus import DataType, MilvusException

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        for field, max_bytes in {"name": 1024, "source": 8192, "digest": 64, "enrolled": 64}.items():
            schema.add_field(field, DataType.VARCHAR, max_length=max_bytes, nullable=field in {"source", "digest"})
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=contract.dim)
        index = self._client.prepare_index_params()
        index.add_index("embedding", index_type="FLAT", metric_type="L2")  # exact, and spread over the cluster
        description = {"format": FORMAT, "contract": contract.to_json(), "uuid": str(uuid.uuid4())}
        try:
            self._client.create_collection(
                self._collection,
                schema=schema,
                index_params=index,
                consistency_level="Strong",
                properties={_PROPERTY: json.dumps(description)},
            )
        except MilvusException:  # another process may have been faster
            if not self._client.has_collection(self._collection):
                raise

    def _described(self) -> tuple[EmbeddingContract, str]:
        with self._named_errors():
            if not self._client.has_collection(self._collection):
                raise FacegmError(f"{self._address}: no such gallery; `facegm enroll` makes one")
            properties = self._client.describe_collection(self._collection)["properties"]
        if _PROPERTY not in properties:
            raise FacegmError(f"{self._address}: the collection is not a gallery; take another name")
        try:
            description = json.loads(properties[_PROPERTY])
            if description["format"] != FORMAT:
                raise FacegmError(
                    f"{self._address}: a gallery of format {description['format']}; this facegm reads format {FORMAT}"
                )
            return EmbeddingContract.from_json(description["contract"]), str(description["uuid"])
        except (KeyError, TypeError, ValueError) as error:
            raise FacegmError(f"{self._address}: a gallery whose contract cannot be read ({error})") from error

    def close(self) -> None:
        """Let go of the cluster."""
        self._client.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise FacegmError(f"{self._address}: {error.message}") from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Each change counts at once, by itself."""
        yield

    def people(self) -> dict[str, int]:
        """How many samples each person has, by name, in the names' order; takes a look at all samples."""
        counts = Counter(row["name"] for row in self._rows("", "name"))
        return dict(sorted(counts.items()))

    def samples(self, name: str) -> list[Sample]:
        """A person's samples, in the order of their enrolment; none of a person who is not there."""
        rows = self._person(name, "id", "source", "digest", "enrolled")
        return [Sample(**row) for row in rows]

    def embeddings_of(self, name: str) -> Float32[np.ndarray, "samples dim"]:
        """The embeddings of a person's samples, as `samples` orders them."""
        rows = self._person(name, "id", "enrolled", "embedding")
        return np.array([row["embedding"] for row in rows], np.float32).reshape(-1, self.contract.dim)

    def add(self, name: str, embedding: Float32[np.ndarray, " dim"], *, source: str | None, digest: str | None) -> int:
        """Add a sample.

        Returns:
            Its id, which is drawn, so that processes need not agree on the next one.
        """
        with self._named_errors():
            while self._client.get(self._collection, ids=[drawn := secrets.randbits(_ID_BITS)], output_fields=["id"]):
                pass
            row = {
                "id": drawn,
                "name": name,
                "source": source,
                "digest": digest,
                "enrolled": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
                "embedding": embedding,
            }
            self._client.insert(self._collection, [row])
        return drawn

    def remove_person(self, name: str) -> None:
        """Remove a person with all samples."""
        self._require(name)
        with self._named_errors():
            self._client.delete(self._collection, filter=_is_of(name))

    def remove_sample(self, sample: int) -> None:
        """Remove a sample; a person without samples goes as well."""
        with self._named_errors():
            if not self._client.get(self._collection, ids=[sample], output_fields=["id"]):
                raise UnknownPersonError(f"{self._address}: no sample {sample}")
            self._client.delete(self._collection, ids=[sample])

    def rename(self, old: str, new: str) -> None:
        """Give a person a name that nobody else has."""
        self._require(old)
        if new != old and self._is_there(new):
            raise FacegmError(
                f"{self._address}: {printable(new)} is there already; merge the two if they are one person"
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
        found: list[list[Match]] = []
        for start in range(0, len(vectors), QUERIES):
            with self._named_errors():
                results = self._client.search(
                    self._collection,
                    data=list(vectors[start : start + QUERIES]),
                    limit=k,
                    group_by_field="name",
                    output_fields=["name"],
                )
            found += [
                [
                    Match(name=hit["entity"]["name"], sample_id=hit["id"], distance=max(hit["distance"], 0.0) ** 0.5)
                    for hit in hits
                ]
                for hits in results
            ]
        return found

    def _give(self, name: str, into: str) -> None:
        if name != into:
            rows = [row | {"name": into} for row in self._rows(_is_of(name), "*")]
            for start in range(0, len(rows), ROWS):
                with self._named_errors():
                    self._client.upsert(self._collection, rows[start : start + ROWS])

    def _person(self, name: str, *fields: str) -> list[dict[str, Any]]:
        return sorted(self._rows(_is_of(name), *fields), key=lambda row: (row["enrolled"], row["id"]))

    def _rows(self, condition: str, *fields: str) -> Iterator[dict[str, Any]]:
        with self._named_errors():
            found = self._client.query_iterator(
                self._collection, filter=condition, output_fields=[*fields], batch_size=ROWS
            )
            while rows := found.next():
                yield from rows
            found.close()

    def _is_there(self, name: str) -> bool:
        with self._named_errors():
            return bool(self._client.query(self._collection, filter=_is_of(name), output_fields=["id"], limit=1))

    def _require(self, name: str) -> None:
        if not self._is_there(name):
            raise UnknownPersonError(f"{self._address}: nobody is called {printable(name)}")


def _is_of(name: str) -> str:
    """The condition that a row is of a person; Milvus has JSON's way to write a string."""
    return f"name == {json.dumps(name, ensure_ascii=False)}"
