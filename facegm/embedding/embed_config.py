"""How photos are embedded into a file."""

from dataclasses import dataclass
from typing import Literal

from facegm.align.engines import EngineName
from facegm.align.networks import Runtime
from facegm.embedding.comparison import FacePolicy


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How photos are embedded into a file. Of a store, whose faces are found, only the device can be chosen."""

    policy: FacePolicy | Literal["all"] = "all"
    """Which of several faces of a photo."""
    identity_level: int = 1
    """Which folder of a photo names its identity, counted up from the photo: 1 for the one that it lies in."""
    device: str = "auto"
    """Where the network runs; see `FaceEmbedder.load`."""
    runtime: Runtime | None = None
    """What computes the detector; None for a GPU where the network runs on one, else the CPU."""
    engine: EngineName = "local"
    """Worker processes of this machine, or of a Ray cluster."""
    workers: int | None = None
    """Worker processes, one thread each; None for as many as this machine has cores and memory for, and a few a GPU."""
