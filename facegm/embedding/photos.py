"""Photos as applications have them: paths, files and their contents, pictures of Pillow, arrays of any colour order."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, repeat
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from facegm.data.decoding import DecodedPhoto, TooLargePhotoError, decode_image, require_pixels
from facegm.data.readers.photo import UnreadablePhotoError, read_file
from facegm.embedding.reasons import Reason, RefusedPhotoError
from facegm.errors import FacegmError, UsageError

Color = Literal["rgb", "bgr"]
"""Order of an array's channels; a fourth one is the opacity in both. Pillow's arrays are RGB, those of OpenCV BGR."""
PhotoLike: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | np.ndarray
"""A photo: its path, the content of its file, a file opened to read bytes, a picture of Pillow, or an array of uint8 or
uint16: [height, width] grey, [height, width, 3], or with an opacity [height, width, 4]."""


class OpenedPhoto(NamedTuple):
    """A photo that was to be decoded."""

    name: str
    """Its path, or "photo N", counted from 0."""
    decoded: DecodedPhoto | None
    refusal: RefusedPhotoError | None
    """Why it could not be."""

    @property
    def pixels(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """RGB, 0 to 255, upright."""
        return None if self.decoded is None else self.decoded.pixels


def opened(
    photos: Iterable[PhotoLike], color: Color | None, formats: Sequence[str] | None = None
) -> Iterator[OpenedPhoto]:
    """Decode photos one after the other, as they are asked for.

    Args:
        photos: any number of them, or one array [photos, height, width, channels].
        color: of arrays with channels; nothing else has a need of it.
        formats: Pillow's names of those that files may have; None for all.

    Raises:
        TypeError: one photo in place of several; before anything is decoded.
        UsageError: another colour order; likewise.
    """
    if isinstance(photos, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or hasattr(photos, "read"):
        raise TypeError("one photo, where this takes a list of photos; put a single one in brackets")
    if isinstance(photos, np.ndarray) and photos.ndim != 4:
        raise TypeError(
            f"an array of shape {photos.shape}, where this takes a list of photos or one array [photos, height, width, "
            "channels]; put a single one in brackets"
        )
    if isinstance(photos, torch.Tensor):
        raise TypeError("a tensor, where this takes a list of photos; give photos.permute(0, 2, 3, 1).cpu().numpy()")
    if color is not None and color not in get_args(Color):
        raise UsageError(f"color {color!r}: take one of {', '.join(get_args(Color))}")
    return map(_open, count(), photos, repeat(color), repeat(formats))  # which does not hold on to a photo


def open_photo(photo: PhotoLike, color: Color | None) -> OpenedPhoto:
    """Decode a single photo; see `opened`."""
    return next(opened([photo], color))


def _open(number: int, photo: Any, color: Color | None, formats: Sequence[str] | None) -> OpenedPhoto:
    is_path = isinstance(photo, str | os.PathLike) and not _is_url(photo)
    name = str(photo) if is_path else f"photo {number}"
    try:
        return OpenedPhoto(name, _decoded(photo, color, formats), None)
    except TooLargePhotoError as error:
        refusal = RefusedPhotoError(Reason.TOO_LARGE, str(error))
    except UnreadablePhotoError as error:
        refusal = RefusedPhotoError(Reason.UNREADABLE, str(error))
    except Exception as error:  # whatever a file object or a plug-in raises: the other photos do not suffer from it
        refusal = RefusedPhotoError(Reason.UNREADABLE, f"{type(error).__name__}: {error}")
    return OpenedPhoto(name, None, refusal)


def _decoded(photo: Any, color: Color | None, formats: Sequence[str] | None) -> DecodedPhoto:
    if _is_url(photo):
        raise UnreadablePhotoError(f"{photo}: a URL, and nothing is fetched here; give the bytes that it leads to")
    if isinstance(photo, str | os.PathLike):
        return decode_image(read_file(Path(photo)), formats)
    if isinstance(photo, bytes | bytearray | memoryview):
        return decode_image(_filled(bytes(photo), "no bytes"), formats)
    if isinstance(photo, Image.Image):
        return decode_image(photo)
    if isinstance(photo, np.ndarray):
        return _from_array(photo, color)
    if isinstance(photo, torch.Tensor):
        raise UnreadablePhotoError(
            f"a tensor of shape {tuple(photo.shape)}; give an array: photo.permute(1, 2, 0).cpu().numpy() of uint8 "
            "[height, width, 3], and color='rgb'"
        )
    if hasattr(photo, "read"):
        content = photo.read()
        if not isinstance(content, bytes):
            raise UnreadablePhotoError("a file that is not opened to read bytes; open it with mode 'rb'")
        return decode_image(_filled(content, "a file at its end; go back by seek(0) if it was read before"), formats)
    raise UnreadablePhotoError(
        f"{type(photo).__name__}; expected a path, bytes, a file opened with mode 'rb', a Pillow image or a numpy array"
    )


def _is_url(photo: Any) -> bool:
    return isinstance(photo, str) and "://" in photo


def _filled(content: bytes, otherwise: str) -> bytes:
    if not content:
        raise UnreadablePhotoError(otherwise)
    return content


def _from_array(photo: np.ndarray, color: Color | None) -> DecodedPhoto:
    """The pixels of an array, by the rules of `decode_image`; a copy, for whoever gave it may fill it anew."""
    kind = f"array of {photo.dtype} and shape {photo.shape}"
    if photo.dtype not in (np.uint8, np.uint16):
        raise UnreadablePhotoError(
            f"{kind}; expected uint8, 0 to 255, or uint16: of 0 to 1 make (photo * 255).round().astype('uint8')"
        )
    if photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[2] not in (3, 4)) or 0 in photo.shape:
        raise UnreadablePhotoError(
            f"{kind}; expected grey [height, width], or [height, width, channels] of 3 channels, or 4 with an opacity"
        )
    if photo.ndim == 3 and color is None:
        raise UnreadablePhotoError(
            f"{kind}, whose colour order is not said; give color='rgb', or color='bgr' of what cv2.imread returns"
        )
    height, width = photo.shape[:2]
    require_pixels(width, height)
    if photo.dtype == np.uint16:
        photo = (photo.astype(np.uint32) * 255 // 65535).astype(np.uint8)
    if color == "bgr" and photo.ndim == 3:
        photo = photo[:, :, [2, 1, 0, *range(3, photo.shape[2])]]
    if photo.ndim == 3 and photo.shape[2] == 3:
        return DecodedPhoto(np.array(photo, order="C"), 1, (width, height))
    return decode_image(Image.fromarray(np.ascontiguousarray(photo)))


def aligned_chip(face: Any, number: int) -> UInt8[np.ndarray, "side side 3"]:
    """A face that is aligned already, as it is.

    Args:
        face: RGB, 0 to 255, of any size.
        number: its place among others, counted from 0, for messages.

    Raises:
        FacegmError: it is no such array, or not square.
    """
    if isinstance(face, torch.Tensor):
        raise FacegmError(f"face {number}: a tensor; give an array of uint8 [side, side, 3], RGB")
    if not isinstance(face, np.ndarray) or face.dtype != np.uint8:
        kind = f"array of {face.dtype}" if isinstance(face, np.ndarray) else type(face).__name__
        raise FacegmError(
            f"face {number}: {kind}; expected uint8 [side, side, 3], RGB of 0 to 255: of 0 to 1 make "
            "(face * 255).round().astype('uint8')"
        )
    if face.ndim != 3 or face.shape[2] != 3:
        raise FacegmError(
            f"face {number}: shape {face.shape}; expected [side, side, 3], RGB: of grey, np.stack([face] * 3, axis=2)"
        )
    height, width, _ = face.shape
    if height != width:
        raise FacegmError(
            f"face {number}: {width}x{height} pixels; a face that is aligned already is square, as 112x112; photos are "
            "aligned by embed, or by find, whose faces have a chip"
        )
    return face
