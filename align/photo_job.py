"""What worker processes do with photos: the alignment, or the embedding, say. The engines need to know no more."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import cv2
import torch

from facegm.data.machine import KEPT_BLOCK, keep_freed_memory
from facegm.data.readers.photo import Photo

Groups = Sequence[Sequence[Photo]]
"""Photos that are looked at together, several times."""
Outcome = TypeVar("Outcome")


class PhotoProcessor(Protocol[Outcome]):
    """What looks at photos in a worker process."""

    def process(self, groups: Groups) -> Iterator[list[Outcome]]:
        """Yield the outcomes of photos that were looked at together, one each, in their order.

        Raises:
            FacegmError: it fails on every photo.
        """

    def check(self) -> None:
        """Do what takes much memory: whoever cannot do that has too little for photos."""


class PhotoJob(Protocol[Outcome]):
    """What is to be done with photos; it travels to the workers, so that it holds nothing that is large."""

    @property
    def uses_gpu(self) -> bool:
        """Whether a worker computes on a GPU, be it the detector or a network: they are shared, cores are not."""

    def begin(self, gpu: int) -> PhotoProcessor[Outcome]:
        """Load what is needed, in a worker process that has the GPU of this number.

        Raises:
            FacegmError: something is not there.
        """

    def lost(self, photo: Photo) -> Outcome:
        """The outcome of a photo of which its worker has died, again and again."""


def make_worker() -> None:
    """Have this process compute as one of several workers: on one thread, and with its own memory again and again."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_freed_memory(most=KEPT_BLOCK)
