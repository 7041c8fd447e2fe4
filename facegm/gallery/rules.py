"""What is enrolled and what is not: strict enrolment, which keeps a gallery's people apart."""

import unicodedata
from dataclasses import dataclass

from facegm.data.names import printable
from facegm.errors import UsageError

IDENTICAL = 1e-4
"""L2 distance of unit vectors up to which two samples are of the same photo: what another batch or engine rounds
differently is a tenth of it."""

MAX_NAME = 200
"""Characters of a name."""
_NOT_IN_NAMES = frozenset("/\N{REPLACEMENT CHARACTER}")
"""A slash, which parts an address, and what stands for bytes that were no text."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A person of the gallery, and the sample of theirs that is nearest to what was searched for."""

    name: str
    sample_id: int
    distance: float
    """L2 distance (not squared) of the embeddings, which have unit length."""


def strict_refusal(name: str, own: float | None, other: Match | None, threshold: float | None) -> str | None:
    """Why strict enrolment does not take a sample, as it may well show somebody else; None where it does.

    A sample must be nearer to its own person than to any other one. The first sample of a person must not be so near to
    another one that the two count as the same.

    Args:
        name: whose the sample is said to be.
        own: distance to the nearest of that person's samples; None where there is none yet.
        other: the nearest of all other people; None where there are no others.
        threshold: distance below which two photos count as one person's; None where that is not known.
    """
    if other is None:
        return None
    shown, nearest = printable(name), f"{printable(other.name)} at {other.distance:.3f}"
    if own is not None and other.distance <= own:
        return f"nearer to {nearest} than to {shown} at {own:.3f}"
    if own is None and threshold is not None and other.distance < threshold:
        return f"the first sample of {shown}, but {nearest} is within the threshold {threshold:.3f}"
    return None


def person_name(name: str) -> str:
    """A person's name as the gallery has it: in one Unicode form (NFC), whoever typed it or named a folder by it.

    Raises:
        UsageError: it is empty, too long, begins or ends with a space, holds a slash, or cannot be printed.
    """
    normal = unicodedata.normalize("NFC", name)
    if not normal or normal != normal.strip() or not normal.isprintable() or len(normal) > MAX_NAME:
        raise UsageError(
            f"name '{printable(name)}': expected 1 to {MAX_NAME} printable characters, with no space at either end"
        )
    if not _NOT_IN_NAMES.isdisjoint(normal):
        raise UsageError(f"name '{printable(name)}': a name holds no slash, and no character that was no valid text")
    return normal
