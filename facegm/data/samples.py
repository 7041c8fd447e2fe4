"""What a data set of labelled images offers to a run, and the batches that it gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Integer, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from facegm.errors import FacegmError

Draws = Any
"""How each of some samples is augmented: a named tuple of arrays, a row a sample, that its data set understands."""


class DrawnSamples(NamedTuple):
    """What a step, or a part of an evaluation, asks of a data set."""

    numbers: Int64[np.ndarray, " batch"]
    """Of the samples within the data set."""
    draws: Draws


class Batch(NamedTuple):
    """Labelled images, and what is left to do with them on the device."""

    images: UInt8[Tensor, "batch height width channels"]
    """0 to 255; RGB, or grey in one channel."""
    labels: Int64[Tensor, " batch"]
    draws: Draws = ()
    """The data set's draws as tensors, as far as they are to be followed on the device."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; from pinned memory the host does not wait."""
        return self.map(lambda part: part.to(device, non_blocking=True))

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch cut into `count` parts of one size."""
        size = len(self.labels) // count
        return (self.map(partial(torch.narrow, dim=0, start=n * size, length=size)) for n in range(count))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with each of its tensors changed."""
        draws = type(self.draws)(*map(change, self.draws)) if self.draws else ()
        return Batch(change(self.images), change(self.labels), draws)


class Samples(Dataset[Batch], ABC):
    """Labelled images; gives batches as drawn.

    Augmentation is the data set's own: `draw` decides it from random numbers of the step, so that all processes and a
    resumed run see the same; `__getitem__` does what needs the photo, and the task's `inputs` the rest on the device.
    """

    keys: Sequence[str]
    """Name of each sample, for messages."""
    labels: Int64[np.ndarray, " samples"]
    """Class of each sample, 0 to classes - 1."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    @abstractmethod
    def image_bytes(self) -> int:
        """Bytes of an image in a batch."""

    @property
    @abstractmethod
    def can_be_kept(self) -> bool:
        """Whether decoded images can be kept in memory, being of one size before augmentation."""

    @property
    @abstractmethod
    def is_in_memory(self) -> bool:
        """Whether images lie decoded in memory, so that batches are made without reading and decoding."""

    @abstractmethod
    def keep_decoded(self, device: torch.device) -> None:
        """Decode all images once, and keep them in the memory of a device.

        All processes of a machine call it: they share one copy in the host's memory, and each fills a part.

        Raises:
            FacegmError: an image is missing or damaged.
        """

    @abstractmethod
    def draw(self, numbers: Int64[np.ndarray, " batch"], rng: np.random.Generator | None) -> Draws:
        """Decide how samples are augmented.

        Args:
            numbers: the samples.
            rng: a step's own; None for the way that they are evaluated, without chance.
        """

    @abstractmethod
    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        """The samples, on the device where they are kept, else on the CPU."""


class EvaluatedImages(Samples):
    """Images that lie in memory, and are evaluated as they are, never trained on."""

    @property
    def can_be_kept(self) -> bool:
        """Not in another place than they are."""
        return False

    @property
    def is_in_memory(self) -> bool:
        """Always."""
        return True

    def keep_decoded(self, device: torch.device) -> None:
        """Nothing to do."""

    def draw(self, numbers: Int64[np.ndarray, " batch"], rng: np.random.Generator | None) -> tuple[()]:
        """They are never augmented."""
        del numbers, rng
        return ()


def renumbered(
    labels: Integer[np.ndarray, " samples"], names: Sequence[str], classes: Sequence[str]
) -> Int64[np.ndarray, " samples"]:
    """Labels by the numbers that classes have elsewhere; -1 where they are not among those.

    Args:
        labels: numbers of classes, by their place in `names`.
        names: the classes of the labels.
        classes: the classes by their new numbers.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    new: Int64[np.ndarray, " samples"] = np.array([numbers.get(name, -1) for name in names], np.int64)[labels]
    return new


def checked_labels(
    labels: Integer[np.ndarray, " samples"], samples: int, classes: int
) -> Int64[np.ndarray, " samples"]:
    """Labels as a data set holds them.

    Args:
        labels: class of each sample, whole numbers of any type.
        samples: how many there are.
        classes: how many there are.

    Raises:
        FacegmError: there are none, too few or too many, or they are not 0 to classes - 1.
    """
    if labels.ndim != 1 or len(labels) != samples:
        raise FacegmError(f"labels: one a sample is needed, [{samples}], found {list(labels.shape)}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise FacegmError(f"labels: whole numbers from 0 on are needed, found {labels.dtype}")
    if samples == 0:
        raise FacegmError("there are no samples")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise FacegmError(
            f"labels: 0 to {classes - 1} are needed for {classes} classes, found {lowest} to {highest}; number the "
            "classes from 0"
        )
    return labels.astype(np.int64)
