"""How an ONNX model of another program sees aligned faces."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from facegm.align.face import resize_aligned
from facegm.errors import UsageError

INSIGHTFACE = "insightface"
"""The preset."""
Numbers = float | tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class OnnxPreprocessing:
    """From faces on the usual five-point template to a model's input; the defaults are insightface's convention.

    The template of another size is insightface's of 112x112 pixels, multiplied, with pixel 0 where it is.

    Equal settings are held alike, however they were written, since contracts are made of them: three equal numbers are
    one.
    """

    size: int = 112
    """Side of the square input in pixels."""
    mean: Numbers = 127.5
    """Subtracted from pixels of 0 to 255; one number, or one for each channel in the order of `color`."""
    scale: Numbers = 127.5
    """By which they are then divided."""
    color: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    """Order of the input's dimensions: channels in front of rows and columns, or behind."""
    mirror: bool = False
    """Whether an embedding is that of the face plus that of its mirror image."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 1024:
            raise ValueError(f"size: {self.size}, must be from 1 to 1024 pixels")
        for name in ("mean", "scale"):
            numbers = np.atleast_1d(getattr(self, name))
            if numbers.shape not in ((1,), (3,)) or not all(map(isfinite, numbers)):
                raise ValueError(f"{name}: {getattr(self, name)}, must be a number, or one for each of three channels")
            object.__setattr__(self, name, _as_one(numbers))
        if not np.all(self.scale):
            raise ValueError(f"scale: {self.scale}, must not be 0: pixels are divided by it")
        for name, allowed in (("color", ("rgb", "bgr")), ("layout", ("nchw", "nhwc"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)}, must be {' or '.join(allowed)}")

    @classmethod
    def from_json(cls, description: dict[str, Any]) -> "OnnxPreprocessing":
        """Read what `dataclasses.asdict` and JSON make of one.

        Raises:
            TypeError, ValueError: it is something else.
        """
        found: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in description.items()
        }
        return cls(**found)

    def middle_crops(self, faces: Iterable[UInt8[np.ndarray, "side side 3"]]) -> UInt8[np.ndarray, "batch size size 3"]:
        """Bring aligned RGB faces to the model's size; those that have it stay as they are."""
        return np.stack([resize_aligned(face, self.size) for face in faces])

    def network_input(self, crops: UInt8[np.ndarray, "batch size size 3"]) -> Float[np.ndarray, "batch _ _ _"]:
        """RGB pixels, 0 to 255, to the model's input, in its order of dimensions and channels."""
        channels = crops if self.color == "rgb" else crops[..., ::-1]
        scaled = (channels.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.scale, np.float32)
        return np.ascontiguousarray(scaled if self.layout == "nhwc" else scaled.transpose(0, 3, 1, 2), np.float32)


def parse_preprocessing(text: str) -> OnnxPreprocessing:
    """Read what a command line says: a preset, or settings that differ from it, as `size=160,scale=128,color=bgr`.

    The three numbers of a mean or a scale have a slash between them: `mean=123.7/116.3/103.5`.

    Raises:
        UsageError: it is neither, or a value is not allowed.
    """
    if text == INSIGHTFACE:
        return OnnxPreprocessing()
    settings: dict[str, Any] = {}
    for setting in text.split(","):
        name, equals, value = setting.strip().partition("=")
        if not equals or name not in _READERS:
            known = ", ".join(field.name for field in fields(OnnxPreprocessing))
            raise UsageError(
                f"preprocessing: {setting!r}, must be {INSIGHTFACE}, or settings such as "
                f"`size=112,mean=127.5,scale=128`; there are {known}"
            )
        try:
            settings[name] = _READERS[name](value)
        except ValueError as error:
            raise UsageError(f"preprocessing: {name}={value}: {error}") from error
    try:
        return OnnxPreprocessing(**settings)
    except ValueError as error:
        raise UsageError(f"preprocessing: {error}") from error


def _as_one(numbers: np.ndarray) -> Numbers:
    """One float, or of channels that differ three; a negative zero is zero."""
    first, *others = (float(number) + 0.0 for number in numbers)
    return first if others.count(first) == len(others) else (first, others[0], others[1])


def _numbers(text: str) -> Numbers:
    numbers = [float(number) for number in text.split("/")]
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) != 3:
        raise ValueError("one number or three")
    return numbers[0], numbers[1], numbers[2]


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


_READERS: dict[str, Callable[[str], Any]] = {
    "size": int,
    "mean": _numbers,
    "scale": _numbers,
    "color": str,
    "layout": str,
    "mirror": _truth,
}
