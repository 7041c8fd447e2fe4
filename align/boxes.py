"""Arithmetic on boxes as MTCNN does it; in float32, so that the numbers are those of facenet-pytorch to the last bit.

Boxes are rows of left, top, right, bottom in pixels of the photo.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torchvision.ops import nms

Boxes = Float[np.ndarray, "boxes 4"]


def suppressed(boxes: Boxes, scores: Float[np.ndarray, " boxes"], threshold: float) -> Int[np.ndarray, " kept"]:
    """Numbers of the boxes that no better one overlaps by more than `threshold` (area shared over both), best first."""
    if len(boxes) < 2:
        return np.arange(len(boxes))
    return np.asarray(nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold))


def by_group(groups: Int[np.ndarray, " items"]) -> list[Int[np.ndarray, " of_one"]]:
    """The numbers of each group's items, from an ascending list of the group of each."""
    if not len(groups):
        return []
    return np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1)


def shifted(boxes: Boxes, offsets: Float[np.ndarray, "boxes 4"]) -> Boxes:
    """Boxes corrected by a network's offsets, which are shares of their width and height."""
    width = boxes[:, 2] - boxes[:, 0] + np.float32(1)
    height = boxes[:, 3] - boxes[:, 1] + np.float32(1)
    return np.asarray(boxes + offsets * np.stack([width, height, width, height], axis=1))


def squared(boxes: Boxes) -> Boxes:
    """Squares around the same centres, with the longer sides."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side, half = np.maximum(width, height), np.float32(0.5)
    left = boxes[:, 0] + width * half - side * half
    top = boxes[:, 1] + height * half - side * half
    return np.stack([left, top, left + side, top + side], axis=1)


def inside(boxes: Boxes, sizes: Int[np.ndarray, "boxes 2"]) -> Int[np.ndarray, "boxes 4"]:
    """The part of each box inside its photo, as whole pixels; right and bottom are not included.

    Args:
        boxes: the boxes.
        sizes: height and width of each box's photo.
    """
    whole = boxes.astype(np.int64)  # towards zero
    first = np.maximum(whole[:, :2], 1) - 1
    return np.concatenate([first, np.minimum(whole[:, 2:], sizes[:, ::-1])], axis=1)


def is_filled(rectangles: Int[np.ndarray, "boxes 4"]) -> Bool[np.ndarray, " boxes"]:
    """Whether a rectangle holds a pixel."""
    return np.asarray((rectangles[:, 2:] > rectangles[:, :2]).all(axis=1))
