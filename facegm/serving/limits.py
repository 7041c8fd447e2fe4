"""How much the server takes from its clients: what bounds its memory and the time of a request."""

from dataclasses import asdict, dataclass

from facegm.align.proposals import MINIMUM_FACE

MINIMUM_SIDE = MINIMUM_FACE
"""Shortest side in pixels of a photo that is looked at: no smaller face is looked for."""
FORM_BYTES = 2**16
"""Of a request, beside its photos: the form around them and its other fields."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for, and how many may wait."""

    max_bytes: int = 2**24
    """bytes of a photo as it is uploaded"""
    max_pixels: int = 25_000_000
    """pixels of a photo, read from its header before it is decoded"""
    max_faces: int = 100
    """faces of a photo"""
    max_requests: int = 64
    """requests in progress; further ones are answered with 503 and when to come again"""
    max_batch: int = 32
    """photos of all clients that are looked at together"""
    timeout: int = 30
    """seconds from a request's first byte to its answer"""

    def to_json(self) -> dict[str, int]:
        """What `/v1/model` says of them."""
        return asdict(self)
