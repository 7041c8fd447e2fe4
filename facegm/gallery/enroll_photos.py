"""Photos of people into a gallery: each is enrolled, or there is a reason why not."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from facegm.data.names import escaped
from facegm.data.progress import Progress
from facegm.data.readers.formats import is_photo_name, is_picture_file
from facegm.data.readers.photo import Photo, PhotoSource, UnreadablePhotoError
from facegm.data.readers.source import find_photos, read_photo_bytes
from facegm.embedding.comparison import FacePolicy, usual_threshold
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.reasons import Reason, RefusedPhotoError
from facegm.errors import FacegmError, UsageError
from facegm.gallery.enrolment import Enrolment, NewSample, already_enrolled
from facegm.gallery.gallery import Gallery
from facegm.gallery.rules import person_name

TOGETHER = 32
"""Photos that are looked at, and enrolled, together: an interruption loses so many at most."""


@dataclass(frozen=True, kw_only=True)
class PhotoEnrolment:
    """What became of a photo."""

    photo: str
    """Its name within its source."""
    name: str | None
    """Whom it is said to show."""
    sample_id: int | None
    """The sample, also one that was there already; None where it is refused."""
    reason: Reason | None
    """Why it was not enrolled; None where it was."""
    message: str
    """The reason in words."""

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "photo": self.photo,
            "name": self.name,
            "sample": self.sample_id,
            "reason": None if self.reason is None else self.reason.value,
            "message": self.message,
        }


def named_photos(sources: Sequence[Path], name: str | None, *, identity_level: int) -> PhotoSource:
    """Photos, each with whom it shows.

    Args:
        sources: one source of photos, whose folders name the people; or with a name photos, and sources of them.
        name: whom all of them show; None where the folders say it.
        identity_level: which folder of a photo names the person; see `facegm.data.readers.source.find_photos`.

    Raises:
        UsageError: photos without a name, or a name that is none.
        FacegmError: a source is missing, damaged or empty.
    """
    if name is None:
        is_photo = is_photo_name(sources[0].name) or is_picture_file(str(sources[0]))
        if len(sources) > 1 or (is_photo and not sources[0].is_dir()):
            raise UsageError(f"{sources[0]}: give --name NAME of whom the photos show, or one folder person/photo.jpg")
        return find_photos(sources[0], identity_level=identity_level)
    name = person_name(name)
    photos: dict[str, Photo] = {}
    remarks: list[str] = []
    for source in sources:
        if source.is_dir():
            found = find_photos(source, identity_level=identity_level)
            photos |= {key: replace(photo, key=key) for photo in found.photos if (key := f"{source}/{photo.key}")}
            remarks += found.remarks
        else:
            photos[str(source)] = Photo(path=str(source), key=str(source), identity=name)
    named = [replace(photo, identity=name) for photo in photos.values()]
    return PhotoSource(photos=named, remarks=tuple(remarks))


def enroll_photos(
    photos: Sequence[Photo],
    gallery: Gallery,
    embedder: FaceEmbedder,
    *,
    policy: FacePolicy = "largest-central",
    strict: bool = True,
) -> Iterator[PhotoEnrolment]:
    """Enrol photos in their order; what is yielded is on the disk. Those that are there already are not looked at.

    Args:
        photos: each with whom it shows, its `identity`.
        gallery: of the embedder's contract.
        embedder: finds and embeds the faces; its threshold judges the first samples of people.
        policy: which of several faces of a photo is the person's.
        strict: refuse what may well show somebody else, see `facegm.gallery.rules.strict_refusal`.

    Raises:
        FacegmError: the gallery cannot be written.
    """
    enrolling = _PhotoEnrolling(gallery, embedder, policy, strict)
    with Progress("enroll", len(photos), "photos") as progress:
        for start in range(0, len(photos), TOGETHER):
            group = photos[start : start + TOGETHER]
            yield from enrolling.enroll(group)
            progress.update(len(group))


class _Taken(NamedTuple):
    """A photo that is to be looked at."""

    photo: str
    name: str
    digest: str
    data: bytes


class _PhotoEnrolling:
    """Enrols some photos at a time; see `enroll_photos`."""

    def __init__(self, gallery: Gallery, embedder: FaceEmbedder, policy: FacePolicy, strict: bool) -> None:
        self._gallery, self._embedder, self._policy, self._strict = gallery, embedder, policy, strict
        self._threshold = usual_threshold(embedder.calibration)

    def enroll(self, photos: Sequence[Photo]) -> list[PhotoEnrolment]:
        """What became of each photo."""
        outcomes = []
        taken: list[_Taken] = []
        for photo in photos:
            found = self._read(photo)
            if isinstance(found, _Taken):
                taken.append(found)
            else:
                outcomes.append(found)
        outcomes += self._look(taken)
        by_photo = {outcome.photo: outcome for outcome in outcomes}
        return [by_photo[escaped(photo.key)] for photo in photos]

    def _read(self, photo: Photo) -> "_Taken | PhotoEnrolment":
        """What is to be looked at, where that has a need of it."""
        key = escaped(photo.key)
        try:
            name, data = _name_of(photo), read_photo_bytes(photo)
        except UnreadablePhotoError as error:
            return _refused(key, photo.identity, error)
        digest = hashlib.sha256(data).hexdigest()
        there = [sample.id for sample in self._gallery.samples(name) if sample.digest == digest]
        return _told(key, already_enrolled(name, there[0])) if there else _Taken(key, name, digest, data)

    def _look(self, photos: Sequence[_Taken]) -> Iterator[PhotoEnrolment]:
        samples = []
        looked_at = self._embedder.find_batch([taken.data for taken in photos], policy=self._policy)
        for photo, found in zip(photos, looked_at, strict=True):
            try:
                found.require_readable()
            except RefusedPhotoError as error:
                yield _refused(photo.photo, photo.name, error)
                continue
            (face,) = found.faces
            assert face.embedding is not None
            samples.append(
                NewSample(name=photo.name, embedding=face.embedding, source=photo.photo, digest=photo.digest)
            )
        enrolments = self._gallery.enroll_all(samples, strict=self._strict, threshold=self._threshold)
        yield from (_told(str(sample.source), done) for sample, done in zip(samples, enrolments, strict=True))


def _name_of(photo: Photo) -> str:
    if photo.identity is None:
        raise RefusedPhotoError(Reason.UNKNOWN_PERSON, "lies in no folder that says whom it shows")
    try:
        return person_name(escaped(photo.identity))
    except FacegmError as error:
        raise RefusedPhotoError(Reason.UNKNOWN_PERSON, str(error)) from error


def _refused(photo: str, name: str | None, error: UnreadablePhotoError) -> PhotoEnrolment:
    reason = error.reason if isinstance(error, RefusedPhotoError) else Reason.UNREADABLE
    return PhotoEnrolment(photo=photo, name=name, sample_id=None, reason=reason, message=str(error))


def _told(photo: str, enrolment: Enrolment) -> PhotoEnrolment:
    return PhotoEnrolment(
        photo=photo,
        name=enrolment.name,
        sample_id=enrolment.sample_id,
        reason=enrolment.reason,
        message=enrolment.message,
    )
