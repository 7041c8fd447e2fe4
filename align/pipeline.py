"""The alignment of a whole data set: every photo to a face in the store or a reason in the manifest."""

import errno
import json
import os
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
from tqdm import tqdm

from facegm.align.detector import MINIMUM_FACE, PYRAMID_FACTOR, STAGE_THRESHOLDS, FaceDetector
from facegm.align.face import align_face
from facegm.align.warp import FACE_SIZE, FALLBACK_FRACTION, TEMPLATE
from facegm.data.files import replace_atomically
from facegm.data.photos import Photo, UnreadablePhotoError, find_photos, read_photo
from facegm.data.store import (
    FORMAT,
    MANIFEST_FILE,
    SETTINGS_FILE,
    FaceRecord,
    cut_torn_line,
    encode_face,
    encode_record,
    is_store,
    read_manifest,
    read_settings,
    write_face,
)
from facegm.errors import FacegmError

CHUNK = 8
"""Photos that a worker takes at a time."""


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Options of the alignment."""

    on_missing: Literal["skip", "center-crop"] = "skip"
    """Where no face is found: leave the photo out, or take its middle (for evaluation sets)."""
    workers: int = os.cpu_count() or 1
    """Worker processes, one thread each."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers: {self.workers}, must be at least 1")


def align_photos(source: Path | list[Photo], output: Path, config: AlignConfig) -> Counter[str]:
    """Align all photos of a folder tree or list into a store; photos that the store knows already are passed over.

    Args:
        source: folder tree `identity/photo.jpg`, a list file, or the photos themselves.
        output: the store's folder, made when missing; an interrupted alignment goes on there.
        config: the options.

    Returns:
        How many photos of the store have each status, and under `failed: <reason>` how many failed for each reason.

    Raises:
        FacegmError: no photos, or `output` is something else or was made with other options.
    """
    photos = find_photos(source) if isinstance(source, Path) else source
    _open_store(output, config.on_missing)
    manifest = output / MANIFEST_FILE
    cut_torn_line(manifest)
    known = {record.key: record for record in read_manifest(manifest)}
    waiting = [photo for photo in photos if photo.key not in known]
    counts = Counter(_kinds(known.values()))
    with manifest.open("a", encoding="ascii") as lines:
        progress = tqdm(desc="align", total=len(photos), initial=len(photos) - len(waiting), unit="photo", disable=None)
        with progress:
            for record, face in _results(waiting, config):
                if face is not None:
                    record = _keep_face(output, record, face)
                lines.write(encode_record(record))
                lines.flush()
                counts.update(_kinds([record]))
                progress.update()
    return counts


def _open_store(folder: Path, on_missing: str) -> None:
    settings = {
        "format": FORMAT,
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
    }
    if is_store(folder):
        stored = read_settings(folder)
        changed = [name for name, value in settings.items() if stored.get(name) != value]
        if changed:
            raise FacegmError(
                f"{folder}: this store was made with other settings "
                f"({', '.join(f'{name}: {stored.get(name)}, now {settings[name]}' for name in changed)}); "
                "use the same, or another --output"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FacegmError(f"{folder}: exists and is not a store of aligned faces; give an empty or new folder")
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / SETTINGS_FILE, (json.dumps(settings, indent=2) + "\n").encode())


def _keep_face(folder: Path, record: FaceRecord, face: bytes) -> FaceRecord:
    try:
        write_face(folder, record.key, face)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        # The store's names are a little longer than the photos'.
        return FaceRecord(
            key=record.key, identity=record.identity, status="failed", reason="file name too long for the store"
        )
    return record


def _kinds(records: Iterable[FaceRecord]) -> Iterator[str]:
    for record in records:
        yield record.status
        if record.status == "failed":
            yield f"failed: {record.reason}"


Result = tuple[FaceRecord, bytes | None]
_detector: FaceDetector | None = None


def _start_worker() -> None:
    """Give this process its own detector and one thread."""
    global _detector
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    _detector = FaceDetector()


def _align_chunk(photos: list[Photo], crop_when_missing: bool) -> list[Result]:
    assert _detector is not None
    return [_align_photo(_detector, photo, crop_when_missing) for photo in photos]


def _align_photo(detector: FaceDetector, photo: Photo, crop_when_missing: bool) -> Result:
    known: dict[str, Any] = {"key": photo.key, "identity": photo.identity}
    try:
        pixels = read_photo(photo.path)
        aligned = align_face(detector, pixels, crop_when_missing=crop_when_missing)
    except UnreadablePhotoError as error:
        return FaceRecord(**known, status="failed", reason=str(error)), None
    except Exception as error:  # one odd photo must not end an alignment of half a million; its reason is kept
        return FaceRecord(**known, status="failed", reason=f"{type(error).__name__}: {error}"), None
    if aligned.image is None:
        return FaceRecord(**known, status="failed", reason=aligned.reason, faces=aligned.faces), None
    if aligned.box is None or aligned.landmarks is None:
        record = FaceRecord(**known, status="center-crop", reason=aligned.reason, faces=aligned.faces)
    else:
        record = FaceRecord(
            **known,
            status="aligned",
            box=aligned.box.round(3).tolist(),
            landmarks=aligned.landmarks.round(3).tolist(),
            probability=aligned.probability,
            faces=aligned.faces,
        )
    return record, encode_face(aligned.image)


def _results(photos: list[Photo], config: AlignConfig) -> Iterator[Result]:
    """Results in the order of the photos, so that an interrupted and continued store equals an uninterrupted one."""
    crop = config.on_missing == "center-crop"
    chunks = [photos[start : start + CHUNK] for start in range(0, len(photos), CHUNK)]
    workers = min(config.workers, len(chunks))
    if not chunks:
        return
    # Spawned, because a process that has used torch's threads must not be forked.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:

        def submit(chunk: list[Photo]) -> Future[list[Result]]:
            return pool.submit(_align_chunk, chunk, crop)

        try:
            remaining = iter(chunks)
            running = deque(submit(chunk) for chunk in islice(remaining, 3 * workers))
            while running:
                yield from running.popleft().result()
                if (chunk := next(remaining, None)) is not None:
                    running.append(submit(chunk))
        except BrokenProcessPool as error:
            raise FacegmError(
                "an alignment worker was killed, perhaps for want of memory; run again to go on, with fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
