"""Pickles read so that none can run code: plain values, and for numpy's arrays and numbers what stands for them."""

import io
import math
import pickle
import pickletools
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8


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
        _check_operations(data)
        return _Unpickler(data, encoding).load()
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

    def booleans(self) -> Bool[np.ndarray, "..."]:
        """The array or number, if it is of bool.

        Raises:
            BadPickleError: it is not, or its shape does not fit its bytes.
        """
        return self._array("b1", "bool").astype(bool)

    def unsigned_bytes(self) -> UInt8[np.ndarray, "..."]:
        """The array, if it is one of uint8.

        Raises:
            BadPickleError: it is not, or its shape does not fit its bytes.
        """
        return self._array("u1", "uint8")

    def _array(self, code: str, name: str) -> UInt8[np.ndarray, "..."]:
        """The bytes of an array of one type that takes a byte, in its shape."""
        shape, data = self.shape, self._bytes()
        if self._code() != code or not self.has_rows:
            raise BadPickleError(f"an array of other numbers than {name}, or not row by row")
        if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
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

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = _text(code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])


def _text(value: object) -> str:
    """As pickles of Python 2 hold it, or of Python 3."""
    if not isinstance(value, str | bytes):
        raise BadPickleError(f"a name that is a {type(value).__name__}")
    return value.decode("latin1") if isinstance(value, bytes) else value


_HASHING = frozenset({"DICT", "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET"})
"""Operations that hash values."""
_MAX_HASHED_TUPLES = 10_000
"""Tuples that a pickle may hold in which something is hashed: a tenth of the depth that ended processes."""
_NUMPY: dict[str, Any] = {
    "_reconstruct": lambda *_: Array(),
    "_frombuffer": lambda data, dtype, shape, order: Array(dtype, data, shape, order),
    "scalar": Array,
    "ndarray": Array,
    "dtype": _DType,
}
_EMPTY_BYTES: dict[str, Any] = {"bytes": lambda: b""}
"""As the oldest protocols hold bytes that are none."""
_KNOWN = {"numpy": _NUMPY, "builtins": _EMPTY_BYTES, "__builtin__": _EMPTY_BYTES}
_KNOWN |= {f"numpy.{core}.{name}": _NUMPY for core in ("core", "_core") for name in ("multiarray", "numeric")}


class _Unpickler(pickle.Unpickler):
    """Makes plain values, and of numpy's what stands for them here."""

    def __init__(self, data: bytes, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._bytes_left = len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encoded
        known = _KNOWN.get(module, {})
        if name not in known:
            raise BadPickleError(f"a pickle that asks for {module}.{name}, which may be code and is not run")
        return known[name]

    def _encoded(self, text: str, encoding: str) -> bytes:
        """As pickles of the oldest protocols hold bytes; one text that is encoded again and again would fill memory."""
        if _text(encoding) != "latin1":
            raise BadPickleError(f"bytes in {encoding}")
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise BadPickleError("a damaged pickle: it makes more bytes than it holds")
        return text.encode("latin1")


def _check_operations(data: bytes) -> None:
    """See that a pickle ends where its data does, and asks for no more memory or depth than its values need.

    The unpickler takes memory for all numbers up to the highest that something is remembered by, so that one flipped
    bit could ask for 32 GiB; and to hash a tuple it goes as deep as tuples lie in each other, until the process dies.
    """
    end: int | None = None
    num_tuples, hashes = 0, False
    for count, (operation, argument, end) in enumerate(pickletools.genops(data)):  # noqa: B007, the last one is wanted
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument is None or not 0 <= argument <= count):
            raise BadPickleError("a damaged pickle: it remembers more than it holds")
        num_tuples += operation.name.startswith("TUPLE")
        hashes |= operation.name in _HASHING
    if hashes and num_tuples > _MAX_HASHED_TUPLES:
        raise BadPickleError(f"a pickle with sets or dictionaries and {num_tuples:,} tuples, which may be too deep")
    if end != len(data) - 1:
        raise BadPickleError("a damaged pickle: more follows its end")
