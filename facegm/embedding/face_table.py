"""A table of embedded faces: a row for each face of each photo, and one that says why for each photo without.

    path         the photo's name in its source: a relative POSIX path
    identity     whom the source says that the photo shows; of its subject alone, not of others beside
    face         number of the face in its photo, 0 the subject; null where there is none
    box, landmarks, probability, residual, profile, sharpness, contrast, norm, likelihood, is_abnormal
                 see `facegm.align.found_face.Face`; the landmarks one after the other, x and y
    reason       why there is no found face, a code of `facegm.embedding.reasons.Reason`; else null
    message      the same in words
    embedding    of unit L2 norm; null where there is none

The centre crop of a store has a reason and an embedding. The table carries a JSON description, of which `contract` says
whose embeddings these are.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from facegm.align.found_face import Face
from facegm.data.names import escaped
from facegm.data.readers.photo import Photo
from facegm.embedding.reasons import Reason
from facegm.store.format import FACE_COLUMNS

DESCRIPTION = "facegm"
"""Under this name a table carries its description."""

Row = Mapping[str, Any]
"""What stands in a row, by column; what lacks is null."""


def schema(dim: int, description: Mapping[str, Any]) -> pa.Schema:
    """The columns of a table of embeddings of so many dimensions."""
    columns = {
        "path": pa.string(),
        "identity": pa.string(),
        "face": pa.int32(),
        **FACE_COLUMNS,
        "norm": pa.float64(),
        "likelihood": pa.float64(),
        "is_abnormal": pa.bool_(),
        "reason": pa.string(),
        "message": pa.string(),
        "embedding": pa.list_(pa.float32(), dim),
    }
    return pa.schema(columns, {DESCRIPTION: json.dumps(description, sort_keys=True)})


def description_of(columns: pa.Schema) -> dict[str, Any]:
    """The description that a table carries, as JSON has it."""
    return dict(json.loads(columns.metadata[DESCRIPTION.encode()]))


def face_row(photo: Photo, number: int, face: Face) -> Row:
    """The row of a face.

    Args:
        photo: where it was found.
        number: of the face in it.
        face: embedded.
    """
    numbers: dict[str, Any] = face.to_json()
    quality: dict[str, Any] = numbers.pop("quality")
    landmarks = [coordinate for point in numbers.pop("landmarks") for coordinate in point]
    identity = photo.identity if number == 0 else None
    names = _names(photo.key, identity)
    return {**names, **numbers, **quality, "face": number, "landmarks": landmarks, "embedding": face.embedding}


def missing_row(photo: Photo, reason: Reason, message: str) -> Row:
    """The row of a photo without a face.

    Args:
        photo: the photo.
        reason: why.
        message: the same in words.
    """
    return _names(photo.key, photo.identity) | {"reason": reason.value, "message": escaped(message)}


def stored_row(record: Mapping[str, Any], numbers: Row | None) -> Row:
    """The row of a photo of a store.

    Args:
        record: what the store's manifest says of it; see `facegm.store.format.FaceRecord`.
        numbers: of its face, by column; None where it has none.
    """
    row = {"path": record["key"], "identity": record["identity"], "message": record["reason"]}
    if record["status"] != "aligned":
        row["reason"] = (Reason.UNREADABLE if record["faces"] is None else Reason.NO_FACE).value
    if numbers is None:
        return row
    columns = ("box", "landmarks", "probability", "residual", "profile", "sharpness", "contrast")
    return row | {name: record[name] for name in columns} | {"face": 0, **numbers}


def _names(key: str, identity: str | None) -> dict[str, Any]:
    return {"path": escaped(key), "identity": identity and escaped(identity)}


def to_table(rows: Sequence[Row], columns: pa.Schema) -> pa.Table:
    """Rows as a table."""
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in columns]
    return pa.Table.from_arrays(arrays, schema=columns)
