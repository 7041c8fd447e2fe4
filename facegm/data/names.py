"""Names of files, which may be any bytes, as they can be shown, and as they can be kept where only Unicode can."""

import os
import re


def printable(name: str) -> str:
    """A name with what cannot be shown, such as line ends and bytes that are no UTF-8, as escape sequences."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name
    )


def escaped(name: str) -> str:
    r"""A name as valid Unicode: bytes that are no UTF-8 as `\xNN`, and a `\x` that is there already as `\x5cx`."""
    name = name.replace("\\x", "\\x5cx")
    try:
        content = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can hold it
        content = name.encode("utf-8", "surrogatepass")
    return content.decode("utf-8", "backslashreplace")


def unescaped(name: str) -> str:
    """The name that was `escaped`."""
    if "\\x" not in name:
        return name
    content = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), name.encode())
    return os.fsdecode(content)
