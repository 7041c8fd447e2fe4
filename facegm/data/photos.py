"""Photos as people have them, decoded to 8-bit RGB."""

import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from facegm.errors import FacegmError

_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of each EXIF orientation upright."""


class UnreadablePhotoError(FacegmError):
    """A photo that cannot be decoded; the message is the reason, without the file's name."""


def read_photo(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a photo to RGB, 0 to 255, upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit images are converted, transparency is laid over white, and of an animation the
    first frame is taken. Pillow decodes because it reports a truncated file, where OpenCV fills the rest with grey.

    Raises:
        UnreadablePhotoError: the file is missing, empty, truncated, not an image, or unreasonably large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no reason to stop ...
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # ... a decompression bomb is
            with Image.open(path) as image:
                image.load()
                return np.asarray(_to_rgb(_upright(image)))
    except UnreadablePhotoError:
        raise
    except MemoryError:
        raise UnreadablePhotoError("not enough memory to decode it") from None
    except Exception as error:  # decoders raise anything from OSError to struct.error on damaged files
        raise UnreadablePhotoError(_reason(path, error)) from error


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it writes the EXIF block anew, and so refuses a good photo for a damaged tag.
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata raises anything from SyntaxError to struct.error
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadablePhotoError("integer image with values outside 0 to 65535")
        return Image.fromarray((values * 255 // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadablePhotoError("floating-point image: its value range is not known, convert it to 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _reason(path: Path, error: Exception) -> str:
    # os.path answers False where Path's own methods raise, as for a name that is too long.
    if os.path.isdir(path):
        return "a folder, not a file"
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to a missing file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if os.path.isfile(path) and path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return f"{type(error).__name__}: {error}".replace(str(path), path.name)
