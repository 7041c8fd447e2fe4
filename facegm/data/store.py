"""The store of aligned faces: a folder with `store.json`, `manifest.jsonl` and `faces/<key>.png`.

PNG keeps the pixels exactly, so that the embedding of a photo is the same whether it went through a store or not.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from facegm.data.files import replace_atomically
from facegm.errors import FacegmError

FORMAT = 1
SETTINGS_FILE, MANIFEST_FILE, FACES_FOLDER = "store.json", "manifest.jsonl", "faces"


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
    """Root mean square distance between warped landmarks and template, in pixels of the face: a measure of pose."""
    profile: float | None = None
    """How far the head is turned to the side: 0 frontal, near 1 profile."""
    sharpness: float | None = None
    """Variance of the Laplacian of the face's luminance; low is blurred."""
    contrast: float | None = None
    """Standard deviation of the face's luminance, of 0 to 255."""
    digest: str | None = None
    """SHA-256 of the photo's encoded bytes, in hex."""
    perceptual_hash: str | None = None
    """256 bits in hex that hardly change when the face is encoded anew."""

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


class FaceStore:
    """A finished or growing store of aligned faces, opened for reading.

    Raises:
        FacegmError: the folder is not a store, is of another version, or its manifest is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_settings(folder)

    @property
    def size(self) -> int:
        """Side of the square face images in pixels."""
        return int(self.settings["size"])

    @cached_property
    def records(self) -> dict[str, FaceRecord]:
        """All lines of the manifest by key, in order."""
        return {record.key: record for record in read_manifest(self.folder / MANIFEST_FILE)}

    def read_face(self, key: str) -> UInt8[np.ndarray, "size size 3"]:
        """Read one aligned face: RGB, 0 to 255.

        Raises:
            FacegmError: the picture is missing or damaged.
        """
        path = face_path(self.folder, key)
        try:
            face = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
        except (OSError, cv2.error):
            face = None
        if face is None or face.shape != (self.size, self.size, 3):
            raise FacegmError(f"{path}: missing or damaged face of the store; delete the store and align again")
        return np.asarray(face, np.uint8)


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of aligned faces."""
    return (folder / SETTINGS_FILE).is_file()


def read_settings(folder: Path) -> dict[str, Any]:
    """Read `store.json`: how the faces of this store were made."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise FacegmError(
            f"{folder}: not a store of aligned faces; make one by `facegm align PHOTOS --output {folder}`"
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        version = settings["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise FacegmError(f"{path}: damaged ({error}); delete the store and align again") from error
    if version != FORMAT:
        raise FacegmError(f"{path}: store format {version}, this facegm reads {FORMAT}; align again")
    return dict(settings)


def face_path(folder: Path, key: str) -> Path:
    """Where the picture of a photo lies; the photo's own suffix is kept, so that names never collide."""
    return folder / FACES_FOLDER / (key + ".png")


def encode_face(face: UInt8[np.ndarray, "size size 3"]) -> bytes:
    """Encode an aligned RGB face as the store keeps it."""
    done, data = cv2.imencode(".png", face[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise RuntimeError("OpenCV could not encode a PNG")
    return data.tobytes()


def write_face(folder: Path, key: str, data: bytes) -> None:
    """Write one encoded face; no half-written picture is ever visible."""
    path = face_path(folder, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, data)


def encode_record(record: FaceRecord) -> str:
    """One line of the manifest, pure ASCII: a name that is no valid UTF-8 comes back as it was."""
    fields = {name: value for name, value in asdict(record).items() if value is not None}
    return json.dumps(fields, separators=(",", ":")) + "\n"


def read_manifest(path: Path) -> Iterator[FaceRecord]:
    """Read the complete lines of a manifest; a torn last line, left by an interruption, is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield FaceRecord(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise FacegmError(f"{path}, line {number}: damaged manifest ({error}); align again") from error
