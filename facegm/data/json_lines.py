"""Files of one JSON object a line, to which lines are appended while others read."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from facegm.errors import FacegmError

Item = TypeVar("Item")


def read_json_lines(path: Path, make: Callable[..., Item]) -> Iterator[Item]:
    """Read the complete lines of a file; a torn last line, left by an interruption, is passed over.

    Args:
        path: the file; a missing one has no lines.
        make: what takes a line's fields as keyword arguments.

    Raises:
        FacegmError: a line is damaged.
    """
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield make(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise FacegmError(
                    f"{path}, line {number}: damaged ({error}); delete the store and align again"
                ) from error
