"""The images of a configuration: MNIST, CIFAR, or photos in folders of classes; the training part or the test part."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from facegm.classification.config import ImageDataConfig
from facegm.data.photo_samples import LabelledPhotos
from facegm.data.readers.arrays import LabelledArrays, NoSuchSetError, Part
from facegm.data.readers.cifar import read_cifar
from facegm.data.readers.idx import read_mnist
from facegm.data.resident_images import PaddedCrop, ResidentImages
from facegm.data.samples import renumbered
from facegm.errors import FacegmError

TEST_FOLDERS = ("val", "test", "validation", "valid")
"""Names of the folder with the photos to evaluate on, beside `train`."""
_PURPOSE: dict[Part, str] = {"train": "train", "test": "evaluate"}


@dataclass(frozen=True)
class LabelledImages:
    """One part of a set, as a run takes it."""

    samples: ResidentImages | LabelledPhotos
    classes: tuple[str, ...]
    """Names, in the order of their numbers."""
    channels: int
    """1 for grey, 3 for RGB."""
    side: int
    """Side of the network's input, in pixels."""
    crop: PaddedCrop | None
    """How images that lie in memory are cropped; None for photos."""


def open_images(config: ImageDataConfig, part: Part, *, classes: Sequence[str] = ()) -> LabelledImages:
    """The images of the classes that are trained on.

    Args:
        config: which set, and how it is augmented.
        part: those to train on, or those to evaluate on, which are not.
        classes: names in the order of their numbers, of a network that is trained already; without any they follow
            from the data. With them, photos to evaluate on are all that is looked for.

    Raises:
        FacegmError: the set is missing or damaged, or lacks a class that is named.
    """
    if config.set == "folder":
        return _open_photos(config, part, classes, [*classes, *config.leave_out] if classes else [])
    arrays = _read_arrays(config, part)
    if not classes:
        classes = _without(arrays.classes, config.leave_out)
    return _in_memory(config, arrays, classes)


def open_left_out(config: ImageDataConfig, *, trained: Sequence[str] = ()) -> LabelledImages | None:
    """The test images of the classes that were left out of training; None where there are none.

    Args:
        config: which set.
        trained: the other classes; without any they follow from the data.

    Raises:
        FacegmError: as `open_images` says.
    """
    if not config.leave_out:
        return None
    if config.set == "folder":
        return _open_photos(config, "test", config.leave_out, [*trained, *config.leave_out] if trained else [])
    return _in_memory(config, _read_arrays(config, "test"), config.leave_out)


def _read_arrays(config: ImageDataConfig, part: Part) -> LabelledArrays:
    try:
        if config.set in ("cifar10", "cifar100"):
            return read_cifar(config.folder, config.set, part)
        return read_mnist(config.folder, part)
    except NoSuchSetError as error:
        raise FacegmError(f"{error}, or add --download to `facegm train` to have torchvision fetch them") from error


def _in_memory(config: ImageDataConfig, arrays: LabelledArrays, classes: Sequence[str]) -> LabelledImages:
    _check_known(config.folder, classes, arrays.classes)
    images, labels = arrays.images, renumbered(arrays.labels, arrays.classes, classes)
    if (labels < 0).any():
        images, labels = images[labels >= 0], labels[labels >= 0]
    if not len(images):
        raise FacegmError(f"{config.folder}: has no image of the classes {', '.join(classes)}")
    side, width, channels = images.shape[1:]
    if side != width:
        raise FacegmError(f"{config.folder}: images of {side} x {width} pixels; a classifier takes square ones")
    if config.border == "reflect" and config.padding >= side:
        raise FacegmError(f"data.padding: {config.padding}, must be below the images' side, {side}; or pad with zero")
    crop = PaddedCrop(side=side, padding=config.padding, border=config.border, mirror=config.mirror)
    samples = ResidentImages(images, labels, classes=len(classes), crop=crop)
    return LabelledImages(samples, tuple(classes), channels, side, crop)


