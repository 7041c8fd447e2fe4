"""The options of an alignment."""

import os
import re
from dataclasses import dataclass, field
from typing import Literal

from facegm.align.choice import FaceChoice
from facegm.align.networks import Runtime
from facegm.data.face_files import StoreFormat


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several jobs that align a data set together; they may run on different machines at the same time."""

    index: int
    """This job, from 0."""
    count: int
    """Number of jobs."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count <= 99_999:
            raise ValueError(f"shard: {self.index}/{self.count}, must be from 0/N to N-1/N")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `i/n`.

        Raises:
            ValueError: it is something else, or i is not below n.
        """
        numbers = re.fullmatch(r"(\d+)/(\d+)", text)
        if numbers is None:
            raise ValueError(f"shard: {text}, must be i/n, such as 0/4 for the first of four jobs")
        return cls(index=int(numbers[1]), count=int(numbers[2]))

    @property
    def name(self) -> str:
        """Names this job's files; sorted by name, they are in the order of the jobs."""
        return f"{self.index:05}-of-{self.count:05}"


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Options of the alignment."""

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
    workers: int = os.cpu_count() or 1
    """Worker processes, one thread each."""
    shard: Shard | None = None
    """The job that this is, where several share the work."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers: {self.workers}, must be at least 1")
        if self.is_aligned and (self.on_missing, self.choice, self.runtime) != ("skip", FaceChoice(), None):
            raise ValueError("aligned: no face is looked for, so how it is found and chosen cannot be said")
