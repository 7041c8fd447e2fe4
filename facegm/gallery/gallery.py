"""A gallery: named people with one or many samples, who are enrolled, searched for, renamed, merged and removed."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float, Float32

from facegm.embedding.contract import EmbeddingContract
from facegm.errors import FacegmError, UsageError
from facegm.gallery.engines import IndexName, open_store, search_of
from facegm.gallery.enrolment import Enrolling, Enrolment, NewSample
from facegm.gallery.file import Sample, is_unit_length
from facegm.gallery.recall import Recall
from facegm.gallery.rules import Match, person_name
from facegm.gallery.store import Search, Store


class Gallery:
    """People and their samples in one file with an index in memory, or in a cluster; see `facegm.gallery.engines`.

    An index in memory is made when it is first needed, and follows whatever this and other processes change in the
    file. Threads may share a gallery; a process that forks opens it anew. A context manager.

    Example:
        >>> gallery = Gallery.create("people.gallery", embedder.contract)  # doctest: +SKIP
        >>> gallery.enroll("Ann", embedder.embed(["ann.jpg"]))  # doctest: +SKIP
        >>> gallery.search(embedder.embed(["who.jpg"]), k=3)  # doctest: +SKIP
    """

    def __init__(self, store: Store, search: Search) -> None:
        self._store, self._search = store, search
        self._lock, self._write_lock = Lock(), Lock()  # the first is never held while another process is waited for

    @classmethod
    def open(
        cls, address: str | Path, contract: EmbeddingContract | None = None, *, index: IndexName = "exact"
    ) -> "Gallery":
        """Open a gallery that is there.

        Args:
            address: its file, or `milvus+http://host:19530/collection`.
            contract: whose embeddings are to be enrolled and searched for; None to take what is there, unasked.
            index: what finds the nearest embeddings of a file; a cluster searches by itself.

        Raises:
            FacegmError: no such gallery, a damaged one, or one of another model's embeddings.
        """
        return cls._of(open_store(address, contract), index)

    @classmethod
    def create(cls, address: str | Path, contract: EmbeddingContract, *, index: IndexName = "exact") -> "Gallery":
        """Open a gallery, and make it first where it is missing; see `open`."""
        return cls._of(open_store(address, contract, is_created=True), index)

    @classmethod
    def _of(cls, store: Store, index: IndexName) -> "Gallery":
        try:
            return cls(store, search_of(store, index))
        except BaseException:
            store.close()
            raise

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    @property
    def contract(self) -> EmbeddingContract:
        """Whose embeddings it holds."""
        return self._store.contract

    @property
    def uuid(self) -> str:
        """Tells it from every other gallery; ids of samples mean something in one gallery alone."""
        return self._store.uuid

    def warm_up(self) -> None:
        """Make the index now, which else the first search does; of many samples it takes minutes."""
        with self._lock:
            self._search.catch_up()

    @property
    def recall(self) -> Recall | None:
        """What an approximate index finds of what an exact one would; None where the search is exact."""
        with self._lock:
            return self._search.recall

    def __len__(self) -> int:
        """Number of samples."""
        return sum(self.people.values())

    @property
    def people(self) -> dict[str, int]:
        """How many samples each person has, by name, in the names' order."""
        with self._lock:
            return self._store.people()

    def samples(self, name: str) -> list[Sample]:
        """A person's samples, in the order of their enrolment; none of a person who is not there.

        Raises:
            UsageError: a name that nobody can have.
        """
        with self._lock:
            return self._store.samples(person_name(name))

    def enroll(
        self,
        name: str,
        embeddings: Float[np.ndarray, "samples dim"],
        *,
        sources: Sequence[str] | None = None,
        strict: bool = True,
        threshold: float | None = None,
    ) -> list[Enrolment]:
        """Enrol samples of one person; see `enroll_all`.

        Args:
            name: whose they are.
            embeddings: of unit length.
            sources: names of the photos.
            strict: refuse what may well show somebody else, see `facegm.gallery.rules.strict_refusal`.
            threshold: distance below which two photos count as one person's.
        """
        names = [None] * len(embeddings) if sources is None else sources
        samples = [
            NewSample(name=name, embedding=embedding, source=source)
            for embedding, source in zip(embeddings, names, strict=True)
        ]
        return self.enroll_all(samples, strict=strict, threshold=threshold)

    def enroll_all(
        self, samples: Sequence[NewSample], *, strict: bool = True, threshold: float | None = None
    ) -> list[Enrolment]:
        """Enrol samples of any people; when it returns, they are on the disk.

        They are judged one by one, each against what is there and those before it. One that its person has already, by
        the photo's digest or an embedding that is the same but for rounding, is not enrolled again.

        Args:
            samples: what to enrol.
            strict: refuse what may well show somebody else, see `facegm.gallery.rules.strict_refusal`.
            threshold: distance below which two photos count as one person's, for the first sample of a person; None
                where that is not known.

        Returns:
            What became of each.

        Raises:
            FacegmError: a name or an embedding that is none, or a file that cannot be written: then none is enrolled.
        """
        if not samples:
            return []
        names = [person_name(sample.name) for sample in samples]
        vectors = self._checked(np.stack([sample.embedding for sample in samples]))
        with self._lock:
            if strict:
                self._search.catch_up()  # before anybody has to wait for the end of the writing
        with self._writing() as writer:
            nearest: Iterable[list[Match]] = repeat([], len(samples))
            if strict:
                with self._lock:
                    nearest = self._search.nearest(vectors, 2)
            enrolling = Enrolling(writer, len(samples), strict=strict, threshold=threshold)
            return [
                enrolling.enroll(replace(sample, name=name, embedding=vector), found)
                for sample, name, vector, found in zip(samples, names, vectors, nearest, strict=True)
            ]

    def enroll_gallery(self, address: str | Path) -> list[Enrolment]:
        """Enrol everybody of another gallery; people of one name become one.

        They were judged when they were enrolled there, and are not judged again. What a person has already is not
        enrolled twice.

        Raises:
            FacegmError: no such gallery, a damaged one, or one of another model's embeddings: then none is enrolled.
        """
        other = open_store(address, self.contract)
        samples = [
            NewSample(name=name, embedding=embedding, source=sample.source, digest=sample.digest)
            for name in other.people()
            for sample, embedding in zip(*other.samples_of(name), strict=True)
        ]
        other.close()
        return self.enroll_all(samples, strict=False)

    def search(self, embeddings: Float[np.ndarray, "queries dim"], *, k: int = 5) -> list[list[Match]]:
        """Find the nearest people of each embedding, each person by the nearest sample.

        Args:
            embeddings: of unit length.
            k: how many people; there are fewer where the gallery has fewer.

        Returns:
            For each embedding the people, nearest first; of those at one distance, the one that was enrolled first.

        Raises:
            FacegmError: an embedding that is none, or a file that cannot be read.
        """
        if k < 1:
            raise UsageError(f"k: {k}, must be at least 1")
        vectors = self._checked(embeddings)
        with self._lock:
            return self._search.nearest(vectors, k)

    def remove(self, who: str | int) -> None:
        """Remove a person, by name, or one sample, by its id; a person without samples goes as well.

        Raises:
            UnknownPersonError: there is no such person or sample.
        """
        with self._writing() as writer:
            if isinstance(who, str):
                writer.remove_person(person_name(who))
            else:
                writer.remove_sample(who)

    def rename(self, old: str, new: str) -> None:
        """Give a person another name.

        Raises:
            UnknownPersonError: there is no such person.
            FacegmError: somebody has the new name already.
        """
        with self._writing() as writer:
            writer.rename(person_name(old), person_name(new))

    def merge(self, name: str, into: str) -> None:
        """Give all samples of a person to another one, who is the same.

        Raises:
            UnknownPersonError: one of the two is not there.
        """
        with self._writing() as writer:
            writer.merge(person_name(name), person_name(into))

    @contextmanager
    def _writing(self) -> Iterator[Store]:
        """See `Store.writing`; threads write one after the other, while others search."""
        with self._write_lock, self._store.writing() as writer:
            yield writer

    def _checked(self, embeddings: Float[np.ndarray, "samples dim"]) -> Float32[np.ndarray, "samples dim"]:
        vectors = np.asarray(embeddings, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.contract.dim:
            raise FacegmError(
                f"embeddings of shape {list(vectors.shape)}; the gallery takes [samples, {self.contract.dim}]"
            )
        if not is_unit_length(vectors).all():
            raise FacegmError("embeddings that are not of unit length, or not finite; `FaceEmbedder` gives such as are")
        return vectors
