"""What lies in a store of aligned faces, and the columns of its manifest.

    store.json         how its faces are found, aligned and kept
    manifest.parquet   a row for each photo, in the order of their keys: pandas, polars and DuckDB read it in a line
    faces/             the pictures, see `facegm.store.faces`
    journal*.jsonl     while the store is made, and until it is at its end: what has been done since the manifest

PNG keeps the pixels exactly, so that the embedding of a photo is the same whether it went through a store or not; JPEG
does not.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64, UInt8

from facegm.data.files import atomic_file, create_atomically
from facegm.data.names import escaped
from facegm.errors import FacegmError

FORMAT = 2
FORMAT_BEFORE = 1
"""That of `manifest.jsonl`, see `facegm.store.convert`."""
SETTINGS_FILE, MANIFEST_FILE = "store.json", "manifest.parquet"
FACES_FOLDER = "faces"

FACE_COLUMNS: Mapping[str, pa.DataType] = {
    "box": pa.list_(pa.float64(), 4),
    "landmarks": pa.list_(pa.float64(), 10),
    "probability": pa.float64(),
    "residual": pa.float64(),
    "profile": pa.float64(),
    "sharpness": pa.float64(),
    "contrast": pa.float64(),
}
"""Where a face was found and how good it is, in the tables of stores and of embeddings."""
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "identity": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "faces": pa.int32(),
        **FACE_COLUMNS,
        "digest": pa.binary(32),
        "perceptual_hash": pa.binary(32),
        "photo_bytes": pa.int64(),
        "photo_modified_ns": pa.int64(),
        "part": pa.string(),
        "offset": pa.int64(),
        "length": pa.int32(),
        "checksum": pa.uint32(),
    }
)
"""The columns of a manifest: those of `FaceRecord`, and where the face's picture lies.

`part`, `offset`: the tar file in `faces/` and the picture's first byte there; null and 0 for a file of its own.
`length`, `checksum`: number of its bytes, and their CRC-32. Names that are no valid UTF-8 are `escaped`.
"""
DICTIONARY_COLUMNS = ("identity", "status", "reason", "part")
"""Columns of few different values."""

Encoding = Literal["png", "jpeg"]
SUFFIXES: dict[Encoding, str] = {"png": ".png", "jpeg": ".jpg"}
CONTAINERS = ("folder", "tar")
_ENCODER_PARAMETERS = {
    "png": (
        *(cv2.IMWRITE_PNG_COMPRESSION, 1),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),  # smaller than level 3, and twice as fast
    ),
    "jpeg": (
        *(cv2.IMWRITE_JPEG_QUALITY, 95),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ),
}
_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True, kw_only=True)
class StoreFormat:
    """How a store keeps its pictures."""

    encoding: Encoding = "png"
    """png keeps the pixels exactly; jpeg (quality 95, colour at full resolution) is lossy and smaller."""
    container: Literal["folder", "tar"] = "folder"
    """folder: one file a face; tar: all faces in an uncompressed tar file, which is easier on the file system and to
    copy."""

    def __post_init__(self) -> None:
        if self.encoding not in SUFFIXES:
            raise ValueError(f"encoding: {self.encoding!r}, must be one of {', '.join(SUFFIXES)}")
        if self.container not in CONTAINERS:
            raise ValueError(f"container: {self.container!r}, must be one of {', '.join(CONTAINERS)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "StoreFormat":
        """The format that the settings of a store name.

        Raises:
            ValueError: an unknown encoding or container.
        """
        return cls(encoding=settings["encoding"], container=settings["container"])


@dataclass(frozen=True, kw_only=True)
class FaceRecord:
    """What became of one input photo."""

    key: str
    """Name of the photo within its data set: a relative POSIX path."""
    identity: str | None
    """Whose face it shows; None where that is not known."""
    status: str
    """`aligned`, `center-crop` (no face found, the middle was taken) or `failed`."""
    reason: str | None = None
    """Why no face was aligned."""
    box: Sequence[float] | None = None
    """Chosen face: left, top, right, bottom, in pixels of the upright photo."""
    landmarks: Sequence[Sequence[float]] | None = None
    """Left eye, right eye, nose, left and right mouth corner as (x, y), in pixels of the upright photo."""
    probability: float | None = None
    """The detector's probability that the chosen box is a face."""
    faces: int | None = None
    """Number of faces found in the photo; None where it was not looked at, being unreadable or aligned already."""
    residual: float | None = None
    """Root mean square distance between the five warped landmarks and the template, in pixels of the 128x128 face: a
    measure of pose."""
    profile: float | None = None
    """How far the head is turned to the side: 0 frontal, near 1 profile."""
    sharpness: float | None = None
    """Variance of the Laplacian of the aligned face's luminance; low is blurred."""
    contrast: float | None = None
    """Standard deviation of the aligned face's luminance, 0 to 127.5."""
    digest: str | None = None
    """SHA-256 of the photo's encoded bytes, in hexadecimal; 32 bytes in the manifest."""
    perceptual_hash: str | None = None
    """Hexadecimal, 32 bytes in the manifest; those of near-duplicates differ in few bits."""
    photo_bytes: int | None = None
    photo_modified_ns: int | None = None
    """Size, and time of the last change, of the file that holds the photo: while both stay it is not read again."""


