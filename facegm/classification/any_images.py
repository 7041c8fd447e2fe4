"""Images of any folder, at the side that a classifier takes: photos, or sets that are packed like MNIST or CIFAR."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from facegm.classification.classifier import Description
from facegm.classification.data import find_test_folder
from facegm.data.names import printable
from facegm.data.photo_samples import LabelledPhotos, middle_square, refuse_packed
from facegm.data.readers.arrays import LabelledArrays, NoSuchSetError
from facegm.data.readers.cifar import read_cifar
from facegm.data.readers.idx import read_mnist
from facegm.data.readers.source import find_photos
from facegm.data.samples import Batch, DrawnSamples, EvaluatedImages, Samples, renumbered
from facegm.errors import FacegmError

_PACKED: tuple[Callable[[Path], LabelledArrays], ...] = (
    lambda folder: read_mnist(folder, "test"),
    lambda folder: read_cifar(folder, "cifar10", "test"),
    lambda folder: read_cifar(folder, "cifar100", "test"),
)


class FittedImages(EvaluatedImages):
    """Images of one size in memory, of which a batch has the middle square, brought to another side.

    Args:
        arrays: the images; their numbers of classes are those of the labels.
        side: in pixels.
    """

    def __init__(self, arrays: LabelledArrays, side: int) -> None:
        self._images, self._side = arrays.images, side
        self.labels, self.keys = arrays.labels, tuple(f"image {number}" for number in range(len(arrays.labels)))

    @property
    def image_bytes(self) -> int:
        """Bytes of an image in a batch."""
        return self._side**2 * int(self._images.shape[3])

    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        images = self._images[drawn.numbers]
        if images.shape[1:3] != (self._side, self._side):
            shape = self._side, self._side, images.shape[3]
            images = np.stack([middle_square(image, self._side, self._side).reshape(shape) for image in images])
        return Batch(torch.from_numpy(images), torch.from_numpy(self.labels[drawn.numbers]))


def read_packed(folder: Path) -> LabelledArrays | None:
    """The test images of a set that is packed like MNIST or CIFAR; None where a folder holds none.

    Raises:
        FacegmError: a file is missing or damaged.
    """
    for read in _PACKED:
        with suppress(NoSuchSetError):
            return read(folder)
    return None


def open_labelled(source: Path, description: Description, *, left_out: Sequence[str] = ()) -> Samples:
    """Images of a classifier's classes, in any order and number.

    Args:
        source: a folder tree class/photo.jpg, of which all photos are taken; one of train/class/photo.jpg and
            val/class/photo.jpg, of which those of val are; a list of photos; or a folder of files like MNIST's or
            CIFAR's, of which the test images are.
        description: what the classifier is of.
        left_out: classes that were left out of its training, whose images are passed over.

    Raises:
        FacegmError: there are no images, they are damaged, or of a class that the classifier does not know.
    """
    classes = description.classes
    arrays = read_packed(source) if source.is_dir() else None
    if arrays is None:
        return _photos_of_classes(source, description, left_out)
    unknown = next((name for name in arrays.classes if name not in classes and name not in left_out), None)
    if unknown is not None:
        raise FacegmError(
            f"{source}: its class, {printable(unknown)}, is none of {len(classes)}: {', '.join(classes[:5])}, ...; "
            "give images of other classes as --outside"
        )
    labels = renumbered(arrays.labels, arrays.classes, classes)
    known = labels >= 0
    if not known.any():
        raise FacegmError(f"{source}: has no image of the classes {', '.join(classes[:5])}, ...")
    arrays = arrays._replace(images=arrays.images[known], labels=labels[known])
    return FittedImages(arrays, description.side)


def _photos_of_classes(source: Path, d: Description, left_out: Sequence[str]) -> LabelledPhotos:
    source = find_test_folder(source) or source
    photos = LabelledPhotos.of_source(source, classes=[*d.classes, *left_out])
    known = photos.labels < len(d.classes)
    if not known.any():
        raise FacegmError(f"{source}: has no photo of the classes {', '.join(d.classes[:5])}, ...")
    paths = [Path(key) for key, is_known in zip(photos.keys, known, strict=True) if is_known]
    return LabelledPhotos(paths, photos.labels[known], classes=d.classes, side=d.side, resize=d.resize or d.side)


def open_unlabelled(source: Path, side: int, resize: int | None = None) -> Samples:
    """Images that need be of no class.

    Args:
        source: a folder with photos in whatever folders, a list of photos, or a folder of files like MNIST's or
            CIFAR's, of which the test images are taken.
        side: that they are brought to, in pixels.
        resize: what the shorter side of a photo is brought to before the middle is taken out of it; `side` where None.

    Raises:
        FacegmError: there are no images, they are damaged, or photos lie packed in one file.
    """
    arrays = read_packed(source) if source.is_dir() else None
    if arrays is not None:
        return FittedImages(arrays, side)
    photos = find_photos(source).photos
    refuse_packed(photos)
    return LabelledPhotos(
        [Path(photo.path) for photo in photos],
        np.zeros(len(photos), np.int64),
        classes=("outside",),
        side=side,
        resize=resize or side,
    )
