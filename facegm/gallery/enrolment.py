"""The enrolment of samples, one by one: whether each is there already, may be enrolled, and what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from facegm.embedding.reasons import Reason
from facegm.gallery.index import ExactIndex, slack
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
        store: the gallery's, that `writing` gives.
        samples: how many there are at most.
        strict: refuse what may well show somebody else, see `strict_refusal`.
        threshold: distance below which two photos count as one person's; None where that is not known.
    """

    def __init__(self, store: Store, samples: int, *, strict: bool, threshold: float | None) -> None:
        self._store, self._strict, self._threshold = store, strict, threshold
        self._own: dict[str, _Own] = {}
        self._added = _Added(samples, store.contract.dim)

    def enroll(self, sample: NewSample, nearest: Sequence[Match]) -> Enrolment:
        """Enrol a sample, or say why not.

        Args:
            sample: its name as the gallery has names.
            nearest: the two nearest people of those that were there before all of the samples; where enrolment is not
                strict they are not asked for.
        """
        own = self._own_of(sample.name)
        if sample.digest is not None and sample.digest in own.by_digest:
            return already_enrolled(sample.name, own.by_digest[sample.digest])
        nearest_own = own.nearest(sample)
        if nearest_own is not None and nearest_own.distance <= IDENTICAL:
            return already_enrolled(sample.name, nearest_own.sample_id)
        if self._strict:
            distance = None if nearest_own is None else nearest_own.distance
            refusal = strict_refusal(sample.name, distance, self._nearest_other(sample, nearest), self._threshold)
            if refusal is not None:
                return Enrolment(name=sample.name, sample_id=None, reason=Reason.NEARER_TO_ANOTHER, message=refusal)
        added = self._store.add(sample.name, sample.embedding, source=sample.source, digest=sample.digest)
        own.add([added], [sample.digest], sample.embedding[None])
        self._added.add(sample, added)
        return Enrolment(name=sample.name, sample_id=added, reason=None)

    def _own_of(self, name: str) -> "_Own":
        if name not in self._own:
            samples, embeddings = self._store.samples_of(name)
            self._own[name] = _Own(self._store.contract.dim)
            self._own[name].add([sample.id for sample in samples], [sample.digest for sample in samples], embeddings)
        return self._own[name]

    def _nearest_other(self, sample: NewSample, nearest: Sequence[Match]) -> Match | None:
        others = [match for match in nearest if match.name != sample.name]
        added = self._added.nearest_other(sample)
        return min(others if added is None else [*others, added], key=lambda match: match.distance, default=None)


class _Own:
    """The samples of one person.

    Attributes:
        by_digest: their ids; of two photos of one digest that of the first.
    """

    def __init__(self, dim: int) -> None:
        self.by_digest: dict[str, int] = {}
        self._index = ExactIndex(dim)

    def add(
        self, ids: Sequence[int], digests: Sequence[str | None], embeddings: Float32[np.ndarray, "samples dim"]
    ) -> None:
        """Take note of samples."""
        self._index.add(np.array(ids, np.int64), embeddings)
        for sample_id, digest in zip(ids, digests, strict=True):
            if digest is not None:
                self.by_digest.setdefault(digest, sample_id)

    def nearest(self, sample: NewSample) -> Match | None:
        """The nearest of them; None where there is none."""
        distances, ids = self._index.search(sample.embedding[None], 1)
        if not ids.size:
            return None
        return Match(name=sample.name, sample_id=int(ids[0, 0]), distance=float(distances[0, 0]))


class _Added:
    """The samples of all people that were added, in one array: each one to come is compared with all by one product.

    Args:
        room: for how many.
        dim: length of an embedding.
    """

    def __init__(self, room: int, dim: int) -> None:
        self._vectors, self._people = np.empty((room, dim), np.float32), np.empty(room, np.int64)
        self._numbers: dict[str, int] = {}
        self._known: list[tuple[str, int]] = []
        self._slack = slack(dim)

    def add(self, sample: NewSample, sample_id: int) -> None:
        """Take note of a sample."""
        row = len(self._known)
        self._vectors[row] = sample.embedding
        self._people[row] = self._numbers.setdefault(sample.name, len(self._numbers))
        self._known.append((sample.name, sample_id))

    def nearest_other(self, sample: NewSample) -> Match | None:
        """The nearest one of somebody else, by the distance in float64; None where there is none."""
        count = len(self._known)
        others = np.flatnonzero(self._people[:count] != self._numbers.get(sample.name, -1))
        if not len(others):
            return None
        similarity = (self._vectors[:count] @ sample.embedding)[others]
        rows = others[similarity >= similarity.max() - self._slack]
        distances = np.linalg.norm(self._vectors[rows].astype(np.float64) - sample.embedding, axis=1)
        nearest = int(distances.argmin())
        name, sample_id = self._known[rows[nearest]]
        return Match(name=name, sample_id=sample_id, distance=float(distances[nearest]))
