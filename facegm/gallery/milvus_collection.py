"""A collection of a Milvus cluster that is a gallery: how it is made, reached and asked, and whose embeddings it holds.

It is read with strong consistency: whatever was acknowledged to anybody before is found.
"""

import json
import logging
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float32

from facegm.embedding.contract import EmbeddingContract
from facegm.errors import FacegmError, UsageError

PREFIX = "milvus+"
"""By what an address says that a gallery is a collection: `milvus+http://host:19530/collection`."""
TOKEN = "FACEGM_MILVUS_TOKEN"
"""The environment's variable that holds `user:password` or an API key, where the cluster asks for one."""
FORMAT = 1
CONNECT_SECONDS = 10.0
ROWS = 1000
"""Rows that are read or written in one request."""

Row = dict[str, Any]
"""A sample, by the names of the collection's fields."""

_PROPERTY = "facegm.gallery"
"""Of the collection, in JSON: format, contract and uuid."""


class MilvusCollection:
    """The collection. Threads may share it, as they may a client of pymilvus.

    Args:
        address: `milvus+`, how pymilvus reaches the cluster, `/`, and the collection.
        contract: whose embeddings it must hold; None for those that it does hold.
        is_created: make the collection where it is missing, which takes a contract.

    Raises:
        UsageError: the address is not of such a form.
        FacegmError: pymilvus is not installed, the cluster does not answer, there is no such collection, or it holds
            something else or another model's embeddings. All methods: the cluster does not do as asked.
    """

    contract: EmbeddingContract
    uuid: str
    """Tells the gallery from all others."""

    def __init__(self, address: str, contract: EmbeddingContract | None, *, is_created: bool) -> None:
        uri, self._name = _split(address)
        if find_spec("pymilvus") is None:
            raise FacegmError(f'{address}: pymilvus is not installed; pip install "facegm[milvus]"')
        from pymilvus import MilvusClient

        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs whatever it raises
        self.address = address
        with self._named_errors():
            self._client = MilvusClient(uri, token=os.environ.get(TOKEN, ""), timeout=CONNECT_SECONDS)
            if is_created and contract is not None and not self._client.has_collection(self._name):
                self._create(contract)
            self.contract, self.uuid = self._described()
            if contract is not None:
                self.contract.require(contract, address)
            self._client.load_collection(self._name)

    def _create(self, contract: EmbeddingContract) -> None:
        from pymilvus import DataType, MilvusException

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        for field, max_bytes in {"name": 1024, "source": 8192, "digest": 64, "enrolled": 64}.items():
            schema.add_field(field, DataType.VARCHAR, max_length=max_bytes, nullable=field in {"source", "digest"})
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=contract.dim)
        index = self._client.prepare_index_params()
        index.add_index("embedding", index_type="FLAT", metric_type="L2")  # exact, by all machines together
        description = {"format": FORMAT, "contract": contract.to_json(), "uuid": str(uuid.uuid4())}
        try:
            self._client.create_collection(
                self._name,
                schema=schema,
                index_params=index,
                consistency_level="Strong",
                properties={_PROPERTY: json.dumps(description)},
            )
        except MilvusException:  # another process may have been faster
            if not self._client.has_collection(self._name):
                raise

    def _described(self) -> tuple[EmbeddingContract, str]:
        if not self._client.has_collection(self._name):
            raise FacegmError(f"{self.address}: no such gallery; `facegm enroll` makes one")
        properties = self._client.describe_collection(self._name)["properties"]
        if _PROPERTY not in properties:
            raise FacegmError(f"{self.address}: the collection is not a gallery; take another name")
        try:
            description = json.loads(properties[_PROPERTY])
            if description["format"] != FORMAT:
                raise FacegmError(
                    f"{self.address}: a gallery of format {description['format']}; this facegm reads format {FORMAT}"
                )
            return EmbeddingContract.from_json(description["contract"]), str(description["uuid"])
        except (KeyError, TypeError, ValueError) as error:
            raise FacegmError(f"{self.address}: a gallery whose contract cannot be read ({error})") from error

    def close(self) -> None:
        """Let go of the cluster."""
        self._client.close()

    def rows(self, condition: str, *fields: str) -> Iterator[Row]:
        """Yield these fields, and the id, of all rows that meet a condition, in no order; "" is met by all."""
        with self._named_errors():
            found = self._client.query_iterator(self._name, filter=condition, output_fields=[*fields], batch_size=ROWS)
            while rows := found.next():
                yield from rows
            found.close()

    def has(self, condition: str) -> bool:
        """Whether any row meets a condition."""
        with self._named_errors():
            return bool(self._client.query(self._name, filter=condition, output_fields=["id"], limit=1))

    def insert(self, rows: Sequence[Row]) -> None:
        """Add rows of new ids, at most `ROWS`."""
        with self._named_errors():
            self._client.insert(self._name, list(rows))

    def replace(self, rows: Sequence[Row]) -> None:
        """Put rows in the place of those with their ids, at most `ROWS`."""
        with self._named_errors():
            self._client.upsert(self._name, list(rows))

    def delete(self, condition: str) -> None:
        """Remove all rows that meet a condition."""
        with self._named_errors():
            self._client.delete(self._name, filter=condition)

    def search(self, vectors: Float32[np.ndarray, "queries dim"], k: int, *, by: str) -> list[list[Row]]:
        """Find for each vector the `k` nearest rows of which no two have the same value in the field `by`.

        Returns:
            For each vector rows of `id`, the squared `distance`, and the field as `entity[by]`, nearest first.
        """
        with self._named_errors():
            found = self._client.search(self._name, data=list(vectors), limit=k, group_by_field=by, output_fields=[by])
            return [list(hits) for hits in found]

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise FacegmError(f"{self.address}: {error.message}") from error


def _split(address: str) -> tuple[str, str]:
    """What pymilvus connects to, and the collection; what it cannot read it takes for a server on this machine."""
    uri, _, collection = address.removeprefix(PREFIX).rpartition("/")
    try:
        server = urlsplit(uri)
        is_server = server.scheme in {"http", "https"} and bool(server.hostname) and server.port != 0
    except ValueError:  # a port that is no number
        is_server = False
    is_trial = "://" not in uri and uri.endswith(".db")  # the file of milvus-lite
    if not (is_server or is_trial) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", collection):
        raise UsageError(f"{address}: expected {PREFIX}http://HOST:PORT/COLLECTION, a collection of letters and digits")
    return uri, collection
