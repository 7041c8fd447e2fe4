"""Photos of any size with labels, read where they lie; cropped and resized by the workers that decode them."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer, UInt8

from facegm.data.decoding import read_photo
from facegm.data.readers.photo import Photo, UnreadablePhotoError
from facegm.data.readers.source import find_photos
from facegm.data.samples import Batch, DrawnSamples, Samples, checked_labels
from facegm.errors import FacegmError

logger = logging.getLogger(__name__)
SMALLEST_AREA = 0.08
"""Of a random crop, as a share of the photo."""
LARGEST_RATIO = 4 / 3
"""Of a random crop's width to its height, or of its height to its width."""
TRIES = 10
"""Areas and ratios that are drawn for a photo; the first that fit into it are taken."""
LONGEST = 2
"""Ratio of the sides beyond which both ends of a photo are cut off before it is resized for an evaluation: far from its
square, and of a panorama more than memory has room for."""


class PhotoDraws(NamedTuple):
    """How photos are cropped, whatever their size: random numbers, uniform from 0 to 1, a row a photo."""

    area: Float[np.ndarray, "batch tries"]
    ratio: Float[np.ndarray, "batch tries"]
    top: Float[np.ndarray, " batch"]
    left: Float[np.ndarray, " batch"]
    mirrored: Bool[np.ndarray, " batch"]


class Box(NamedTuple):
    """A rectangle within a photo, in pixels."""

    top: int
    left: int
    height: int
    width: int


