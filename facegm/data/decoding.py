"""Photos as people have them, decoded to 8-bit RGB."""

import io
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from facegm.data.readers.photo import UnreadablePhotoError, read_file

MAX_PIXELS = 89_478_485
"""Pixels of a photo that are decoded at most: Pillow's own limit."""
_JPEG = b"\xff\xd8\xff"
_REDUCTIONS = (2, 4, 8)
"""At which JPEG's blocks of 8x8 pixels are decoded straight away."""
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""What brings a picture of each EXIF orientation upright."""
_STRIP = 512
"""Rows that are brought from Pillow to NumPy at a time."""


class _DecoderWarnings:
    """While threads decode: odd metadata is no reason to stop, but a decompression bomb is.

    Python's filters are those of all threads, so the first one to begin sets them and the last one to end sets them
    back.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._filters = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()

    def forget_threads(self) -> None:
        """Begin anew in a forked process, where the threads that were decoding are no more."""
        self._filters.close()
        self.__init__()  # type: ignore[misc]


_decoder_warnings = _DecoderWarnings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_decoder_warnings.forget_threads)


class TooLargePhotoError(UnreadablePhotoError):
    """A photo of more pixels than are decoded."""


class DecodedPhoto(NamedTuple):
    """A photo as it can be looked at."""

    pixels: UInt8[np.ndarray, "height width 3"]
    """RGB, 0 to 255, upright."""
    reduction: int
    """By how much both sides were divided: 1, or where a JPEG has more than `MAX_PIXELS`, the least of 2, 4 and 8 that
    brings it below. Pixel i covers those of the photo from reduction * i on."""
    size: tuple[int, int]
    """Width and height of the whole photo, upright."""


@cache
def register_formats() -> None:
    """Have Pillow know all formats that can be decoded here; HEIF by its plug-in, if that is installed."""
    Image.init()
    if find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()


def read_photo(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Read a photo from a file of its own; see `decode`.

    Raises:
        UnreadablePhotoError: the file is missing, empty, truncated, not an image, or unreasonably large.
    """
    return decode_photo(read_file(path))


def decode_photo(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a photo where nothing depends on its size; see `decode`."""
    return decode(data)[0]


def read_size(file: BinaryIO, formats: Sequence[str]) -> tuple[int, int]:
    """Width and height that a photo's header states, before anything is decoded.

    Args:
        file: the photo's, from its beginning on.
        formats: Pillow's names of the formats that are taken; those that it lacks here are passed over.

    Raises:
        TooLargePhotoError: so many pixels that Pillow takes it for a bomb.
        UnreadablePhotoError: not an image of these formats.
    """
    register_formats()
    try:
        with _decoder_warnings, Image.open(file, formats=_known(formats)) as image:
            return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except MemoryError:
        raise UnreadablePhotoError("not enough memory to read it") from None
    except Exception as error:  # a damaged header raises anything from OSError to struct.error
        raise UnreadablePhotoError(f"not an image that can be read; taken are {', '.join(formats)}") from error


def decode(data: bytes) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
    """Decode a photo to its upright pixels, and by how much its sides were divided; see `decode_image`."""
    return decode_image(data)[:2]


def decode_image(source: bytes | Image.Image, formats: Sequence[str] | None = None) -> DecodedPhoto:
    """Decode a photo to RGB, 0 to 255, upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit images are converted, transparency is laid over white, and of an animation the
    first frame is taken. Pillow decodes because it reports a truncated file, where OpenCV fills the rest with grey.

    Args:
        source: the content of a file, or a picture that Pillow has opened; of an animation its present frame. Such a
            picture stays as it is, so that none is decoded at reduced size.
        formats: Pillow's names of the formats that a file may have, as `read_size` was given them: bytes can be a photo
            of one size in one format, and of another size in another. None for all.

    Raises:
        TooLargePhotoError: not JPEG, or opened already, and above `MAX_PIXELS`.
        UnreadablePhotoError: the data are truncated or not an image of these formats.
    """
    register_formats()
    try:
        with _decoder_warnings:
            pixels, orientation, reduction, size = _decoded(source, formats)
    except UnreadablePhotoError:
        raise
    except MemoryError:
        raise UnreadablePhotoError("not enough memory to decode it") from None
    except UnidentifiedImageError as error:
        raise UnreadablePhotoError("not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except Exception as error:  # decoders raise anything from OSError to struct.error on damaged files
        raise UnreadablePhotoError(f"{type(error).__name__}: {error}") from error
    turn = _TURNS.get(orientation)
    if turn is None:
        return DecodedPhoto(pixels, reduction, size)
    return DecodedPhoto(np.ascontiguousarray(turn(pixels)), reduction, size[::-1] if orientation >= 5 else size)


def _decoded(
    source: bytes | Image.Image, formats: Sequence[str] | None
) -> tuple[UInt8[np.ndarray, "height width 3"], int, int, tuple[int, int]]:
    """The pixels as they are stored, their EXIF orientation, the reduction and the size before it.

    Pillow's own copies end here.
    """
    with nullcontext(source) if isinstance(source, Image.Image) else _opened(source, formats) as image:
        size = image.size
        if image is source:
            require_pixels(*size)
        reduction = _reduce(image)
        image.load()
        rgb = _to_rgb(image)
        pixels = np.empty((rgb.height, rgb.width, 3), np.uint8)
        for top in range(0, rgb.height, _STRIP):  # on the way from Pillow to NumPy pixels are copied twice
            bottom = min(top + _STRIP, rgb.height)
            pixels[top:bottom] = np.asarray(rgb.crop((0, top, rgb.width, bottom)))
        return pixels, _orientation(image), reduction, size


def _known(formats: Sequence[str]) -> list[str]:
    return [name for name in formats if name in Image.OPEN]


def _opened(data: bytes, formats: Sequence[str] | None) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=None if formats is None else _known(formats))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        if not data.startswith(_JPEG) or (formats is not None and "JPEG" not in formats):
            raise
        # The class itself sets no limit, so that Pillow's, which is the whole process's, can stay as it is.
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))


def _reduce(image: Image.Image) -> int:
    """Have a photo that is too large decoded at less than its size."""
    width, height = image.size
    if width * height <= MAX_PIXELS:
        return 1
    for reduction in _REDUCTIONS:
        if -(-width // reduction) * -(-height // reduction) <= MAX_PIXELS:
            break
    if image.draft(None, (width // reduction, height // reduction)) is None:  # no JPEG
        raise _too_large()
    return reduction


def require_pixels(width: int, height: int) -> None:
    """Refuse a picture that is in memory already, and so cannot be decoded at reduced size.

    Raises:
        TooLargePhotoError: it is above `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise _too_large()


def _too_large() -> TooLargePhotoError:
    return TooLargePhotoError(
        f"more than {MAX_PIXELS // 1_000_000} megapixels; make it smaller, or save it as JPEG, which is decoded at "
        "reduced size"
    )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata raises anything from SyntaxError to struct.error
        return 1


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
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
