"""The options of an alignment."""

from dataclasses import dataclass, field
from typing import Literal

from facegm.align.face import FaceChoice
from facegm.align.networks import Runtime
from facegm.align.proposals import LEAST_MINIMUM_FACE, MINIMUM_FACE
from facegm.store.format import StoreFormat
from facegm.store.journal import Shard


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Options of the alignment."""

    identity_level: int = 1
    """Which folder of a photo names its identity, counted up from the photo: 1 for the one that it lies in."""
    minimum_face: int = MINIMUM_FACE
    """Smallest face looked for, in pixels: facenet-pytorch's `min_face_size`. Large photos take the less time, and
    show the fewer faces in the background, the larger it is."""
    on_missing: Literal["skip", "center-crop"] = "skip"
    """Where no face is found: leave the photo out, or take its middle (for evaluation sets)."""
    choice: FaceChoice = field(default_factory=FaceChoice)
    """Which face of a photo is its subject."""
    is_aligned: bool = False
    """Whether the photos are faces on the usual five-point template already, to be resized and not looked for."""
    store_format: StoreFormat = field(default_factory=StoreFormat)
    """How the store keeps its pictures."""
    runtime: Runtime | None = None
    """What computes the detector; None for what the store was begun with, else a GPU if there is one, else the CPU."""
    engine: Literal["local", "ray"] = "local"
    """Worker processes of this machine, or of a Ray cluster."""
    workers: int | None = None
    """Worker processes, one thread each; None for as many as this machine has cores and memory for, and a few a GPU."""
    shard: Shard | None = None
    """The job that this is, where several share the work."""
    remove_missing: bool = False
    """Whether any number of photos may be gone from the source of a store that is gone on with, and their faces go."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers: {self.workers}, must be at least 1")
        if self.identity_level < 1:
            raise ValueError(f"identity_level: {self.identity_level}, must be at least 1")
        if self.minimum_face < LEAST_MINIMUM_FACE:
            raise ValueError(
                f"minimum_face: {self.minimum_face}, must be at least {LEAST_MINIMUM_FACE}, "
                "the pixels that the detector's first network looks at"
            )
        detection = (self.minimum_face, self.on_missing, self.choice, self.runtime)
        if self.is_aligned and detection != (MINIMUM_FACE, "skip", FaceChoice(), None):
            raise ValueError("aligned: no face is looked for, so how it is found and chosen cannot be said")