class LabelledPhotos(Samples):
    """Photos in files of their own.

    Trained on by random resized crops (Szegedy et al. 2015, in the form that torchvision has made customary), mirrored
    half of the time; evaluated by the middle square.

    Args:
        paths: the photos.
        labels: class of each, 0 to len(classes) - 1.
        classes: names.
        side: of the network's input, in pixels.
        resize: what the shorter side of a photo is brought to before the middle is taken out of it.

    Raises:
        FacegmError: labels do not go with photos or classes, or `side` with `resize`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Integer[np.ndarray, " samples"],
        *,
        classes: Sequence[str],
        side: int = 224,
        resize: int = 256,
    ) -> None:
        if not 1 <= side <= resize:
            raise FacegmError(f"side: {side} pixels, must be from 1 to the {resize} that photos are resized to")
        self.keys = tuple(map(str, paths))  # not the paths, which take far more memory, in each worker
        self.labels = checked_labels(labels, len(self.keys), len(classes))
        self.classes = tuple(classes)
        self._side, self._resize = side, resize

    @classmethod
    def of_source(
        cls, source: Path, *, classes: Sequence[str] = (), side: int = 224, resize: int = 256
    ) -> "LabelledPhotos":
        """The photos of a folder tree class/photo.jpg, or of a list file; see `find_photos`.

        Args:
            source: the folder or file.
            classes: names in the order of their numbers, such as those that another set was trained on; without any,
                those that are found, sorted.
            side: see the class.
            resize: see the class.

        Raises:
            FacegmError: there are no photos, they lie packed in one file, are all of one class, or of another one.
        """
        found = find_photos(source)
        for remark in found.remarks:
            logger.warning(f"{source}: {remark}")
        photos = found.photos
        refuse_packed(photos)
        stray = next((photo.path for photo in photos if photo.identity is None), None)
        if stray is not None:
            raise FacegmError(f"{stray}: lies in no class's folder; expected class/photo.jpg")
        classes = classes or sorted({str(photo.identity) for photo in photos})
        if len(classes) < 2:
            raise FacegmError(f"{source}: all photos are of one class, {classes[0]}; expected folders class/photo.jpg")
        number = {name: label for label, name in enumerate(classes)}
        unknown = next((photo for photo in photos if photo.identity not in number), None)
        if unknown is not None:
            known = ", ".join(classes[:5])
            raise FacegmError(f"{unknown.path}: its class, {unknown.identity}, is none of {len(classes)}: {known}, ...")
        labels = np.array([number[str(photo.identity)] for photo in photos])
        return cls([Path(photo.path) for photo in photos], labels, classes=classes, side=side, resize=resize)

    @cached_property
    def fingerprint(self) -> str:
        """A short digest of the names and classes of all photos, wherever they lie."""
        digest = hashlib.sha256()
        for key, label in zip(self.keys, self.labels, strict=True):
            digest.update(f"{Path(key).name}\0{self.classes[label]}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    @property
    def image_bytes(self) -> int:
        """Bytes of a crop."""
        return self._side**2 * 3

    @property
    def can_be_kept(self) -> bool:
        """Never: they are of many sizes, and cropped anew each time."""
        return False

    @property
    def is_in_memory(self) -> bool:
        """Never."""
        return False

    def keep_decoded(self, device: torch.device) -> None:
        """Refuse, since they cannot be kept.

        Raises:
            FacegmError: always.
        """
        raise FacegmError(f"photos of many sizes cannot be kept decoded on {device}; stream them")

    def draw(self, numbers: Int64[np.ndarray, " batch"], rng: np.random.Generator | None) -> PhotoDraws | tuple[()]:
        """Random numbers for `random_crop`; without `rng` none, which is the middle."""
        if rng is None:
            return ()
        area, ratio = rng.random((2, len(numbers), TRIES))
        top, left = rng.random((2, len(numbers)))
        return PhotoDraws(area, ratio, top, left, rng.random(len(numbers)) < 0.5)

    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        rows = zip(*drawn.draws, strict=True) if drawn.draws else [()] * len(drawn.numbers)
        crops = [self._load(number, *row) for number, row in zip(drawn.numbers.tolist(), rows, strict=True)]
        return Batch(torch.from_numpy(np.stack(crops)), torch.from_numpy(self.labels[drawn.numbers]))

    def _load(self, number: int, *draws: Any) -> UInt8[np.ndarray, "side side 3"]:
        try:
            photo = read_photo(Path(self.keys[number]))
        except UnreadablePhotoError as error:
            raise FacegmError(
                f"{self.keys[number]}: {error}; replace this photo, or take it out of the data set"
            ) from error
        if not draws:
            return middle_square(photo, self._side, self._resize)
        *where, is_mirrored = draws
        top, left, height, width = random_crop(*photo.shape[:2], *where)
        crop = resized(photo[top : top + height, left : left + width], self._side, self._side)
        return crop[:, ::-1] if is_mirrored else crop


def refuse_packed(photos: Iterable[Photo]) -> None:
    """Refuse photos that have no files of their own.

    Raises:
        FacegmError: one lies in a file with others.
    """
    packed = next((photo.path for photo in photos if photo.offset is not None or photo.entry is not None), None)
    if packed is not None:
        raise FacegmError(f"{packed}: photos are read from files of their own; unpack it into a folder")


def random_crop(
    height: int,
    width: int,
    area: Float[np.ndarray, " tries"],
    ratio: Float[np.ndarray, " tries"],
    top: float,
    left: float,
) -> Box:
    """A random part of a photo, from random numbers, as torchvision's `RandomResizedCrop` chooses it.

    The area is uniform between a share and all of the photo, the ratio of the sides uniform on a logarithmic scale. If
    no try fits, it is the photo, less what is too long.

    Args:
        height: of the photo, in pixels.
        width: of the photo.
        area: uniform from 0 to 1, of each try.
        ratio: likewise.
        top: uniform from 0 to 1.
        left: likewise.
    """
    areas = height * width * (SMALLEST_AREA + (1 - SMALLEST_AREA) * area)
    ratios = LARGEST_RATIO ** (2 * ratio - 1)
    heights, widths = np.rint(np.sqrt(areas / ratios)), np.rint(np.sqrt(areas * ratios))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    if not fits.any():
        kept_height, kept_width = min(height, round(width * LARGEST_RATIO)), min(width, round(height * LARGEST_RATIO))
        return Box((height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width)
    chosen = int(fits.argmax())
    crop_height, crop_width = int(heights[chosen]), int(widths[chosen])
    return Box(int(top * (height - crop_height + 1)), int(left * (width - crop_width + 1)), crop_height, crop_width)


def middle_square(
    photo: UInt8[np.ndarray, "height width 3"], side: int, resize: int
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The middle of a photo whose shorter side is brought to `resize` pixels.

    Args:
        photo: of any size.
        side: of the square.
        resize: at least `side`.
    """
    shorter = min(photo.shape[:2])
    height, width = (length - 2 * max(0, (length - LONGEST * shorter) // 2) for length in photo.shape[:2])
    photo = resized(_middle(photo, height, width), resize * height // shorter, resize * width // shorter)
    return _middle(photo, side, side)


def resized(
    photo: UInt8[np.ndarray, "height width 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Bring pixels to a size: averages along a side that shrinks, so that nothing is skipped; linear where it grows."""
    # OpenCV averages only where no side grows.
    shrunk = cv2.resize(photo, (min(width, photo.shape[1]), min(height, photo.shape[0])), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _middle(photo: UInt8[np.ndarray, "_ _ 3"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return photo[top : top + height, left : left + width]