def _check_known(folder: Path, classes: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise FacegmError(f"{folder}: has no class {unknown[0]}; there are {', '.join(known[:20])}")


def _without(classes: Sequence[str], left_out: Sequence[str]) -> list[str]:
    unknown = [name for name in left_out if name not in classes]
    if unknown:
        raise FacegmError(f"data.leave_out: {unknown[0]}: no such class; there are {', '.join(classes[:20])}")
    kept = [name for name in classes if name not in left_out]
    if len(kept) < 2:
        raise FacegmError("data.leave_out: fewer than two classes are left to train on")
    return kept


# ------------------------------------------------------------------------------------------------- photos


def find_test_folder(folder: Path) -> Path | None:
    """Of a folder whose photos are parted as train/class/photo.jpg and val/class/photo.jpg, that of the latter, if any.

    Folders of such names that hold photos themselves are classes.
    """
    return next((folder / name for name in TEST_FOLDERS if _holds_folders(folder / name)), None)


def _holds_folders(folder: Path) -> bool:
    _, folders, _ = next(os.walk(folder), ("", [], []))
    return bool(folders)


def _open_photos(config: ImageDataConfig, part: Part, classes: Sequence[str], known: Sequence[str]) -> LabelledImages:
    photos, all_classes = _photos_of_part(config, part, known)
    classes = classes or _without(all_classes, config.leave_out)
    _check_known(config.folder, classes, all_classes)
    labels = renumbered(photos.labels, photos.classes, classes)
    if not (labels >= 0).any():
        raise FacegmError(f"{config.folder}: has no photo of the classes {', '.join(classes)} to {_PURPOSE[part]} on")
    paths = [Path(key) for key, label in zip(photos.keys, labels, strict=True) if label >= 0]
    samples = LabelledPhotos(paths, labels[labels >= 0], classes=classes, side=config.side, resize=config.resize)
    return LabelledImages(samples, tuple(classes), 3, config.side, None)


def _photos_of_part(config: ImageDataConfig, part: Part, known: Sequence[str]) -> tuple[LabelledPhotos, Sequence[str]]:
    """The photos of a part, and all classes of the set.

    Args:
        config: which set.
        part: which part.
        known: all classes; without any they are those of the training photos.
    """
    folder, test = config.folder, find_test_folder(config.folder)
    has_train = _holds_folders(folder / "train")
    if not has_train and test is None:
        return _photos_of_tree(config, part)
    if part == "train" or not known:
        if test is not None and not has_train:
            raise FacegmError(f"{folder}: has a folder {test.name}, but no train/class/photo.jpg to train on")
        train = LabelledPhotos.of_source(folder / "train")
        if part == "train":
            return train, train.classes
        known = train.classes
    if test is None:
        raise FacegmError(f"{folder}: has a folder train, but none of {', '.join(TEST_FOLDERS)} to evaluate on")
    return LabelledPhotos.of_source(test, classes=known), known


def _photos_of_tree(config: ImageDataConfig, part: Part) -> tuple[LabelledPhotos, Sequence[str]]:
    """Those of a part of one folder tree, of which a share of each class is held out."""
    photos = LabelledPhotos.of_source(config.folder)
    chosen = np.flatnonzero(_is_held_out(photos, config.held_out) == (part == "test"))
    if not len(chosen):
        raise FacegmError(f"{config.folder}: no class has two photos, one to train and one to evaluate on")
    paths = [Path(photos.keys[number]) for number in chosen.tolist()]
    return LabelledPhotos(paths, photos.labels[chosen], classes=photos.classes), photos.classes


def _is_held_out(photos: LabelledPhotos, share: float) -> Bool[np.ndarray, " photos"]:
    """Which photos are not trained on: a share of each class, chosen by their names, so that most stay when some come.

    Of a class of one photo it is none, of larger ones at least one.
    """
    digests = [hashlib.sha256(os.fsencode(os.path.basename(key))).digest() for key in photos.keys]
    order = np.array(sorted(range(len(digests)), key=digests.__getitem__))
    held_out = np.zeros(len(photos), np.bool_)
    for label in range(len(photos.classes)):
        own = order[photos.labels[order] == label]
        held_out[own[: min(max(1, round(share * len(own))), len(own) - 1)]] = True
    return held_out
