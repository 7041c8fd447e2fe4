"""The data that a cell is trained and measured on: how much they are, and what tells them from others."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from facegm.classification.config import ImageRunConfig
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig

RunConfig = ImageRunConfig | FaceRunConfig


class DataSize(NamedTuple):
    """What a training set costs to go through."""

    images: int
    classes: int
    channels: int
    side: int
    """Of the network's input, in pixels."""


PUBLISHED = {
    "mnist": DataSize(60_000, 10, 1, 28),
    "cifar10": DataSize(50_000, 10, 3, 32),
    "cifar100": DataSize(50_000, 100, 3, 32),
    "folder": DataSize(1_281_167, 1_000, 3, 224),  # ImageNet
}
PUBLISHED_FACES = DataSize(494_414, 10_575, 3, 120)  # CASIA-WebFace


class CellData(NamedTuple):
    """Data that are there."""

    size: DataSize
    description: str
    """Numbers of images and digests, of the training part and, of classifiers, of the test part too."""


class DataSets:
    """The data of a grid's configurations, each opened once."""

    def __init__(self) -> None:
        self._found: dict[str, CellData] = {}

    def open(self, config: RunConfig) -> CellData:
        """The data that a configuration names.

        Raises:
            FacegmError: they are missing or damaged.
        """
        key = f"{config.data} {config.preprocessing}"
        if key not in self._found:
            self._found[key] = _open_images(config) if isinstance(config, ImageRunConfig) else _open_faces(config)
        return self._found[key]

    def size(self, config: RunConfig) -> DataSize:
        """How much they are; where they are missing, how much the paper's were."""
        try:
            return self.open(config).size
        except FacegmError:
            return _published(config)


def evenly_spaced(images: int, count: int) -> Int64[np.ndarray, " some"]:
    """Numbers of some of so many images, `count` at most."""
    return np.linspace(0, images - 1, min(count, images)).astype(np.int64)


def _published(config: RunConfig) -> DataSize:
    if isinstance(config, FaceRunConfig):
        return PUBLISHED_FACES._replace(side=config.preprocessing.crop_size)
    size = PUBLISHED[config.data.set]
    return size._replace(side=config.data.side) if config.data.set == "folder" else size


def _open_images(config: ImageRunConfig) -> CellData:
    from facegm.classification.data import open_images

    train = open_images(config.data, "train")
    test = open_images(config.data, "test", classes=train.classes)
    parts = ((train.samples, "training"), (test.samples, "test"))
    description = " and ".join(f"{len(s):,} {part} images ({s.fingerprint})" for s, part in parts)
    return CellData(DataSize(len(train.samples), len(train.classes), train.channels, train.side), description)


def _open_faces(config: FaceRunConfig) -> CellData:
    from facegm.faces.run import open_training_faces

    faces = open_training_faces(config)
    size = DataSize(len(faces), len(faces.identities), 3, config.preprocessing.crop_size)
    return CellData(size, f"{len(faces):,} faces ({faces.fingerprint})")
