"""Embeddings of images of which it is known who is on them, from a model and a store, or ready ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, Int64

from facegm.data.progress import Progress
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.embedding_files import read_embeddings
from facegm.store.reader import NO_FACE, FaceStore

_FACES = 512
"""That are decoded together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledEmbeddings:
    """Embeddings, and who is on each image."""

    embeddings: Float[np.ndarray, "images dim"]
    """Mirror images summed where the model does so, not normalised."""
    people: Int64[np.ndarray, " images"]
    """Number of the person."""
    facts: Mapping[str, str]
    """Where they are from, and what was left out, in words."""

    def __post_init__(self) -> None:
        if len(np.unique(self.people)) < 2:
            raise FacegmError(
                f"{len(self.people)} images of one person or none; each person's have to be in a folder of their own"
            )


def embedded_store(model: Path, store: Path) -> LabelledEmbeddings:
    """Embed the faces of a store whose identity is known.

    Args:
        model: run folder or embedder file.
        store: folder that `facegm align` made.

    Raises:
        FacegmError: model or store are missing or unusable, or there are fewer than two people.
    """
    embedder, faces = FaceEmbedder.load(model), FaceStore(store)
    people = faces.identities()[0]
    rows = np.flatnonzero(people >= 0)
    embeddings = np.empty((len(rows), embedder.dim), np.float32)
    with Progress("embed", len(rows), "faces") as progress:
        for start in range(0, len(rows), _FACES):
            batch = [faces.read_face(int(row)) for row in rows[start : start + _FACES]]
            embeddings[start : start + len(batch)] = embedder.embed_aligned(batch)
            progress.update(len(batch))
    statuses = faces.table(["status"])["status"].to_pylist()
    facts = {
        "model": str(model),
        "embedding": embedder.describe(),
        "photos": str(store),
        "failures to acquire": f"{np.count_nonzero(people == NO_FACE):,} photos without a face are in no rate; "
        f"{statuses.count('center-crop'):,} fallback crops are scored",
    }
    return LabelledEmbeddings(embeddings=embeddings, people=people[rows], facts=facts)


def ready_embeddings(file: Path) -> LabelledEmbeddings:
    """Read embeddings of images whose folder says who is on them.

    Args:
        file: see `read_embeddings`.

    Raises:
        FacegmError: the file is unusable, a name has no folder, or there are fewer than two people.
    """
    named = read_embeddings(file)
    folders = [str(PurePosixPath(name).parent) for name in named.names]
    if "." in folders:
        name = named.names[folders.index(".")]
        raise FacegmError(f"{file}: {name} is in no folder, which would say who is on it")
    people = np.unique(folders, return_inverse=True)[1].astype(np.int64)
    return LabelledEmbeddings(embeddings=named.embeddings, people=people, facts={"embeddings": str(file)})
