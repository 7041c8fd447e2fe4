"""Inputs that a face network should not take for faces: blank, noise, upside-down, close-ups, drawings, photos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from facegm.classification.out_of_distribution import named_sets, noise, silhouettes
from facegm.classification.prediction import ImageSet

CLOSE_UP = 4
"""Of a close-up, the side of the face over that of the part that is shown."""
DRAWN = ("blank", "noise", "upside-down", "close-ups", "silhouettes")

FaceLike = UInt8[np.ndarray, "images side side 3"]


def strange_inputs(faces: FaceLike, *, seed: int = 0) -> Mapping[str, FaceLike]:
    """As many inputs of each kind as there are faces, by the kinds' names, `DRAWN`.

    Blank ones have one random colour; noise is of independent pixels; upside-down faces are turned by 180 degrees;
    close-ups are random parts of faces, of a quarter of the side, enlarged to all of it; silhouettes are drawn.

    Args:
        faces: aligned, RGB.
        seed: the same one draws the same inputs.
    """
    rng = np.random.default_rng(seed)
    count, side = faces.shape[:2]
    colours = rng.integers(0, 256, (count, 1, 1, 3), np.uint8)
    inputs = (
        np.broadcast_to(colours, faces.shape).copy(),
        noise(rng, count, side, 3),
        faces[:, ::-1, ::-1].copy(),
        np.stack([_close_up(face, rng) for face in faces]),
        silhouettes(rng, count, side, 3),
    )
    return dict(zip(DRAWN, inputs, strict=True))


def _close_up(face: UInt8[np.ndarray, "side side 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    side = len(face)
    top, left = rng.integers(0, side - side // CLOSE_UP + 1, 2)
    part = face[top : top + side // CLOSE_UP, left : left + side // CLOSE_UP]
    return np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC))


def inputs_in_files(sources: Sequence[Path], side: int, count: int) -> Mapping[str, FaceLike]:
    """Images that a user names, by their folders' names: the middle squares of some, evenly spaced over all.

    Args:
        sources: what `facegm.classification.any_images.open_unlabelled` takes; grey images get three channels alike.
        side: that they are brought to, in pixels.
        count: how many at most of each.

    Raises:
        FacegmError: there are no images, or they are damaged.
    """
    return {one.name: _read(one, count) for one in named_sets(sources, side, taken=DRAWN)}


def _read(images: ImageSet, count: int) -> FaceLike:
    total = len(images.samples)
    count = min(count, total)
    return np.stack([images.picture(number * total // count) for number in range(count)])
