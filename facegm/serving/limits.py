"""How much the server takes from its clients: what bounds its memory and the time of a request."""

from dataclasses import asdict, dataclass

from facegm.errors import UsageError

LARGEST_PIXELS = 89_478_485
"""`facegm.data.decoding.MAX_PIXELS`, which a photo of more is reduced to."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a request may ask for, and how many may be in progress."""

    max_bytes: int = 2**24
    """Bytes of a photo as it is sent."""
    max_pixels: int = 25_000_000
    """Pixels of a photo, by its header, before it is decoded."""
    max_faces: int = 100
    """Faces of a photo."""
    max_requests: int = 64
    """Requests in progress; more are answered with 503."""
    max_batch: int = 32
    """Photos of all clients that are looked at together."""
    timeout: int = 30
    """Seconds from a request's first byte to its answer."""

    def __post_init__(self) -> None:
        if self.max_pixels > LARGEST_PIXELS:
            raise UsageError(f"--max-pixels {self.max_pixels}: no more than {LARGEST_PIXELS:,} are decoded at a time")

    def to_json(self) -> dict[str, int]:
        """What `/v1/model` says of them."""
        return asdict(self)
