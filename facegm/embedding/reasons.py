"""Why a photo or a face is not taken, by codes that programs may rely on."""

from enum import Enum

from facegm.data.readers.photo import UnreadablePhotoError


class Reason(str, Enum):
    """Why a photo or a face is not taken; the codes stay as they are from version to version."""

    UNREADABLE = "unreadable"
    """Missing, empty, truncated, not an image, or of a kind or shape that is not taken."""
    TOO_LARGE = "too-large"
    """More pixels than are decoded."""
    NO_FACE = "no-face"
    """No face was found."""
    SEVERAL_FACES = "several-faces"
    """More than one face, where there must be one."""
    TOO_MANY_FACES = "too-many-faces"
    """More faces than are looked at."""
    UNUSABLE_EMBEDDING = "unusable-embedding"
    """The network makes zero, NaN or infinity of the face, which says nothing about identity."""
    NEARER_TO_ANOTHER = "nearer-to-another"
    """A sample that lies nearer to another person than to its own."""
    UNKNOWN_PERSON = "unknown-person"
    ALREADY_ENROLLED = "already-enrolled"

    def __str__(self) -> str:
        return self.value


class RefusedPhotoError(UnreadablePhotoError):
    """A photo, or the face in it, that is not taken; the message says why and what to do, without the photo's name."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["RefusedPhotoError"], tuple[Reason, str]]:
        return type(self), (self.reason, str(self))
