"""Pickles read so that none can run code: plain values, and for numpy's arrays and numbers what stands for them."""

import io
import math
import pickle
import pickletools
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8


class BadPickleError(Exception):
    """A pickle that is damaged or may run code; the message is the reason alone."""


def load_pickle(data: bytes, *, encoding: Literal["ASCII", "bytes"] = "ASCII") -> Any:
    """Make the value that a pickle describes.

    Args:
        data: the whole pickle.
        encoding: what the strings of Python 2 become: text, or bytes.

    Raises:
        BadPickleError: it is damaged, or asks for anything but plain values and numpy's.
    """
    try:
        _check_places(data)
        return _Unpickler(io.BytesIO(data), encoding=encoding).load()
    except BadPickleError:
        raise
    except Exception as error:  # damaged pickles raise anything
        raise BadPickleError(f"a damaged pickle: {type(error).__name__}: {error}") from error


class Array:
    """A numpy array or number, as its shape, dtype and bytes; numpy itself would believe a pickle that breaks it."""

    def __init__(self, dtype: object = None, data: object = b"", shape: object = (), order: object = "C") -> None:
        self.dtype, self.data, self.shape, self.has_rows = dtype, data, shape, order == "C"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.shape, self.dtype, is_fortran, self.data = state[-4:]
        self.has_rows = not is_fortran

    def integer(self) -> int:
        """The value, if it is one whole number.

        Raises:
            BadPickleError: it is not.
        """
        code = self._code()
        if code not in {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"} or len(self._bytes()) != int(code[1]):
            raise BadPickleError("a label that is not one whole number")
        is_big = isinstance(self.dtype, _DType) and self.dtype.order == ">"
        return int.from_bytes(self._bytes(), "big" if is_big else "little", signed=code[0] == "i")

    def unsigned_bytes(self) -> UInt8[np.ndarray, "..."]:
        """The array, if it is one of uint8.

        Raises:
            BadPickleError: it is not, or its shape does not fit its bytes.
        """
        shape, data = self.shape, self._bytes()
        if self._code() != "u1" or not self.has_rows:
            raise BadPickleError("an array of other numbers than uint8, or not row by row")
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise BadPickleError("an array whose shape is none")
        if math.prod(shape) != len(data):
            raise BadPickleError(f"an array of shape {shape} with {len(data)} bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)

    def _code(self) -> str:
        return self.dtype.code if isinstance(self.dtype, _DType) else ""

    def _bytes(self) -> bytes:
        if not isinstance(self.data, bytes | bytearray):
            raise BadPickleError("an array whose content is no bytes")
        return bytes(self.data)


class _DType:
    """A numpy dtype as pickles describe it."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code, self.order = _text(code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])


def _text(value: str | bytes) -> str:
    """As pickles of Python 2 hold it, or of Python 3."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _encoded(text: str, encoding: str) -> bytes:
    """As pickles of the oldest protocols hold bytes."""
    if _text(encoding) != "latin1":
        raise BadPickleError(f"bytes in {encoding}")
    return text.encode("latin1")


_CODECS: dict[str, Any] = {"encode": _encoded}
_NUMPY: dict[str, Any] = {
    "_reconstruct": lambda *_: Array(),
    "_frombuffer": lambda data, dtype, shape, order: Array(dtype, data, shape, order),
    "scalar": Array,
    "ndarray": Array,
    "dtype": _DType,
}
_KNOWN: dict[str, dict[str, Any]] = {"_codecs": _CODECS, "numpy": _NUMPY}
_KNOWN |= {f"numpy.{core}.{name}": _NUMPY for core in ("core", "_core") for name in ("multiarray", "numeric")}


class _Unpickler(pickle.Unpickler):
    """Makes plain values, and of numpy's what stands for them here."""

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get(module, {})
        if name not in known:
            raise BadPickleError(f"a pickle that asks for {module}.{name}, which may be code and is not run")
        return known[name]


def _check_places(data: bytes) -> None:
    """See that a pickle ends where its data does, and that what it remembers is numbered without gaps.

    The unpickler takes memory for all numbers up to the highest, so that one flipped bit could ask for 32 GiB.
    """
    end: int | None = None
    for count, (operation, argument, end) in enumerate(pickletools.genops(data)):  # noqa: B007, the last one is wanted
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument is None or not 0 <= argument <= count):
            raise BadPickleError("a damaged pickle: it remembers more than it holds")
    if end != len(data) - 1:
        raise BadPickleError("a damaged pickle: more follows its end")
