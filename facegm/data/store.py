"""The store of aligned faces: a folder with `store.json`, `manifest.jsonl` and the pictures in `faces/`.

The pictures are PNG or JPEG, one file each (`faces/<key>.png`) or in tar files, see `facegm.data.face_files`. PNG keeps
the pixels exactly, so that the embedding of a photo is the same whether it went through a store or not; JPEG does not.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from jaxtyping import UInt8

from facegm.data.face_files import DEFAULT_FORMAT, SUFFIXES, Encoding, StoreFormat, open_faces
from facegm.data.json_lines import read_json_lines
from facegm.errors import FacegmError

FORMAT = 1
SETTINGS_FILE, MANIFEST_FILE = "store.json", "manifest.jsonl"
SHARDS_FOLDER = "shards"
"""Holds the manifests of jobs that make a store together; the store's own is made of them at the end."""

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
class FaceRecord:
    """One line of the manifest: what became of one input photo."""

    key: str
    """Name of the photo within its data set: a relative POSIX path."""
    identity: str
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
    """Number of faces found in the photo."""
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
    """SHA-256 of the photo's encoded bytes, in hexadecimal."""
    perceptual_hash: str | None = None
    """Hexadecimal; those of near-duplicates differ in few bits."""
    photo_bytes: int | None = None
    """Size of the file that holds the photo, before it was read."""
    photo_modified_ns: int | None = None
    """When that file was last modified, in nanoseconds since 1970."""

    @property
    def is_final(self) -> bool:
        """Whether another look at the photo would change nothing; one that could not be read may be mended."""
        return self.status != "failed" or self.faces is not None

    @property
    def has_face_image(self) -> bool:
        """Whether the store holds a picture for this photo."""
        return self.status != "failed"


def count_statuses(records: Iterable[FaceRecord]) -> Counter[str]:
    """Count the photos of each status, and under `failed: <reason>` those that failed for each reason."""
    counts: Counter[str] = Counter()
    for record in records:
        counts[record.status] += 1
        if record.status == "failed":
            counts[f"failed: {record.reason}"] += 1
    return counts


class AlignedFaces(Protocol):
    """A store, or what can be read like one."""

    @property
    def folder(self) -> Path:
        """Where they lie, for messages."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How they were found, aligned and encoded; see `read_settings`."""

    @property
    def records(self) -> Mapping[str, FaceRecord]:
        """What is known of each face, by key, in order."""

    def read_face(self, key: str) -> UInt8[np.ndarray, "size size 3"]:
        """Read one face: RGB, 0 to 255."""


class FaceStore:
    """A finished or growing store of aligned faces, opened for reading.

    Raises:
        FacegmError: the folder is not a store, is of another version, or its manifest or an index is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_settings(folder)
        self._format = StoreFormat.of(self.settings)
        self._faces = open_faces(folder, self._format)

    @property
    def size(self) -> int:
        """Side of the square face images in pixels."""
        return int(self.settings["size"])

    @cached_property
    def records(self) -> dict[str, FaceRecord]:
        """All lines of the manifest by key, in order.

        Raises:
            FacegmError: a line is damaged, or jobs that make the store together are not all at their end.
        """
        if (self.folder / SHARDS_FOLDER).is_dir() and not (self.folder / MANIFEST_FILE).is_file():
            raise FacegmError(
                f"{self.folder}: not all jobs that make this store are at their end; run `facegm align` again for each "
                "--shard that was interrupted or not begun"
            )
        return {record.key: record for record in read_manifest(self.folder / MANIFEST_FILE)}

    def read_face(self, key: str) -> UInt8[np.ndarray, "size size 3"]:
        """Read one aligned face: RGB, 0 to 255.

        Raises:
            FacegmError: the picture is missing or damaged.
        """
        try:
            face = decode_face(self._faces.read(key), self._format.encoding)
        except (OSError, cv2.error):
            face = None
        if face is None or face.shape != (self.size, self.size, 3):
            place = self._faces.place(key)
            raise FacegmError(f"{place}: missing or damaged face of the store; delete the store and align again")
        return np.asarray(face, np.uint8)


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of aligned faces."""
    return (folder / SETTINGS_FILE).is_file()


def read_settings(folder: Path) -> dict[str, Any]:
    """Read `store.json`: how the faces of this store were made, and are kept, which older stores do not say."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise FacegmError(
            f"{folder}: not a store of aligned faces; make one by `facegm align PHOTOS --output {folder}`"
        )
    try:
        settings: dict[str, Any] = asdict(DEFAULT_FORMAT) | json.loads(path.read_text(encoding="utf-8"))
        version = settings["format"]
        StoreFormat.of(settings)
    except (ValueError, KeyError, TypeError) as error:
        raise FacegmError(f"{path}: damaged ({error}); delete the store and align again") from error
    if version != FORMAT:
        raise FacegmError(f"{path}: store format {version}, this facegm reads {FORMAT}; align again")
    return settings


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
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def encode_record(record: FaceRecord) -> str:
    """One line of the manifest, pure ASCII: a name that is no valid UTF-8 comes back as it was."""
    fields = {name: value for name, value in vars(record).items() if value is not None}
    return json.dumps(fields, separators=(",", ":")) + "\n"


def read_manifest(path: Path) -> Iterator[FaceRecord]:
    """Read the complete lines of a manifest; a torn last line, left by an interruption, is passed over."""
    return read_json_lines(path, FaceRecord)
