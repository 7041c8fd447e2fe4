"""The alignment of a whole data set: every photo to a face in the store or a reason in the manifest."""

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
from tqdm import tqdm

from facegm.align.detector import FaceDetector
from facegm.align.face import align_face
from facegm.align.growing_store import GrowingStore
from facegm.data.find_photos import Photo, find_photos, in_order
from facegm.data.photos import UnreadablePhotoError, read_photo
from facegm.data.store import FaceRecord, encode_face
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


def align_photos(
    source: Path, output: Path, config: AlignConfig, *, photos: Iterable[Photo] | None = None
) -> Counter[str]:
    """Align all photos of a folder tree or list into a store; photos that the store knows already are passed over.

    Args:
        source: folder tree `identity/photo.jpg`, or a list file.
        output: the store's folder, made when missing; an interrupted alignment goes on there.
        config: the options.
        photos: the photos of the source to align; None for all that are found in it.

    Returns:
        How many photos of the store have each status, and under `failed: <reason>` how many failed for each reason.

    Raises:
        FacegmError: no photos, or `output` is something else, or a store of other photos or options.
    """
    found = find_photos(source) if photos is None else in_order(photos)
    store = GrowingStore(output, source, found, on_missing=config.on_missing)
    done = len(found) - len(store.waiting)
    with store, tqdm(desc="align", total=len(found), initial=done, unit="photo", disable=None) as progress:
        for record, face in _results(store.waiting, config):
            store.add(record, face)
            progress.update()
    return store.counts()


Result = tuple[FaceRecord, bytes | None]
_detector: FaceDetector | None = None


def _start_worker() -> None:
    """Give this process its own detector and one thread."""
    global _detector
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    _detector = FaceDetector()


def _end_with_parent() -> None:
    """A worker waits for work for ever, even when its parent was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
