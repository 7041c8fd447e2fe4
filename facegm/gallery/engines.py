"""What is behind a gallery, by its address and the name of an index: a file and an index, or a cluster."""

from pathlib import Path
from typing import Literal, get_args

from facegm.embedding.contract import EmbeddingContract
from facegm.errors import UsageError
from facegm.gallery.faiss_index import FaissIndex
from facegm.gallery.file import GalleryFile
from facegm.gallery.index import ExactIndex, Index
from facegm.gallery.milvus_collection import PREFIX
from facegm.gallery.milvus_store import MilvusStore
from facegm.gallery.people_search import PeopleSearch
from facegm.gallery.store import Search, Store

IndexName = Literal["exact", "faiss-flat", "faiss-sq8"]
INDEXES: tuple[IndexName, ...] = get_args(IndexName)


def open_store(address: str | Path, contract: EmbeddingContract | None, *, is_created: bool = False) -> Store:
    """Open what keeps a gallery's people.

    Args:
        address: a file, or a collection of a Milvus cluster; see `facegm.gallery.milvus_collection.PREFIX`.
        contract: whose embeddings it must hold; None for those that it does hold.
        is_created: make it where it is missing, which takes a contract.

    Raises:
        FacegmError: it cannot be opened, or holds another model's embeddings.
    """
    if str(address).startswith(PREFIX):
        return MilvusStore(str(address), contract, is_created=is_created)
    return GalleryFile(Path(address), contract, is_created=is_created)


def search_of(store: Store, index: IndexName) -> Search:
    """What finds the people of a store.

    Raises:
        UsageError: there is no such index, or none can be chosen as a cluster searches by itself.
        FacegmError: what the index needs is not installed.
    """
    if index not in INDEXES:
        raise UsageError(f"index: {index}, must be one of {', '.join(INDEXES)}")
    if isinstance(store, GalleryFile):
        return PeopleSearch(store, _new_index(index, store.contract.dim))
    if index != "exact":
        raise UsageError(f"index: {index}, but a cluster searches by itself; leave it out")
    assert isinstance(store, MilvusStore)
    return store


def _new_index(name: IndexName, dim: int) -> Index:
    match name:
        case "exact":
            return ExactIndex(dim)
        case "faiss-flat":
            return FaissIndex("flat", dim)
        case "faiss-sq8":
            return FaissIndex("sq8", dim)