def count_statuses(table: pa.Table) -> Counter[str]:
    """Count the photos of each status, and under `failed: <reason>` those that failed for each reason."""
    statuses = Counter({row["values"]: row["counts"] for row in table["status"].value_counts().to_pylist()})
    failed = table["reason"].filter(pa.array(~has_face(table["status"])))
    reasons = {f"failed: {row['values']}": row["counts"] for row in failed.value_counts().to_pylist()}
    return statuses + Counter(reasons)


def has_face(status: pa.Array | pa.ChunkedArray) -> Bool[np.ndarray, " photos"]:
    """Which photos the store holds a picture of, by their status."""
    return np.asarray(pc.not_equal(status, "failed").to_numpy(zero_copy_only=False), np.bool_)


def to_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = tuple(SCHEMA.names)) -> pa.Table:
    """Rows of a manifest from the fields of `FaceRecord` and of the picture's place; fields that lack are null.

    Args:
        rows: the fields of each photo.
        columns: those that are wanted.

    Raises:
        ValueError: a field is not what the schema says.
    """

    def column(name: str) -> list[Any]:
        values = [row.get(name) for row in rows]
        if pa.types.is_string(SCHEMA.field(name).type):
            return [value and escaped(value) for value in values]
        if name in ("digest", "perceptual_hash"):
            return [value and bytes.fromhex(value) for value in values]
        if name == "landmarks":
            return [value and [number for point in value for number in point] for value in values]
        return values

    try:
        return pa.table({name: pa.array(column(name), SCHEMA.field(name).type) for name in columns})
    except (pa.ArrowException, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def numbers_of(table: pa.Table, name: str) -> Int64[np.ndarray, " rows"]:
    """A column of whole numbers as an array, 0 in place of null."""
    return np.asarray(pc.fill_null(table[name], 0).to_numpy(), np.int64)


@contextmanager
def manifest_writer(folder: Path) -> Iterator[pq.ParquetWriter]:
    """What takes the rows of a store's new manifest, which appears whole and only at the end."""
    with (
        atomic_file(folder / MANIFEST_FILE, sync=True) as file,
        pq.ParquetWriter(
            file, SCHEMA, compression="zstd", use_dictionary=[*DICTIONARY_COLUMNS], write_page_checksum=True
        ) as manifest,
    ):
        yield manifest


def encode_face(face: UInt8[np.ndarray, "size size 3"], encoding: Encoding = "png") -> bytes:
    """Encode an aligned RGB face as the store keeps it."""
    done, data = cv2.imencode(SUFFIXES[encoding], face[:, :, ::-1], _ENCODER_PARAMETERS[encoding])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a face as {encoding}")
    return data.tobytes()


def decode_face(data: bytes, encoding: Encoding) -> UInt8[np.ndarray, "height width 3"] | None:
    """Decode a face as the store keeps it, to RGB; None where it is damaged."""
    # Unlike PNG, JPEG has no checksums: a lost end would be decoded to something.
    if encoding == "jpeg" and not data.endswith(_JPEG_END):
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of aligned faces."""
    return (folder / SETTINGS_FILE).is_file()


def read_settings(folder: Path) -> dict[str, Any]:
    """Read `store.json`: how the faces of this store were made, and are kept, which the oldest stores do not say.

    Raises:
        FacegmError: the folder is not a store, or one of a format that is not known.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise FacegmError(
            f"{folder}: not a store of aligned faces; make one by `facegm align PHOTOS --output {folder}`"
        )
    try:
        settings: dict[str, Any] = asdict(StoreFormat()) | json.loads(path.read_text(encoding="utf-8"))
        version = settings["format"]
        StoreFormat.of(settings)
    except (ValueError, KeyError, TypeError) as error:
        raise FacegmError(
            f"{path}: damaged ({error}); it says how the faces were made, and is made anew with them by `facegm align` "
            "into another folder"
        ) from error
    if version not in (FORMAT, FORMAT_BEFORE):
        raise FacegmError(f"{path}: store format {version}, this facegm reads {FORMAT_BEFORE} and {FORMAT}")
    return settings


def begin_store(folder: Path, settings: Mapping[str, Any]) -> None:
    """Begin a store, or check that the one that is there was begun with the same settings.

    Args:
        folder: the store's folder, made when missing.
        settings: how its faces are made and kept.

    Raises:
        FacegmError: the folder is something else, or a store that was made otherwise or by a version before.
    """
    settings = {"format": FORMAT, **settings}
    if not is_store(folder):
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name] * folder.exists()
        if not all(name.startswith(f".{SETTINGS_FILE}.") for name in names):
            raise FacegmError(f"{folder}: exists and is not a store of aligned faces; give an empty or new folder")
        folder.mkdir(parents=True, exist_ok=True)
        create_atomically(folder / SETTINGS_FILE, (json.dumps(settings, indent=2) + "\n").encode())
    stored = read_settings(folder)  # that of another job, perhaps, that has begun it in the same moment
    if stored["format"] == FORMAT_BEFORE:
        raise FacegmError(f"{folder}: made by a version before; bring it up to date by `facegm convert {folder}`")
    changed = [name for name in {**stored, **settings} if stored.get(name) != settings.get(name)]
    if changed:
        raise FacegmError(
            f"{folder}: this store was made otherwise "
            f"({', '.join(f'{name}: {stored.get(name)}, now {settings.get(name)}' for name in changed)}); "
            "do as then, or give another --output"
        )
