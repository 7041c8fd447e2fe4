"""Out-of-distribution images: of none of a classifier's classes, drawn or named by the user, to see if it notices."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.interpolate import CubicSpline
from torch.nn.functional import interpolate

from facegm.classification.any_images import FittedImages, open_unlabelled
from facegm.classification.classifier import Description
from facegm.classification.prediction import ImageSet
from facegm.data.names import printable
from facegm.data.readers.arrays import LabelledArrays

MOST_BYTES = 1 << 28
"""Of the images of a drawn set."""
_CHUNK = 256
"""Images drawn at a time, so that what is between takes little memory."""
_HEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where a silhouette's width is drawn, from its top to its bottom."""

Drawing = Callable[[np.random.Generator, int, int, int], UInt8[np.ndarray, "images side side channels"]]


def noise(
    rng: np.random.Generator, count: int, side: int, channels: int
) -> UInt8[np.ndarray, "{count} {side} {side} {channels}"]:
    """Pixels that are independent and uniform from 0 to 255.

    Args:
        rng: what they are drawn by.
        count: how many images.
        side: in pixels.
        channels: 1 for grey, 3 for RGB.
    """
    return rng.integers(0, 256, (count, side, side, channels), np.uint8)


def silhouettes(
    rng: np.random.Generator, count: int, side: int, channels: int
) -> UInt8[np.ndarray, "{count} {side} {side} {channels}"]:
    """One bright silhouette on black, about as clothes are photographed for a shop; it is NOT Fashion-MNIST.

    A stand-in where no such set is at hand: nothing here is a picture of clothes, and figures found with it are not
    those of Fashion-MNIST. Each image has a shape that is symmetric about its vertical axis. Its outline is a cubic
    spline through five random widths; four in ten are split from below, as trousers are. Inside lies a brightness drawn
    for the image, of each channel, on which smooth folds vary, in three of ten images also horizontal stripes. Over all
    images, pixels have a mean of 0.29 and a standard deviation of 0.35 on a scale of 0 to 1, which are those that are
    published of Fashion-MNIST's, each to about 0.02, and half of them are black.

    Args:
        rng: what they are drawn by.
        count: how many images.
        side: in pixels.
        channels: 1 for grey, 3 for RGB.
    """
    inside = _shapes(rng, count, side)[..., None]
    brightness = rng.beta(1.1, 0.8, (count, 1, 1, channels))
    folds = 0.14 * _smooth_fields(rng, count, side)[..., None]
    period = rng.uniform(0.08, 0.3, (count, 1, 1, 1))
    is_striped = rng.random((count, 1, 1, 1)) < 0.3
    rows = np.linspace(0, 1, side).reshape(1, -1, 1, 1)
    stripes = 0.2 * is_striped * np.sign(np.sin(2 * np.pi * rows / period))
    pixels = inside * np.clip(brightness + folds + stripes, 0, 1)
    return np.asarray(np.rint(255 * pixels), np.uint8)


def _shapes(rng: np.random.Generator, count: int, side: int) -> Float[np.ndarray, "{count} {side} {side}"]:
    """How much of each pixel lies inside a silhouette, from 0 to 1."""
    center = (np.arange(side) + 0.5) / side
    top, bottom = rng.uniform(0.0, 0.1, (count, 1)), rng.uniform(0.9, 1.0, (count, 1))
    half_width = CubicSpline(_HEIGHTS, rng.uniform(0.1, 0.47, (len(_HEIGHTS), count)), axis=0)(center).T
    inside_rows = np.clip(np.minimum(center - top, bottom - center) * side + 0.5, 0, 1)
    from_axis = np.abs(center - 0.5)
    shape = np.clip((half_width[:, :, None] - from_axis) * side + 0.5, 0, 1) * inside_rows[:, :, None]
    crotch = rng.uniform(0.35, 0.6, (count, 1))
    is_split = rng.random((count, 1)) < 0.4
    gap = is_split * rng.uniform(0.1, 0.3, (count, 1)) * np.clip(center - crotch, 0, 1)
    return np.asarray(shape * (1 - np.clip((gap[:, :, None] - from_axis) * side + 0.5, 0, 1) * (gap > 0)[:, :, None]))


def _smooth_fields(rng: np.random.Generator, count: int, side: int) -> Float[np.ndarray, "{count} {side} {side}"]:
    """Normal numbers on a grid of 5x5, interpolated cubically."""
    grid = torch.from_numpy(rng.standard_normal((count, 1, 5, 5)))
    return interpolate(grid, size=(side, side), mode="bicubic", align_corners=True)[:, 0].numpy()


DRAWINGS: dict[str, Drawing] = {"noise": noise, "silhouettes": silhouettes}
"""The sets that are drawn, by name."""


def drawn_sets(description: Description, count: int, *, seed: int = 0) -> list[ImageSet]:
    """Images as `DRAWINGS` draws them, of a classifier's side and channels.

    Args:
        description: what the classifier is of.
        count: images of each set; fewer where they would take more than 256 MB.
        seed: the same one draws the same images.
    """
    side, channels = description.side, description.channels
    count = min(count, max(1, MOST_BYTES // (side * side * channels)))
    sets = []
    for number, (name, draw) in enumerate(DRAWINGS.items()):
        rng = np.random.default_rng([seed, number])
        chunks = [draw(rng, min(_CHUNK, count - start), side, channels) for start in range(0, count, _CHUNK)]
        arrays = LabelledArrays(np.concatenate(chunks), np.zeros(count, np.int64), (name,))
        sets.append(ImageSet(name=name, samples=FittedImages(arrays, side)))
    return sets


def named_sets(
    sources: Sequence[Path], side: int, resize: int | None = None, *, taken: Collection[str] = tuple(DRAWINGS)
) -> list[ImageSet]:
    """The sets that a user names, each called by its folder's or file's name, or by all of its path where two share it.

    Args:
        sources: what `open_unlabelled` takes.
        side: that the images are brought to, in pixels.
        resize: what photos are resized to before, see `open_unlabelled`.
        taken: names of other sets.

    Raises:
        FacegmError: as `open_unlabelled` says.
    """
    names = [printable(source.resolve().name) for source in sources]
    taken = {*taken, *(name for name in names if names.count(name) > 1)}
    return [
        ImageSet(name=printable(str(source)) if name in taken else name, samples=open_unlabelled(source, side, resize))
        for source, name in zip(sources, names, strict=True)
    ]
