"""Attacked images as PNG files, which have 8 bits a channel: what they are rounded to, and what is read back."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from facegm.adversarial.subject import Images, PixelRange
from facegm.classification.preprocessing import unit_images
from facegm.data.files import replace_atomically
from facegm.errors import FacegmError


def quantised(images: Images, pixel_range: PixelRange) -> UInt8[torch.Tensor, "batch height width channels"]:
    """Images rounded to the nearest of the 256 levels that a file can hold."""
    return ((images - pixel_range.low) * (255 / pixel_range.width)).round().to(torch.uint8).permute(0, 2, 3, 1)


def of_levels(levels: UInt8[torch.Tensor, "batch height width channels"], pixel_range: PixelRange) -> Images:
    """Images of the pixel range from levels, as they are read of a file."""
    return pixel_range.low + pixel_range.width * unit_images(levels).contiguous()


def write_png(file: Path, levels: UInt8[np.ndarray, "height width channels"]) -> None:
    """Write a picture, grey in one channel or RGB, so that exactly these levels are read back."""
    is_written, content = cv2.imencode(".png", levels[:, :, ::-1])  # cv2 wants BGR; a grey one is the same
    if not is_written:
        raise FacegmError(f"{file}: this picture cannot be written as PNG: {list(levels.shape)}")
    replace_atomically(file, content.tobytes())
