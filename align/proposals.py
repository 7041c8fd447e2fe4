"""The first stage of MTCNN: P-Net over the image pyramids of photos of any sizes, and the arithmetic on its boxes.

Boxes are rows of left, top, right, bottom in pixels of the photo. All is in float32 and as MTCNN does it, so that the
numbers are those of facenet-pytorch to the last bit.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torchvision.ops import nms

from facegm.align.area import CHANNELS, AreaSampler
from facegm.align.networks import Networks, normalize

CELL, STRIDE = 12, 2
"""P-Net looks at squares of 12 pixels, two pixels apart."""
MINIMUM_FACE = 20
"""Smallest face looked for where nothing else is said, in pixels: facenet-pytorch's."""
LEAST_MINIMUM_FACE = CELL
"""Below it a photo would have to be enlarged for P-Net, which shows nothing that is not there."""
PYRAMID_FACTOR = 0.709
PROPOSAL_THRESHOLD = 0.6
TILE = 96
"""Rows and columns of squares that P-Net is given at most: large levels are cut, so that memory is bounded."""

Boxes = Float[np.ndarray, "boxes 4"]


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """A part of a level of a photo's pyramid."""

    photo: int
    level: int
    level_size: tuple[int, int]
    row: int
    column: int
    """Its first square, counted within the level."""
    rows: slice
    columns: slice
    """Its pixels of the level."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of its image."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start, CHANNELS


_HIT = np.dtype(
    [("photo", "i8"), ("level", "i8"), ("row", "i8"), ("column", "i8"), ("score", "f4"), ("offsets", "f4", 4)]
)


def propose(
    networks: Networks, samplers: Sequence[AreaSampler], minimum_face: int
) -> tuple[Boxes, Int[np.ndarray, " boxes"]]:
    """Square boxes that may hold a face, and the photo that each lies in, in ascending order.

    Of boxes that overlap only the most probable stays, first within a level of the pyramid, then within a photo.

    Args:
        networks: of which P-Net is run.
        samplers: the photos.
        minimum_face: smallest face looked for, in pixels. It shapes the pyramid, and so every result.
    """
    scales = [pyramid_scales(*sampler.size, minimum_face) for sampler in samplers]
    hits = _hits(networks, samplers, scales)
    hits = hits[np.lexsort([hits[name] for name in ("column", "row", "level", "photo")])]
    places = zip(hits["photo"], hits["level"], strict=True)
    scale = np.array([scales[photo][level] for photo, level in places], np.float32)
    corner = np.stack([hits["column"], hits["row"]], axis=1).astype(np.float32) * STRIDE
    boxes = np.floor(np.concatenate([corner + 1, corner + CELL], axis=1, dtype=np.float32) / scale[:, None])

    kept = _kept(hits, boxes)
    boxes, offsets = boxes[kept], hits["offsets"][kept]
    sides = boxes[:, 2:] - boxes[:, :2]
    return squared(boxes + offsets * np.tile(sides, 2)), hits["photo"][kept]


def pyramid_scales(height: int, width: int, minimum_face: int) -> list[float]:
    """By how much a photo is resized for each level of its pyramid; none where it is smaller than the smallest face."""
    scale = CELL / minimum_face
    side = min(height, width) * scale
    scales = []
    while side >= CELL:
        scales.append(scale)
        scale *= PYRAMID_FACTOR
        side *= PYRAMID_FACTOR
    return scales


def _kept(hits: np.ndarray, boxes: Boxes) -> Int[np.ndarray, " kept"]:
    kept = []
    for photo in by_group(hits["photo"]):
        levels = [photo[level] for level in by_group(hits["level"][photo])]
        best = np.concatenate([level[suppressed(boxes[level], hits["score"][level], 0.5)] for level in levels])
        kept.append(best[suppressed(boxes[best], hits["score"][best], 0.7)])
    return np.concatenate([np.empty(0, np.int64), *kept])


def _hits(networks: Networks, samplers: Sequence[AreaSampler], scales: Sequence[Sequence[float]]) -> np.ndarray:
    """All squares that P-Net finds likely enough; tiles of one size run together."""
    by_shape: defaultdict[tuple[int, int, int], list[_Tile]] = defaultdict(list)
    for tile in _tiles(samplers, scales):
        by_shape[tile.shape].append(tile)
    hits = [np.empty(0, _HIT)]
    for shape, tiles in by_shape.items():
        most = max(1, networks.most // math.prod(shape))
        for start in range(0, len(tiles), most):
            part = tiles[start : start + most]
            images = np.empty((len(part), *shape), np.float32)
            for tile, image in zip(part, images, strict=True):
                samplers[tile.photo].resize(tile.level_size, tile.rows, tile.columns, out=image)
            probabilities, offsets = networks.run("pnet", normalize(images))
            hits.append(_hits_of_tiles(part, probabilities[:, 1], offsets))
    return np.concatenate(hits)


def _hits_of_tiles(
    tiles: Sequence[_Tile],
    probabilities: Float[np.ndarray, "tiles rows columns"],
    offsets: Float[np.ndarray, "tiles 4 rows columns"],
) -> np.ndarray:
    number, row, column = np.nonzero(probabilities >= np.float32(PROPOSAL_THRESHOLD))
    hits = np.empty(len(number), _HIT)
    places = np.array([(tile.photo, tile.level, tile.row, tile.column) for tile in tiles])
    hits["photo"], hits["level"], first_row, first_column = places[number].T
    hits["row"], hits["column"] = first_row + row, first_column + column
    hits["score"], hits["offsets"] = probabilities[number, row, column], offsets[number, :, row, column]
    return hits


def _tiles(samplers: Sequence[AreaSampler], scales: Sequence[Sequence[float]]) -> Iterator[_Tile]:
    for photo, sampler in enumerate(samplers):
        height, width = sampler.size
        for level, scale in enumerate(scales[photo]):
            size = (int(height * scale + 1), int(width * scale + 1))
            for row, rows in _spans(size[0]):
                for column, columns in _spans(size[1]):
                    yield _Tile(
                        photo=photo, level=level, level_size=size, row=row, column=column, rows=rows, columns=columns
                    )


def _spans(side: int) -> Iterator[tuple[int, slice]]:
    """Cut a level's side: the first square of each span, and the pixels that its squares look at.

    Squares count by two pixels, so spans begin at even ones and the network's pooling falls on the same pixels; the
    last span keeps the side's end, where a pooling window may be cut off.
    """
    squares = -(-(side - 2) // STRIDE) - 4
    for first in range(0, squares, TILE):
        is_last = first + TILE >= squares
        yield first, slice(STRIDE * first, side if is_last else STRIDE * (first + TILE - 1) + CELL)


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
