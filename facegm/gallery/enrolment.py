"""The enrolment of samples, one by one: whether each is there already, may be enrolled, and what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from facegm.embedding.reasons import Reason
from facegm.gallery.rules import IDENTICAL, Match, strict_refusal
from facegm.gallery.store import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class NewSample:
    """A sample that is to be enrolled."""

    name: str
    """Whose it is."""
    embedding: Float32[np.ndarray, " dim"]
    """Of unit length."""
    source: str | None = None
    """Name of the photo."""
    digest: str | None = None
    """SHA-256 of the photo's bytes, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What became of a sample that was to be enrolled."""

    name: str
    sample_id: int | None
    """The sample, also one that was there already; None where it is refused."""
    reason: Reason | None
    """Why it was not enrolled; None where it was."""
    message: str = ""
    """The reason in words."""


def already_enrolled(name: str, sample_id: int) -> Enrolment:
    """What is said of a sample that its person has already."""
    message = f"there already, as sample {sample_id}"
    return Enrolment(name=name, sample_id=sample_id, reason=Reason.ALREADY_ENROLLED, message=message)


class Enrolling:
    """Enrols some samples together; each is judged against those before it as well.

    Args:
        store: the gallery's, within `writing`.
        strict: refuse what may well show somebody else, see `strict_refusal`.
        threshold: distance below which two photos count as one person's; None where that is not known.
    """

    def __init__(self, store: Store, *, strict: bool, threshold: float | None) -> None:
        self._store, self._strict, self._threshold = store, strict, threshold
        self._own: dict[str, list[_Known]] = {}
        self._added: list[tuple[str, _Known]] = []

    def enroll(self, sample: NewSample, nearest: Sequence[Match]) -> Enrolment:
        """Enrol a sample, or say why not.

        Args:
            sample: its name as the gallery has names.
            nearest: the two nearest people of those that were there before all of the samples; where enrolment is not
                strict they are not asked for.
        """
        own = self._samples_of(sample.name)
        distances = _distances(own, sample.embedding)
        for known, distance in zip(own, distances, strict=True):
            if distance <= IDENTICAL or (sample.digest is not None and known.digest == sample.digest):
                return already_enrolled(sample.name, known.id)
        if self._strict:
            other = self._nearest_other(sample, nearest)
            refusal = strict_refusal(sample.name, min(distances, default=None), other, self._threshold)
            if refusal is not None:
                return Enrolment(name=sample.name, sample_id=None, reason=Reason.NEARER_TO_ANOTHER, message=refusal)
        added = self._store.add(sample.name, sample.embedding, source=sample.source, digest=sample.digest)
        own.append(_Known(added, sample.digest, sample.embedding))
        self._added.append((sample.name, own[-1]))
        return Enrolment(name=sample.name, sample_id=added, reason=None)

    def _samples_of(self, name: str) -> "list[_Known]":
        if name not in self._own:
            samples, embeddings = self._store.samples(name), self._store.embeddings_of(name)
            self._own[name] = [
                _Known(sample.id, sample.digest, embedding)
                for sample, embedding in zip(samples, embeddings, strict=True)
            ]
        return self._own[name]

    def _nearest_other(self, sample: NewSample, nearest: Sequence[Match]) -> Match | None:
        others = [match for match in nearest if match.name != sample.name]
        added = [(name, known) for name, known in self._added if name != sample.name]
        distances = _distances([known for _, known in added], sample.embedding)
        others += [
            Match(name=name, sample_id=known.id, distance=distance)
            for (name, known), distance in zip(added, distances, strict=True)
        ]
        return min(others, key=lambda match: match.distance, default=None)


class _Known(NamedTuple):
    """A sample that is there."""

    id: int
    digest: str | None
    embedding: Float32[np.ndarray, " dim"]


def _distances(samples: Sequence[_Known], embedding: Float32[np.ndarray, " dim"]) -> list[float]:
    """L2 distances, in float64 as those of the index."""
    embeddings = np.array([sample.embedding for sample in samples], np.float64).reshape(-1, len(embedding))
    found: list[float] = np.linalg.norm(embeddings - embedding, axis=1).tolist()
    return found
