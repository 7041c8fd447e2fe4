"""Area averages of a photo: its pyramid and its crops, exactly as torch's "area" interpolation computes them.

Sums over rectangles come from a table of sums in four look-ups, so that the cost is that of the averages asked for, not
of the pixels under them, and in integers, so that they are exact.
"""

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

TABLE_LIMIT = 2**22
"""Pixels of which a table of sums is made at once (64 MiB); sums of 8-bit pixels stay within 32 bits by far."""

CHANNELS = 4
"""Channels of all averages: RGB and one of zeros, so that a pixel's sums are 16 bytes, which numpy gathers at once."""

Averages = Float[np.ndarray, f"rows columns {CHANNELS}"]


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

    def resize(self, size: tuple[int, int], rows: slice, columns: slice, out: Averages) -> None:
        """Resize the photo to `size` (height, width), and of that write the given rows and columns to `out`."""
        row_cells = _cells(self._photo.shape[0], size[0])[:, rows]
        column_cells = _cells(self._photo.shape[1], size[1])[:, columns]
        if self._table is not None:
            _average(self._table, row_cells, column_cells, out)
        else:
            self._average_by_bands(row_cells, column_cells, out)

    def crop(self, boxes: Int[np.ndarray, "crops 4"], out: Float[np.ndarray, f"crops side side {CHANNELS}"]) -> None:
        """Resize rectangles (left, top, right, bottom; right and bottom not included) of the photo to squares."""
        if self._table is not None:
            _average_crops(self._table, boxes, out)
            return
        for (left, top, right, bottom), crop in zip(boxes.tolist(), out, strict=True):
            rows, columns = _cells(bottom - top, len(crop)), _cells(right - left, len(crop))
            self._average_by_bands(rows + top, columns + left, crop)

    def _average_by_bands(
        self, row_cells: Int[np.ndarray, "2 rows"], column_cells: Int[np.ndarray, "2 columns"], out: Averages
    ) -> None:
        """The same where one table would take too much memory: a table for some rows at a time."""
        left, right = int(column_cells[0, 0]), int(column_cells[1, -1])
        for band in _bands(row_cells, most_rows=max(1, TABLE_LIMIT // (right - left))):
            cells = row_cells[:, band]
            top, bottom = int(cells[0, 0]), int(cells[1, -1])
            table = _table_of_sums(self._photo[top:bottom, left:right])
            _average(table, cells - top, column_cells - left, out[band])


def _bands(cells: Int[np.ndarray, "2 rows"], most_rows: int) -> Iterator[slice]:
    first = 0
    while first < cells.shape[1]:
        within = np.searchsorted(cells[1], cells[0, first] + most_rows, side="right")
        end = max(first + 1, int(within))
        yield slice(first, end)
        first = end


@lru_cache(256)  # photos of one set are often of one size
def _cells(side: int, count: int) -> Int[np.ndarray, "2 {count}"]:
    """First pixel of each cell, and the one after its last."""
    steps = np.arange(count)
    cells = np.stack([steps * side // count, -(-(steps + 1) * side // count)])
    cells.flags.writeable = False
    return cells


def _table_of_sums(photo: UInt8[np.ndarray, "height width 3"]) -> np.ndarray:
    """Sums over all rectangles from the corner, [height + 1, width + 1], the four of a pixel as one 16-byte item."""
    with_zeros = cv2.cvtColor(photo, cv2.COLOR_RGB2RGBA)
    with_zeros[:, :, 3] = 0
    return np.asarray(cv2.integral(with_zeros, sdepth=cv2.CV_32S)).view(np.complex128)[:, :, 0]


def _average(
    table: np.ndarray, row_cells: Int[np.ndarray, "2 rows"], column_cells: Int[np.ndarray, "2 columns"], out: Averages
) -> None:
    (tops, bottoms), (lefts, rights) = row_cells, column_cells
    bands = _difference(np.take(table, bottoms, axis=0, mode="clip"), np.take(table, tops, axis=0, mode="clip"))
    sums = _difference(np.take(bands, rights, axis=1, mode="clip"), np.take(bands, lefts, axis=1, mode="clip"))
    _divide(sums.view(np.int32).reshape(out.shape), bottoms - tops, rights - lefts, out)


def _average_crops(
    table: np.ndarray, boxes: Int[np.ndarray, "crops 4"], out: Float[np.ndarray, "crops side side 4"]
) -> None:
    lefts, tops, rights, bottoms = boxes.T[:, :, None]
    side = out.shape[1]
    steps = np.arange(side)
    top, bottom = tops + steps * (bottoms - tops) // side, tops - (-(steps + 1) * (bottoms - tops) // side)
    left, right = lefts + steps * (rights - lefts) // side, lefts - (-(steps + 1) * (rights - lefts) // side)
    sums = _looked_up(table, bottom, right)
    sums -= _looked_up(table, top, right)
    sums -= _looked_up(table, bottom, left)
    sums += _looked_up(table, top, left)
    _divide(sums, bottom - top, right - left, out)


def _looked_up(
    table: np.ndarray, rows: Int[np.ndarray, "crops side"], columns: Int[np.ndarray, "crops side"]
) -> Int[np.ndarray, "crops side side 4"]:
    numbers = rows[:, :, None] * table.shape[1] + columns[:, None, :]
    sums = np.take(table.reshape(-1), numbers, mode="clip").view(np.int32)
    return np.asarray(sums.reshape(*numbers.shape, CHANNELS))


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.view(np.int32) - b.view(np.int32)).view(np.complex128)


def _divide(
    sums: Int[np.ndarray, "*shape rows columns 4"],
    heights: Int[np.ndarray, "*shape rows"],
    widths: Int[np.ndarray, "*shape columns"],
    out: Float[np.ndarray, "*shape rows columns 4"],
) -> None:
    out[...] = sums
    out /= heights.astype(np.float32)[..., None, None]  # one after the other, as torch does, so that all bits agree
    flat = out.reshape(*out.shape[:-2], -1)  # numpy is slow where the innermost axis is short
    flat /= np.repeat(widths.astype(np.float32), CHANNELS, axis=-1)[..., None, :]
