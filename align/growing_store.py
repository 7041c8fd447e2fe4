"""A store of aligned faces while it is made: what it holds already, what is still to do, and in what order it ends."""

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from facegm.align.detector import MINIMUM_FACE, PYRAMID_FACTOR, STAGE_THRESHOLDS
from facegm.align.warp import FACE_SIZE, FALLBACK_FRACTION, TEMPLATE
from facegm.data.face_files import DEFAULT_FORMAT, StoreFormat, append_faces
from facegm.data.files import replace_atomically
from facegm.data.find_photos import Photo
from facegm.data.store import (
    FORMAT,
    MANIFEST_FILE,
    SETTINGS_FILE,
    FaceRecord,
    encode_record,
    is_store,
    read_manifest,
    read_settings,
)
from facegm.errors import FacegmError


class GrowingStore:
    """A new or unfinished store, for the photos of one source.

    A face is written before its line of the manifest, and lines are in the order of the photos, so that a store that
    was interrupted and gone on with ends like one that was not. Photos that could not be read are tried again.

    Args:
        folder: the store's folder, made when missing.
        source: the folder or list that the photos come from.
        photos: all photos that the store shall hold, in order.
        on_missing: what is done with a photo without a face.
        store_format: how the pictures are kept; the faces given to `add` are encoded so.

    Raises:
        FacegmError: the folder is something else, or a store of another source or other options; or another process
            is writing its tar file.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        photos: Sequence[Photo],
        *,
        on_missing: str,
        store_format: StoreFormat = DEFAULT_FORMAT,
    ) -> None:
        if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
            raise FacegmError(f"{folder}: lies inside the photos' own folder {source}; give an --output outside of it")
        self._manifest = folder / MANIFEST_FILE
        _open_folder(folder, _settings(source, on_missing, store_format))
        # What follows the last complete line, left by an interruption, goes as well.
        self._records = {record.key: record for record in read_manifest(self._manifest) if record.is_final}
        pictured = [key for key, record in self._records.items() if record.has_face_image]
        self._faces = append_faces(folder, store_format, recorded=pictured)
        for key in self._faces.lost:
            del self._records[key]
        self._write_manifest()
        self.waiting = [photo for photo in photos if photo.key not in self._records]

    def __enter__(self) -> "GrowingStore":
        self._lines = self._manifest.open("a", encoding="ascii")
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.close()
        self._faces.close()
        if error == (None, None, None):
            self._records = dict(sorted(self._records.items(), key=lambda item: os.fsencode(item[0])))
            self._write_manifest()

    def add(self, record: FaceRecord, face: bytes | None) -> None:
        """Keep the next photo's face, if it has one, and its record."""
        if face is not None:
            record = self._keep_face(record, face)
        self._lines.write(encode_record(record))
        self._lines.flush()
        self._records[record.key] = record

    def counts(self) -> Counter[str]:
        """How many photos have each status, and under `failed: <reason>` how many failed for each reason."""
        return Counter(self._kinds())

    def _kinds(self) -> Iterator[str]:
        for record in self._records.values():
            yield record.status
            if record.status == "failed":
                yield f"failed: {record.reason}"

    def _keep_face(self, record: FaceRecord, face: bytes) -> FaceRecord:
        try:
            self._faces.append(record.key, face)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            # The store's names are a little longer than the photos'.
            reason = "file name too long for the store"
            return FaceRecord(key=record.key, identity=record.identity, status="failed", reason=reason)
        return record

    def _write_manifest(self) -> None:
        content = "".join(encode_record(record) for record in self._records.values()).encode("ascii")
        if not self._manifest.is_file() or self._manifest.read_bytes() != content:
            replace_atomically(self._manifest, content)


def _settings(source: Path, on_missing: str, store_format: StoreFormat) -> dict[str, object]:
    return {
        "format": FORMAT,
        "source": str(source.resolve()),
        "size": FACE_SIZE,
        "color": "RGB",
        "template": TEMPLATE.tolist(),
        "detector": "facenet-pytorch MTCNN",
        "minimum_face": MINIMUM_FACE,
        "stage_thresholds": list(STAGE_THRESHOLDS),
        "pyramid_factor": PYRAMID_FACTOR,
        "choice": "largest central",
        "on_missing": on_missing,
        "fallback_fraction": FALLBACK_FRACTION,
        **asdict(store_format),
    }


def _open_folder(folder: Path, settings: dict[str, object]) -> None:
    if is_store(folder):
        stored = read_settings(folder)
        changed = [name for name, value in settings.items() if stored.get(name) != value]
        if changed:
            raise FacegmError(
                f"{folder}: this store was made otherwise "
                f"({', '.join(f'{name}: {stored.get(name)}, now {settings[name]}' for name in changed)}); "
                "do as then, or give another --output"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FacegmError(f"{folder}: exists and is not a store of aligned faces; give an empty or new folder")
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / SETTINGS_FILE, (json.dumps(settings, indent=2) + "\n").encode())
