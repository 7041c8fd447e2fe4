"""A table of embedded faces: a row for each face of each photo, and one that says why for each photo without.

    path         the photo's name in its source: a relative POSIX path
    identity     whom the source says that the photo shows; of its subject alone, not of others beside
    face         number of the face in its photo, 0 the subject; null where there is none
    box, landmarks, probability, residual, profile, sharpness, contrast, norm, likelihood, is_abnormal
                 see `facegm.align.found_face.Face`; the landmarks one after the other, x and y
    reason       why there is no found face, a code of `facegm.embedding.reasons.Reason`; else null
    message      the same in words
    embedding    of unit L2 norm; null where there is none

A file of them carries a JSON description, of which `contract` says whose embeddings they are. Parquet holds it in its
metadata; a `.npz` as the text `facegm` beside `paths`, `face` and `embeddings` [faces, dim], and `missing_paths` and
`missing_reasons` of the photos without a face.
"""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegm.align.found_face import Face
from facegm.data.files import atomic_file
from facegm.data.names import escaped
from facegm.data.readers.photo import Photo
from facegm.embedding.reasons import Reason
from facegm.errors import FacegmError

DESCRIPTION = "facegm"
"""Under this name a file says what it holds."""
SUFFIXES = (".parquet", ".npz")
ROWS = 2**13
"""Of a Parquet file that are written, and read, together."""

Row = Mapping[str, Any]
"""What stands in a row, by column; what lacks is null."""


def schema(dim: int, description: Mapping[str, Any]) -> pa.Schema:
    """The columns of a table of embeddings of so many dimensions."""
    columns = {
        "path": pa.string(),
        "identity": pa.string(),
        "face": pa.int32(),
        "box": pa.list_(pa.float64(), 4),
        "landmarks": pa.list_(pa.float64(), 10),
        "probability": pa.float64(),
        "residual": pa.float64(),
        "profile": pa.float64(),
        "sharpness": pa.float64(),
        "contrast": pa.float64(),
        "norm": pa.float64(),
        "likelihood": pa.float64(),
        "is_abnormal": pa.bool_(),
        "reason": pa.string(),
        "message": pa.string(),
        "embedding": pa.list_(pa.float32(), dim),
    }
    return pa.schema(columns, {DESCRIPTION: json.dumps(description, sort_keys=True)})


def face_row(photo: Photo, number: int, face: Face) -> Row:
    """The row of a face.

    Args:
        photo: where it was found.
        number: of the face in it.
        face: embedded.
    """
    numbers = face.to_json()
    quality = numbers.pop("quality")
    landmarks = [coordinate for point in numbers.pop("landmarks") for coordinate in point]
    identity = photo.identity if number == 0 else None
    names = _names(photo.key, identity)
    return names | numbers | quality | {"face": number, "landmarks": landmarks, "embedding": face.embedding}


def missing_row(photo: Photo, reason: Reason, message: str) -> Row:
    """The row of a photo without a face.

    Args:
        photo: the photo.
        reason: why.
        message: the same in words.
    """
    return _names(photo.key, photo.identity) | {"reason": reason.value, "message": escaped(message)}


def _names(key: str, identity: str | None) -> dict[str, Any]:
    return {"path": escaped(key), "identity": identity and escaped(identity)}


def to_table(rows: Sequence[Row], columns: pa.Schema) -> pa.Table:
    """Rows as a table."""
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in columns]
    return pa.Table.from_arrays(arrays, schema=columns)


def read_description(path: Path) -> dict[str, Any]:
    """What a file of embedded faces says of itself.

    Raises:
        FacegmError: it cannot be read, or is no such file.
    """
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive, archive.open(f"{DESCRIPTION}.npy") as member:
                text = str(np.lib.format.read_array(member, allow_pickle=False))
        else:
            text = pq.read_schema(path).metadata[DESCRIPTION.encode()].decode()
        return dict(json.loads(text))
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
    found, missing = table.filter(is_found), table.filter(pa.compute.invert(is_found))
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
