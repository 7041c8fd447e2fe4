"""The files of a report: every number as JSON, tables as CSV, and how they and its page come into a folder."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from facegm.data.files import replace_atomically


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a report; each file appears whole or not at all, and none before all are made.

    Args:
        folder: made if need be; what is already in it under these names is replaced.
        files: content by name, in the order in which they appear.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        replace_atomically(folder / name, content)


def json_file(numbers: Mapping[str, Any]) -> bytes:
    """A report's numbers, indented.

    Raises:
        ValueError: one of them is not finite.
    """
    return (json.dumps(numbers, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def csv_file(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A table of one row at least, each by the same columns, of which the first line has the names."""
    first, *others = rows
    text = io.StringIO()
    writer = csv.DictWriter(text, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerows([first, *others])
    return text.getvalue().encode()
