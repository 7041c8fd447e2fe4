"""Manifests and stores of faces that were never aligned, to inspect."""

import json
import statistics
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegm.store.format import SCHEMA, encode_face

Row = Mapping[str, Any]
"""The columns of a photo that are not null."""


def manifest_table(rows: Iterable[Row], *, cuts: Sequence[int] = ()) -> pa.Table:
    """The rows as a manifest, in several chunks where it is cut."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
    bounds = [0, *sorted(cuts), len(table)]
    return pa.concat_tables([table.slice(start, stop - start) for start, stop in pairwise(bounds)])


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of a row's face."""
    return (40 + 13 * number % 200, 40 + 29 * number % 200, 40 + 47 * number % 200)


def write_store(folder: Path, rows: Sequence[Row], settings: Mapping[str, object]) -> None:
    """A store with a face of one colour for each row that did not fail, a file each."""
    stored = []
    for number, row in enumerate(rows):
        if row["status"] != "failed":
            face = encode_face(np.full((128, 128, 3), colour_of(number), np.uint8))
            path = folder / "faces" / f"{row['key']}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(face)
            row = {**row, "length": len(face), "checksum": zlib.crc32(face)}
        stored.append(row)
    folder.mkdir(exist_ok=True)
    pq.write_table(manifest_table(stored), folder / "manifest.parquet")
    (folder / "store.json").write_text(json.dumps({"format": 2, "size": 128, **settings}))


def face_row(number: int, identity: str | None, **known: object) -> Row:
    """A face whose measures follow from its number."""
    return {
        "key": f"{identity}/{number:02}.jpg",
        "identity": identity,
        "status": "aligned",
        "box": [10.0, 20.0, 50.0 + number, 80.0],
        "probability": 0.9 + 0.002 * number,
        "faces": 1 + (number % 4 == 0),
        "residual": 1.0 + number * 7 % 20,
        "profile": number * 3 % 20 / 20,
        "sharpness": 10.0 + number * 11 % 20,
        "contrast": 10.0 + number * 13 % 20,
        "digest": digest_of(number),
        "perceptual_hash": np.random.default_rng(number).bytes(32),
        **known,
    }


def digest_of(number: int) -> bytes:
    """A digest of its own for each number."""
    return number.to_bytes(32, "big")


def quantiles_of(values: Sequence[float]) -> list[float]:
    """As `facegm.align.inspection.QUANTILES`, by the standard library."""
    twentieths = statistics.quantiles(values, n=20, method="inclusive")
    return [min(values), *(twentieths[cut] for cut in (0, 4, 9, 14, 18)), max(values)]
