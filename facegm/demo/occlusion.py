"""Things that cover a part of the face in some synthetic photos: glasses, a hand, a scarf."""

import cv2
import numpy as np
from numpy.typing import NDArray

from facegm.demo.portraits import CANVAS_LANDMARKS, CANVAS_SIDE

Image = NDArray[np.uint8]


def draw_occlusion(person: Image, generator: np.random.Generator) -> None:
    """Draw glasses, a hand or a scarf onto `person` in place.

    Args:
        person: RGB and the silhouette (0..255) on the canvas, `[CANVAS_SIDE, CANVAS_SIDE, 4]`.
        generator: source of the kind, the place and the colour.
    """
    draw = (_glasses, _hand, _scarf)[generator.integers(3)]
    draw(person, generator)


def _glasses(person: Image, generator: np.random.Generator) -> None:
    colour = _colour(generator, 10, 90)
    width, height = generator.uniform(15, 19), generator.uniform(10, 15)
    left, right = CANVAS_LANDMARKS[:2]
    thickness = int(generator.integers(2, 4))
    for eye in (left, right):
        box = ((eye[0], eye[1]), (2 * width, 2 * height), 0.0)
        cv2.ellipse(person, box, colour, thickness, cv2.LINE_AA)
    bar_y = round(left[1]) - 3
    for start, end in ((left[0] - width - 14, left[0] - width), (left[0] + width, right[0] - width)):
        cv2.line(person, (round(start), bar_y), (round(end), bar_y), colour, thickness, cv2.LINE_AA)
    cv2.line(person, (round(right[0] + width), bar_y), (round(right[0] + width) + 14, bar_y), colour, thickness)


def _hand(person: Image, generator: np.random.Generator) -> None:
    """Four finger-like strokes that come from below and end on one cheek or on the chin."""
    red = int(generator.integers(110, 230))
    tip_x, tip_y = generator.choice([112, 195]) + generator.uniform(-8, 8), generator.uniform(180, 205)
    slant = generator.uniform(-40, 40)
    for finger in range(4):
        tip = (round(tip_x + 10 * finger - 15), round(tip_y + 4 * abs(finger - 1.5)))
        wrist = (round(tip_x + 12 * finger - 18 + slant), CANVAS_SIDE)
        shade = 1 - 0.07 * finger
        colour = (red * shade, 0.75 * red * shade, 0.62 * red * shade, 255)
        cv2.line(person, tip, wrist, colour, 12, cv2.LINE_AA)


def _scarf(person: Image, generator: np.random.Generator) -> None:
    """A striped cloth over the neck, at most up to the chin."""
    top = generator.uniform(196, 212)
    sag = generator.uniform(4, 14)
    x = np.linspace(85, 235, 16)
    for stripe in range(4):
        y = top + 18 * stripe + sag * np.cos((x - 160) / 75 * np.pi / 2)
        outline = np.vstack([np.column_stack([x, y]), np.column_stack([x, y + 20])[::-1]])
        cv2.fillPoly(person, [np.rint(outline).astype(np.int32)], _colour(generator, 20, 220), cv2.LINE_AA)


def _colour(generator: np.random.Generator, low: int, high: int) -> tuple[int, int, int, int]:
    red, green, blue = (int(value) for value in generator.integers(low, high, 3))
    return red, green, blue, 255
