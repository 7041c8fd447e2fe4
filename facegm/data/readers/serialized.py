"""Image and label as one value, written by msgpack or pickle; read so that no value can run code.

Of msgpack this much is read: an array that begins with the image's bytes and ends with the label, a whole number or a
text (https://github.com/msgpack/msgpack/blob/master/spec.md). What lies between, such as features, is passed over.
"""

from facegm.data.readers.pickles import Array, BadPickleError, load_pickle

_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""msgpack's strings of bytes and of text, and how many bytes tell their length; older writers had but one kind."""
_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_SIGNED = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_PICKLE = 0x80


class NotAPairError(Exception):
    """A value that is no image with its label; the message is the reason."""


def label_of(value: bytes | memoryview) -> int | str:
    """The label of a pair; of msgpack's the image is not touched.

    Raises:
        NotAPairError: the value is no pair.
    """
    if value[:1] == bytes([_PICKLE]):
        return unpack_pair(value)[1]
    try:
        return _label(value, _after_image(value)[1], _fields(value) - 1)
    except IndexError:
        raise NotAPairError("cut off") from None


def unpack_pair(value: bytes | memoryview) -> tuple[bytes, int | str]:
    """Image and label of a pair.

    Raises:
        NotAPairError: the value is no pair.
    """
    if value[:1] == bytes([_PICKLE]):
        return _of_pickle(bytes(value))
    try:
        start, end = _after_image(value)
        return bytes(value[start:end]), _label(value, end, _fields(value) - 1)
    except IndexError:
        raise NotAPairError("cut off") from None


# ------------------------------------------------------------------------------------------------- msgpack


def _fields(value: bytes | memoryview) -> int:
    """How many elements the array has that the value is."""
    fields = value[0] - 0x90
    if fields not in (2, 3):
        raise NotAPairError("neither a picture nor a pair of image and label")
    return fields


def _after_image(value: bytes | memoryview) -> tuple[int, int]:
    _fields(value)
    return _extent(value, 1)


def _extent(value: bytes | memoryview, start: int) -> tuple[int, int]:
    """Where the content of the string that begins at a byte begins and ends."""
    kind = value[start]
    if 0xA0 <= kind <= 0xBF:
        begin, length = start + 1, kind - 0xA0
    elif kind in _BYTES:
        begin = start + 1 + _BYTES[kind]
        length = int.from_bytes(value[start + 1 : begin], "big")
    else:
        raise NotAPairError(f"kind {kind:#x} where bytes should be")
    if begin + length > len(value):
        raise NotAPairError("cut off")
    return begin, begin + length


def _label(value: bytes | memoryview, start: int, fields: int) -> int | str:
    for _ in range(fields - 1):
        start = _extent(value, start)[1]
    kind = value[start]
    if kind < 0x80:
        label: int | str = kind
        end = start + 1
    elif kind in _UNSIGNED or kind in _SIGNED:
        end = start + 1 + (_UNSIGNED | _SIGNED)[kind]
        label = int.from_bytes(value[start + 1 : end], "big", signed=kind in _SIGNED)
    else:
        begin, end = _extent(value, start)
        label = _text(bytes(value[begin:end]))
    if end != len(value):
        raise NotAPairError("cut off, or longer than it says")
    return _checked(label)


# ------------------------------------------------------------------------------------------------- pickle


def _of_pickle(value: bytes) -> tuple[bytes, int | str]:
    try:
        pair = load_pickle(value)
        if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
            raise NotAPairError(f"a pickled {type(pair).__name__} where image and label should be")
        image, label = pair[0], pair[-1]
        # A DataLoader makes a list of one element of the one, and an array of the other.
        while isinstance(image, tuple | list) and len(image) == 1:
            image = image[0]
        if isinstance(label, Array):
            label = label.integer()
    except BadPickleError as error:
        raise NotAPairError(str(error)) from error
    if not isinstance(image, bytes):
        raise NotAPairError(f"a pickled {type(image).__name__} where an image's bytes should be")
    return image, _checked(label)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotAPairError("a label that is no text") from None


def _checked(label: object) -> int | str:
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise NotAPairError(f"a label that is a {type(label).__name__}")
    if (isinstance(label, int) and label < 0) or (isinstance(label, str) and not label.strip(" /.")):
        raise NotAPairError(f"label {label!r}, neither text nor a whole number from 0 on")
    return label
