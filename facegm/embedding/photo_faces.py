"""Photos to the faces in them, before any is embedded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from facegm.align.finder import FaceFinder, Trouble
from facegm.align.found_face import Face
from facegm.embedding.comparison import FacePolicy, chosen_face
from facegm.embedding.photos import OpenedPhoto
from facegm.embedding.reasons import Reason, RefusedPhotoError

UNUSABLE = "the embedding is zero, NaN or infinity, so it says nothing about identity; take another photo"


@dataclass(frozen=True, kw_only=True)
class PhotoFaces:
    """What one photo shows."""

    name: str
    """The photo's path, or "photo N", counted from 0."""
    faces: tuple[Face, ...] = ()
    """The largest central one first; none is no failure."""
    size: tuple[int, int] | None = None
    """Width and height of the whole upright photo; None where it was not decoded."""
    reason: Reason | None = None
    """Why the photo could not be looked at; None where it was."""
    message: str = ""
    """The same in words, with what to do."""

    def chosen(self, policy: FacePolicy) -> "PhotoFaces":
        """The same with that face alone that a policy means, or the reason why there is none."""
        if self.reason is not None:
            return self
        try:
            return replace(self, faces=(self.faces[chosen_face(self.faces, policy)],))
        except RefusedPhotoError as error:
            return replace(self, faces=(), reason=error.reason, message=str(error))

    def at_most(self, max_faces: int) -> "PhotoFaces":
        """The same; of a photo with more faces than so many none of them, and the reason."""
        if len(self.faces) <= max_faces:
            return self
        message = f"{len(self.faces)} faces, of which at most {max_faces} are looked at; cut the photo"
        return replace(self, faces=(), reason=Reason.TOO_MANY_FACES, message=message)

    def with_embedded(self, faces: Sequence[Face | None]) -> "PhotoFaces":
        """The same with its faces as they were embedded; where one is None, for that failed, none and the reason."""
        embedded = tuple(face for face in faces if face is not None)
        if len(embedded) == len(faces):
            return replace(self, faces=embedded)
        return replace(self, faces=(), reason=Reason.UNUSABLE_EMBEDDING, message=UNUSABLE)

    def require_readable(self) -> None:
        """Raise RefusedPhotoError where the photo could not be looked at."""
        if self.reason is not None:
            raise RefusedPhotoError(self.reason, self.message)


def chosen_faces(photos: Sequence[PhotoFaces], policy: FacePolicy) -> list[int]:
    """The number of the face of each photo that a policy means.

    Raises:
        RefusedPhotoError: photos that could not be looked at, or have no face or too many, all of them named; with the
            reason of the first.
    """
    chosen, refusals = list[int](), list[RefusedPhotoError]()
    for photo in photos:
        try:
            photo.require_readable()
            chosen.append(chosen_face(photo.faces, policy))
        except RefusedPhotoError as error:  # noqa: PERF203 - of a few photos
            refusals.append(RefusedPhotoError(error.reason, f"{photo.name}: {error}"))
    if refusals:
        raise RefusedPhotoError(refusals[0].reason, "\n".join(map(str, refusals)))
    return chosen


def find_faces(finder: FaceFinder, photos: Sequence[OpenedPhoto]) -> list[PhotoFaces]:
    """The faces of photos that go through the detector together."""
    decoded = [photo.decoded for photo in photos if photo.decoded is not None]
    found = iter(finder.find([one.pixels for one in decoded], [one.reduction for one in decoded]))
    return [_photo_faces(photo, next(found) if photo.decoded is not None else ()) for photo in photos]


def _photo_faces(photo: OpenedPhoto, faces: tuple[Face, ...] | Trouble) -> PhotoFaces:
    if photo.refusal is not None:
        return PhotoFaces(name=photo.name, reason=photo.refusal.reason, message=str(photo.refusal))
    size = None if photo.decoded is None else photo.decoded.size
    if isinstance(faces, Trouble):
        message = f"the detector fails on it: {faces.reason}"
        return PhotoFaces(name=photo.name, size=size, reason=Reason.UNREADABLE, message=message)
    return PhotoFaces(name=photo.name, faces=faces, size=size)
