"""The base portraits of the synthetic identities: public pictures that come with installed packages."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import cv2
import numpy as np
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray

CANVAS_SIDE = 320
"""Side of the square frame in which all portraits stand alike, in pixels."""
PHOTO_SIDE = 250
"""Side of a photo, in pixels; a photo without pose shows the canvas less a margin of 35 pixels."""
CANVAS_LANDMARKS = np.array([[139, 149], [181, 149], [160, 173], [142.5, 190], [177.5, 190]], dtype=np.float64)
"""Canvas (x, y) of the eyes, the nose's tip and the mouth's corners, left to right in the picture."""

Outline = Sequence[tuple[int, int]]
"""Corners (x, y) of a polygon on the canvas."""

HOPPER_LANDMARKS = [(221.7, 192.2), (309.8, 186.1), (269.4, 239.2), (232.7, 279.6), (306.6, 275.9)]
HOPPER_SKIN: Outline = [
    *[(121, 124), (140, 121), (180, 121), (199, 127), (203, 142), (211, 150), (209, 172), (200, 188), (195, 198)],
    *[(186, 208), (184, 226), (160, 250), (146, 249), (128, 222), (127, 205), (121, 187), (112, 180), (107, 150)],
    *[(113, 142)],
]
HOPPER_HAIR: Outline = [
    *[(120, 95), (127, 86), (142, 76), (150, 73), (178, 76), (184, 81), (203, 100), (211, 107), (211, 148)],
    *[(204, 196), (190, 206), (126, 200), (110, 182), (106, 150), (104, 112)],
]
HOPPER_CLOTHES: Outline = [
    *[(124, 206), (188, 207), (206, 222), (236, 236), (258, 244), (268, 262), (272, 320)],
    *[(30, 320), (48, 235), (60, 229), (104, 218)],
]

ASTRONAUT_LANDMARKS = [(205.0, 101.7), (246.8, 103.7), (224.7, 129.0), (201.7, 139.2), (245.3, 141.9)]
ASTRONAUT_SKIN: Outline = [
    *[(121, 122), (140, 127), (170, 126), (190, 129), (200, 142), (202, 160), (210, 168), (206, 180), (198, 184)],
    *[(193, 204), (188, 220), (189, 234), (168, 240), (140, 238), (129, 229), (128, 212), (123, 190), (120, 180)],
    *[(113, 172), (120, 160)],
]
ASTRONAUT_HAIR: Outline = [
    *[(94, 112), (104, 94), (122, 80), (128, 70), (150, 57), (162, 56), (185, 64), (204, 74), (216, 92), (222, 112)],
    *[(227, 128), (223, 146), (216, 164), (202, 172), (119, 170), (105, 158), (97, 142)],
]
ASTRONAUT_CLOTHES: Outline = [
    *[(128, 199), (190, 222), (205, 230), (222, 246), (236, 276), (262, 294), (278, 320), (18, 320), (28, 302)],
    *[(64, 268), (66, 246), (76, 226), (92, 206), (112, 200)],
]


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A picture of one real person, moved so that its landmarks stand at `CANVAS_LANDMARKS`."""

    pixels: NDArray[np.uint8]
    """RGB, `[CANVAS_SIDE, CANVAS_SIDE, 3]`."""
    skin: NDArray[np.float32]
    """Share of skin in each pixel, 0..1, `[CANVAS_SIDE, CANVAS_SIDE]`; so for the next two."""
    hair: NDArray[np.float32]
    """Hair, or a hat."""
    clothes: NDArray[np.float32]
    """What is below the neck."""


@functools.cache
def base_portraits() -> tuple[Portrait, ...]:
    """Load Grace Hopper's portrait (comes with matplotlib) and, if scikit-image is installed, Eileen Collins's.

    With another number of portraits the same seed draws other identities.
    """
    hopper_path = str(get_sample_data("grace_hopper.jpg", asfileobj=False))
    hopper = np.asarray(cv2.imread(hopper_path, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)
    portraits = [_portrait(hopper, HOPPER_LANDMARKS, HOPPER_SKIN, HOPPER_HAIR, HOPPER_CLOTHES)]
    if find_spec("skimage") is not None:
        astronaut: NDArray[np.uint8] = import_module("skimage.data").astronaut()
        portraits.append(_portrait(astronaut, ASTRONAUT_LANDMARKS, ASTRONAUT_SKIN, ASTRONAUT_HAIR, ASTRONAUT_CLOTHES))
    return tuple(portraits)


def _portrait(
    picture: NDArray[np.uint8],
    landmarks: Sequence[tuple[float, float]],
    skin_outline: Outline,
    hair_outline: Outline,
    clothes_outline: Outline,
) -> Portrait:
    """Move an RGB picture to the canvas by the affine map that best fits its five landmarks."""
    landmarks_and_one = np.column_stack([np.array(landmarks), np.ones(len(landmarks))])
    affine = np.linalg.lstsq(landmarks_and_one, CANVAS_LANDMARKS, rcond=None)[0].T
    # Twice the size, then the mean of 2x2 pixels: Hopper's picture is larger than the canvas and would alias.
    doubled = cv2.warpAffine(
        picture, 2 * affine, (2 * CANVAS_SIDE, 2 * CANVAS_SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    pixels = cv2.resize(doubled, (CANVAS_SIDE, CANVAS_SIDE), interpolation=cv2.INTER_AREA)
    skin = _soft_mask(skin_outline)
    hair = _soft_mask(hair_outline) * (1 - skin)
    clothes = _soft_mask(clothes_outline) * (1 - skin) * (1 - hair)
    return Portrait(pixels=np.asarray(pixels, dtype=np.uint8), skin=skin, hair=hair, clothes=clothes)


def _soft_mask(outline: Outline) -> NDArray[np.float32]:
    mask = np.zeros((CANVAS_SIDE, CANVAS_SIDE), dtype=np.float32)
    cv2.fillPoly(mask, [np.array(outline, dtype=np.int32)], 1.0)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.5), dtype=np.float32)
