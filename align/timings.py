"""How long each photo of a store took to align: the lines of `timings.csv`.

They stand apart from the manifest, which is the same whenever and wherever a store is made.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from facegm.errors import FacegmError

TIMINGS_FILE = "timings.csv"
STAGES = ("decode", "detect", "finish")
"""What the numbers after the key stand for: reading the photo, finding faces, and warping, measuring and encoding."""

_HEADER = f"key,{','.join(f'{stage}_s' for stage in STAGES)}\n"


def open_timings(path: Path) -> TextIO:
    """Open the file of a store for further lines: with a header when new, and without a line that a kill has torn."""
    if path.is_file():
        with path.open("r+b") as torn:
            torn.truncate(torn.read().rfind(b"\n") + 1)
    file = path.open("a", encoding="ascii")
    if not file.tell():
        file.write(_HEADER)
    return file


def merge_timings(paths: Iterable[Path]) -> bytes:
    """The lines of several files under one header."""
    lines = [line for path in paths if path.is_file() for line in path.read_bytes().splitlines(keepends=True)[1:]]
    return b"".join([_HEADER.encode("ascii"), *lines])


def encode_timing(key: str, seconds: tuple[float, ...]) -> str:
    """One line: the key, quoted as in the manifest, and the seconds of each stage."""
    return ",".join([json.dumps(key), *(f"{stage:.6f}" for stage in seconds)]) + "\n"


def read_timings(path: Path) -> dict[str, tuple[float, ...]]:
    """Read the seconds of each stage by key; a torn last line, left by an interruption, is passed over.

    Of a photo that was tried again the last line counts. A store without the file has no timings.

    Raises:
        FacegmError: a line is damaged.
    """
    if not path.is_file():
        return {}
    timings: dict[str, tuple[float, ...]] = {}
    with path.open("rb") as lines:
        next(lines, None)
        for number, line in enumerate(lines, start=2):
            if not line.endswith(b"\n"):
                break
            # The key is quoted as JSON, whose escapes a CSV reader would not undo; it may hold commas.
            key, *seconds = line.decode("ascii", "replace").rsplit(",", len(STAGES))
            try:
                decode, detect, finish = map(float, seconds)
                timings[json.loads(key)] = decode, detect, finish
            except (ValueError, TypeError) as error:
                raise FacegmError(f"{path}, line {number}: damaged ({error}); delete this file") from error
    return timings
