"""How long each photo of a store took to align: the lines of `timings.csv`."""

import json
from pathlib import Path

from facegm.errors import FacegmError

TIMINGS_FILE = "timings.csv"
STAGES = ("decode", "detect", "finish")
"""What the columns after the key stand for: reading the photo, finding faces, and warping, measuring and encoding."""


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
