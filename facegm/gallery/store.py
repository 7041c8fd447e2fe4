"""What a gallery asks of what keeps its samples, and of what searches for people among them."""

from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from facegm.embedding.contract import EmbeddingContract
from facegm.gallery.file import Sample
from facegm.gallery.recall import Recall
from facegm.gallery.rules import Match


class Store(Protocol):
    """Keeps people and their samples; `facegm.gallery.file.GalleryFile` says what each method does.

    A person is there as long as there is a sample of theirs. All methods raise a FacegmError where it cannot be
    reached, read or written.
    """

    contract: EmbeddingContract
    uuid: str

    def writing(self) -> "AbstractContextManager[Store]":
        """Surrounds all that is changed together, through the store that it gives.

        Meanwhile another thread may read by this store, which has nothing of the changes before the end.
        """

    def close(self) -> None:
        """Let go of it."""

    def people(self) -> dict[str, int]:
        """How many samples each person has, by name, in the names' order."""

    def samples(self, name: str) -> list[Sample]:
        """A person's samples, in the order of their enrolment."""

    def samples_of(self, name: str) -> tuple[list[Sample], Float32[np.ndarray, "samples dim"]]:
        """The same with their embeddings, read at one time, whatever others change."""

    def add(self, name: str, embedding: Float32[np.ndarray, " dim"], *, source: str | None, digest: str | None) -> int:
        """Add a sample; returns its id."""

    def remove_person(self, name: str) -> None:
        """Remove a person with all samples."""

    def remove_sample(self, sample: int) -> None:
        """Remove a sample."""

    def rename(self, old: str, new: str) -> None:
        """Give a person a name that nobody else has."""

    def merge(self, name: str, into: str) -> None:
        """Give all samples of a person to another one."""


class Search(Protocol):
    """Finds the people of a store as it is now."""

    recall: Recall | None
    """What is found of what an exact search finds; None where the search is exact, or has not been made yet."""

    def catch_up(self) -> None:
        """Take notice of all that was changed in the store, by whomever; a search does so by itself."""

    def nearest(self, vectors: Float32[np.ndarray, "queries dim"], k: int) -> list[list[Match]]:
        """The `k` nearest people of each vector, nearest first, each by the nearest sample; or as many as there are."""
