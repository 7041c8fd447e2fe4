"""Area averages of a photo: its pyramid and its crops, exactly as torch's "area" interpolation computes them.

Sums over rectangles come from a table of sums in four look-ups, so that the cost is that of the averages asked for, not
of the pixels under them, and in integers, so that they are exact.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

TABLE_LIMIT = 2**22
"""Pixels of which a table of sums is made at once (64 MiB); sums of 8-bit pixels stay within 32 bits by far."""

CHANNELS = 4
"""Channels of all averages: RGB and one of zeros, so that a pixel's sums are 16 bytes, which numpy gathers at once."""


class AreaSampler:
    """Averages over a photo's rectangles.

    The cells of an average are those of `torch.nn.functional.interpolate(mode="area")`: cell i of n over a side of s
    pixels covers the pixels from floor(i s / n) to ceil((i + 1) s / n), enlarging included.

    Args:
        photo: RGB, 0 to 255.
    """

    def __init__(self, photo: UInt8[np.ndarray, "height width 3"]) -> None:
        self._photo = photo
        self._table = _table_of_sums(photo) if photo.shape[0] * photo.shape[1] <= TABLE_LIMIT else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photo in pixels."""
        return self._photo.shape[0], self._photo.shape[1]

    def resized(
        self, size: tuple[int, int], rows: slice, columns: slice
    ) -> Float[np.ndarray, "rows columns {CHANNELS}"]:
        """A part of the photo resized to `size` (height, width): the given rows and columns of the result."""
        row_cells = _cells(0, self._photo.shape[0], size[0])[:, rows]
        column_cells = _cells(0, self._photo.shape[1], size[1])[:, columns]
        if self._table is not None:
            return _averages(self._table, row_cells, column_cells)
        return self._averages_by_bands(row_cells, column_cells)

    def crops(
        self, boxes: Int[np.ndarray, "crops 4"], side: int
    ) -> Float[np.ndarray, "crops {side} {side} {CHANNELS}"]:
        """Square averages of rectangles (left, top, right, bottom; right and bottom not included) of the photo."""
        if self._table is not None:
            return _averages_of_crops(self._table, boxes, side)
        crops = [
            self._averages_by_bands(_cells(top, bottom, side), _cells(left, right, side))
            for left, top, right, bottom in boxes.tolist()
        ]
        return np.stack(crops) if crops else np.empty((0, side, side, CHANNELS), np.float32)

    def _averages_by_bands(
        self, row_cells: Int[np.ndarray, "2 rows"], column_cells: Int[np.ndarray, "2 columns"]
    ) -> Float[np.ndarray, "rows columns 4"]:
        """The same where one table would take too much memory: a table for some rows at a time."""
        left, right = int(column_cells[0, 0]), int(column_cells[1, -1])
        averages = []
        for cells in _bands(row_cells, most_rows=max(1, TABLE_LIMIT // (right - left))):
            top, bottom = int(cells[0, 0]), int(cells[1, -1])
            table = _table_of_sums(self._photo[top:bottom, left:right])
            averages.append(_averages(table, cells - top, column_cells - left))
        return np.concatenate(averages)


def _bands(cells: Int[np.ndarray, "2 rows"], most_rows: int) -> Iterator[Int[np.ndarray, "2 band"]]:
    first = 0
    while first < cells.shape[1]:
        within = np.searchsorted(cells[1], cells[0, first] + most_rows, side="right")
        end = max(first + 1, int(within))
        yield cells[:, first:end]
        first = end


def _cells(start: int, end: int, count: int) -> Int[np.ndarray, "2 {count}"]:
    """First pixel of each cell, and the one after its last."""
    steps, side = np.arange(count), end - start
    return np.stack([start + steps * side // count, start - (-(steps + 1) * side // count)])


def _table_of_sums(photo: UInt8[np.ndarray, "height width 3"]) -> np.ndarray:
    """Sums over all rectangles from the corner, [height + 1, width + 1], the four of a pixel as one 16-byte item."""
    with_zeros = cv2.cvtColor(photo, cv2.COLOR_RGB2RGBA)
    with_zeros[:, :, 3] = 0
    return np.asarray(cv2.integral(with_zeros, sdepth=cv2.CV_32S)).view(np.complex128)[:, :, 0]


def _averages(
    table: np.ndarray, row_cells: Int[np.ndarray, "2 rows"], column_cells: Int[np.ndarray, "2 columns"]
) -> Float[np.ndarray, "rows columns 4"]:
    (tops, bottoms), (lefts, rights) = row_cells, column_cells
    bands = _difference(np.take(table, bottoms, axis=0, mode="clip"), np.take(table, tops, axis=0, mode="clip"))
    sums = _difference(np.take(bands, rights, axis=1, mode="clip"), np.take(bands, lefts, axis=1, mode="clip"))
    return _divided(sums.view(np.int32), bottoms - tops, rights - lefts)


def _averages_of_crops(
    table: np.ndarray, boxes: Int[np.ndarray, "crops 4"], side: int
) -> Float[np.ndarray, "crops {side} {side} 4"]:
    lefts, tops, rights, bottoms = boxes.T[:, :, None]
    steps = np.arange(side)
    top, bottom = tops + steps * (bottoms - tops) // side, tops - (-(steps + 1) * (bottoms - tops) // side)
    left, right = lefts + steps * (rights - lefts) // side, lefts - (-(steps + 1) * (rights - lefts) // side)
    flat, width = table.reshape(-1), table.shape[1]

    def corner(rows: Int[np.ndarray, "crops side"], columns: Int[np.ndarray, "crops side"]) -> np.ndarray:
        items = np.take(flat, rows[:, :, None] * width + columns[:, None, :], mode="clip")
        return np.asarray(items.view(np.int32))

    sums = corner(bottom, right)
    sums -= corner(top, right)
    sums -= corner(bottom, left)
    sums += corner(top, left)
    return _divided(sums, bottom - top, right - left)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.view(np.int32) - b.view(np.int32)).view(np.complex128)


def _divided(
    sums: Int[np.ndarray, "*shape rows columns_x_4"],
    heights: Int[np.ndarray, "*shape rows"],
    widths: Int[np.ndarray, "*shape columns"],
) -> Float[np.ndarray, "*shape rows columns 4"]:
    averages = sums.astype(np.float32)
    averages /= heights.astype(np.float32)[..., None]  # one after the other, as torch does, so that all bits agree
    averages /= np.repeat(widths.astype(np.float32), CHANNELS, axis=-1)[..., None, :]
    return averages.reshape(*averages.shape[:-1], -1, CHANNELS)
