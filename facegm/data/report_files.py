"""What reports write beside their pages: every number as JSON, and tables as CSV."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any


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
