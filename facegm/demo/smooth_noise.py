"""Smooth random fields: the source of every gentle variation in the synthetic photos."""

import cv2
import numpy as np
from numpy.typing import NDArray


def coarse_noise(generator: np.random.Generator, cells: int, channels: int) -> NDArray[np.float32]:
    """Draw independent standard normal values on a coarse grid, `[cells, cells, channels]`."""
    return generator.standard_normal((cells, cells, channels), dtype=np.float32)


def upsample(grid: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Interpolate a coarse grid `[cells, cells, channels]` cubically to `[side, side, channels]`."""
    smooth = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, dtype=np.float32).reshape(side, side, grid.shape[2])


def smooth_noise(generator: np.random.Generator, side: int, cells: int, channels: int) -> NDArray[np.float32]:
    """Draw a smooth field `[side, side, channels]`, about standard normal, that varies over `side / cells` pixels."""
    return upsample(coarse_noise(generator, cells, channels), side)
