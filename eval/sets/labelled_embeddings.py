"""Embeddings of images of which it is known who is on them, from a model and a store, or ready ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, Int64

from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import weights_digest
from facegm.errors import FacegmError
from facegm.eval.embedding import OneProcess, embed_all
from facegm.eval.embedding_cache import EmbeddingCache
from facegm.eval.sets.embedding_files import read_embeddings
from facegm.eval.sets.named_faces import NamedFaces
from facegm.store.reader import NO_FACE, FaceStore


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledEmbeddings:
    """Embeddings, and who is on each image."""

    embeddings: Float[np.ndarray, "images dim"]
    """Mirror images summed where the model does so, not normalised."""
    people: Int64[np.ndarray, " images"]
    """Number of the person."""
    names: tuple[str, ...]
    """Of the people, by number; perhaps also of some without an image."""
    facts: Mapping[str, str]
    """Where they are from, and what was left out, in words."""


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownFaces:
    """The faces of a store whose identity is known."""

    faces: NamedFaces
    people: Int64[np.ndarray, " faces"]
    """Number of the person."""
    names: tuple[str, ...]
    """Of the people, by number."""
    facts: Mapping[str, str]
    """Where they are from, and what was left out, in words."""

    def embedded(self, embeddings: Float[np.ndarray, "faces dim"]) -> LabelledEmbeddings:
        """Their embeddings, in their order, with who is on them."""
        return LabelledEmbeddings(embeddings=embeddings, people=self.people, names=self.names, facts=self.facts)


def known_faces(store: Path) -> KnownFaces:
    """Open a store.

    Args:
        store: folder that `facegm align` made.

    Raises:
        FacegmError: it is missing or unusable, or there are fewer than two people.
    """
    faces = FaceStore(store)
    people, names = faces.identities()
    rows = np.flatnonzero(people >= 0)
    _check_people(store, people[rows])
    statuses = faces.table(["status"])["status"].to_pylist()
    return KnownFaces(
        faces=NamedFaces(faces, {faces.keys[row]: row for row in rows.tolist()}),
        people=people[rows],
        names=tuple(names),
        facts={
            "photos": str(store),
            "failures to acquire": f"{np.count_nonzero(people == NO_FACE):,} photos without a face are in no rate; "
            f"{statuses.count('center-crop'):,} fallback crops are scored",
        },
    )


def embedded_store(model: Path, store: Path, output: Path) -> LabelledEmbeddings:
    """Embed the faces of a store whose identity is known.

    Args:
        model: run folder or embedder file.
        store: see `known_faces`.
        output: folder of the report, in which embeddings are kept.

    Raises:
        FacegmError: model or store are missing or unusable, or there are fewer than two people.
    """
    embedder, known = FaceEmbedder.load(model), known_faces(store)
    facts = {"model": str(model), "embedding": embedder.describe(), **known.facts}
    cache = EmbeddingCache.of(embedder, weights_digest(model), output)
    embeddings = embed_all(embedder, known.faces, cache, OneProcess())
    return replace(known.embedded(embeddings), facts=facts)


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
    names, people = np.unique(folders, return_inverse=True)
    people = people.astype(np.int64)
    _check_people(file, people)
    return LabelledEmbeddings(
        embeddings=named.embeddings, people=people, names=tuple(names.tolist()), facts={"embeddings": str(file)}
    )


def _check_people(source: Path, people: Int64[np.ndarray, " images"]) -> None:
    if len(np.unique(people)) < 2:
        raise FacegmError(
            f"{source}: {len(people)} images of one person or none; each person's have to be in a folder of their own"
        )
