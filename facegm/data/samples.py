"""What a data set of labelled images offers to a training run."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from facegm.data.batch import Batch
from facegm.data.draws import Draws


class Samples(Dataset[Batch], ABC):
    """Labelled images of one size; gives batches as drawn."""

    keys: Sequence[str]
    """Name of each sample, for messages."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    @abstractmethod
    def decoded_size(self) -> int:
        """Bytes of all images when they are decoded and resized."""

    @abstractmethod
    def keep_decoded(self, device: torch.device) -> None:
        """Decode all images once, and keep them in the memory of a device.

        Raises:
            FacegmError: an image is missing or damaged.
        """

    @abstractmethod
    def __getitem__(self, draws: Draws) -> Batch:
        """The samples that were drawn, on the device where they are kept, else on the CPU."""
