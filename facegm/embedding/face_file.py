"""Files of embedded faces, written and read.

Parquet holds a `facegm.embedding.face_table` as it is. A `.npz` holds `paths`, `face` and `embeddings` [faces, dim],
`missing_paths` and `missing_reasons` of the photos without a face, and the description as the text `facegm`.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facegm.data.files import atomic_file
from facegm.embedding.face_table import DESCRIPTION, description_of
from facegm.errors import FacegmError

SUFFIXES = (".parquet", ".npz")
ROWS = 2**13
"""Of a Parquet file that are written, and read, together."""


def read_description(path: Path) -> dict[str, Any]:
    """What a file of embedded faces says of itself.

    Raises:
        FacegmError: it cannot be read, or is no such file.
    """
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive, archive.open(f"{DESCRIPTION}.npy") as member:
                return dict(json.loads(str(np.lib.format.read_array(member, allow_pickle=False))))
        return description_of(pq.read_schema(path))
    except Exception as error:  # of damaged files zipfile, NumPy and pyarrow raise anything
        raise FacegmError(f"{path}: exists, and is no file that `facegm embed` made; give another --output") from error


def write_faces(path: Path, columns: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write a file of embedded faces, which appears whole; its bytes follow from the rows, however they are divided.

    Args:
        path: a name that ends in one of `SUFFIXES`.
        columns: as `schema` gives them.
        tables: the rows, in order.
    """
    with atomic_file(path, sync=True) as file:
        if path.suffix.lower() == ".npz":
            _write_npz(file, columns, pa.concat_tables([columns.empty_table(), *tables]))
            return
        with pq.ParquetWriter(file, columns, compression="zstd", use_dictionary=["identity", "reason"]) as writer:
            for table in _rechunked(tables):
                writer.write_table(table)


def _rechunked(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, always as many together, but for the last ones."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= ROWS:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, ROWS).combine_chunks()
            waiting = [joined.slice(ROWS)]
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()


def _write_npz(file: IO[bytes], columns: pa.Schema, table: pa.Table) -> None:
    is_found = table["embedding"].is_valid()
    found, missing = table.filter(is_found), table.filter(pc.invert(is_found))
    dim = columns.field("embedding").type.list_size
    arrays = {
        "paths": np.array(found["path"].to_pylist(), np.str_),
        "face": found["face"].to_numpy(),
        "embeddings": found["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, dim),
        "missing_paths": np.array(missing["path"].to_pylist(), np.str_),
        "missing_reasons": np.array(missing["reason"].to_pylist(), np.str_),
        DESCRIPTION: np.array(columns.metadata[DESCRIPTION.encode()].decode()),
    }
    np.savez(file, **arrays)


class FaceCounts(NamedTuple):
    """What a file holds."""

    faces: int
    """Rows with an embedding."""
    reasons: Mapping[str, int]
    """Photos without a found face, by the code of why; of a `.npz` those without an embedding."""


def count_faces(path: Path) -> FaceCounts:
    """Count what is in a file of embedded faces."""
    if path.suffix.lower() == ".npz":
        with np.load(path) as arrays:
            return FaceCounts(len(arrays["face"]), Counter(arrays["missing_reasons"].tolist()))
    table = pq.read_table(path, columns=["face", "reason"])
    return FaceCounts(len(table) - table["face"].null_count, Counter(table["reason"].drop_null().to_pylist()))
