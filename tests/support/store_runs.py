"""Stores of small files that stand for photos, with random pixels for faces: made and kept up by no detector."""

import hashlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from facegm.data.readers.photo import Photo
from facegm.data.readers.source import in_order
from facegm.store.format import Encoding, FaceRecord, encode_face
from facegm.store.journal import Shard
from facegm.store.reader import FaceStore
from facegm.store.writer import StoreWriter

SIZE, BATCH = 8, 4
NO_FACE, UNREADABLE = b"no face", b"unreadable"
"""Contents of photos in which no face is found, and of those that cannot be read."""
ODD_NAMES = [os.fsdecode(b"odd\xff/\xe9.jpg"), "odd/new\nline.jpg", "odd/" + "n" * 120 + "ö.jpg", "odd/a\\x5c.jpg"]


def make_photos(folder: Path, names: Iterable[str]) -> Path:
    """Photos whose contents are their names; of every seventh, there is no face in it."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(NO_FACE if number % 7 == 5 else os.fsencode(name))
    return folder


def plain_names(count: int) -> list[str]:
    return [f"p{number // 4}/{number:03}.jpg" for number in range(count)]


def photos_in(folder: Path) -> list[Photo]:
    """Those of a folder, whose own folders are their identities."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return in_order(
        Photo(path=str(path), key=path.relative_to(folder).as_posix(), identity=path.parent.name) for path in files
    )


def face_of(content: bytes) -> UInt8[np.ndarray, "size size 3"]:
    return np.random.default_rng(list(content)).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def look_at(photo: Photo, encoding: Encoding) -> tuple[FaceRecord, bytes | None]:
    """What stands in for an alignment."""
    known: dict[str, Any] = {"key": photo.key, "identity": photo.identity}
    if not os.path.exists(photo.path):
        return FaceRecord(**known, status="failed", reason="missing"), None
    content, status = Path(photo.path).read_bytes(), os.stat(photo.path)
    known |= {"photo_bytes": status.st_size, "photo_modified_ns": status.st_mtime_ns}
    if content == UNREADABLE:
        return FaceRecord(**known, status="failed", reason="cannot be read"), None
    known["digest"] = hashlib.sha256(content).hexdigest()
    if content == NO_FACE:
        return FaceRecord(**known, status="failed", reason="no face found", faces=0), None
    face = encode_face(face_of(content), encoding)
    box, landmarks = [1.0, 2.5, 3.0, 4.0], [[1.0, 2.0]] * 5
    return FaceRecord(**known, status="aligned", faces=1, box=box, landmarks=landmarks, perceptual_hash="ab" * 32), face


class Run(NamedTuple):
    """What a run did."""

    looked_at: list[str]
    """Keys of the photos that were aligned."""
    changes: Counter[str]
    statuses: Counter[str]


class StoppedError(Exception):
    """An interruption between two batches, such as Ctrl-C."""


def bring_up_to_date(
    store: Path,
    photos: Path | Sequence[Photo],
    container: str = "folder",
    *,
    encoding: Encoding = "png",
    stop_after: int | None = None,
    settings: Mapping[str, Any] = {},
    **options: Any,
) -> Run:
    """Make a store of the photos in a folder, or go on with it.

    Args:
        store: its folder.
        photos: the photos' folder, or the photos.
        container: of the faces.
        encoding: of the faces.
        stop_after: so many batches it is stopped.
        settings: more of `store.json`.
        options: of `StoreWriter`; `shard` as text.
    """
    if options.get("shard"):
        options["shard"] = Shard.parse(options["shard"])
    found = photos_in(photos) if isinstance(photos, Path) else photos
    made = {"source": "photos", "size": SIZE, "encoding": encoding, "container": container, **settings}
    looked_at: list[str] = []
    with StoreWriter(store, found, made, batch=BATCH, **options) as writer:
        for number, group in enumerate(writer.waiting):
            if number == stop_after:
                raise StoppedError
            writer.add([look_at(photo, encoding) for photo in group])
            looked_at += [photo.key for photo in group]
        summary = writer.summary()
    return Run(looked_at, +writer.changes, summary.statuses)


def row_of(folder: Path, key: str) -> dict[str, Any]:
    """What a store's manifest says of a photo."""
    store = FaceStore(folder)
    row: dict[str, Any] = store.table().slice([*store.keys].index(key), 1).to_pylist()[0]
    return row


def faces_of(folder: Path) -> dict[str, bytes | None]:
    """The pixels of each face of a store by its photo's key; None for a photo without a face."""
    store = FaceStore(folder)
    statuses = store.table(["status"])["status"].to_pylist()
    return {
        key: None if status == "failed" else store.read_face(row).tobytes()
        for row, (key, status) in enumerate(zip(store.keys, statuses, strict=True))
    }


def faces_expected(photos: Path) -> dict[str, bytes | None]:
    """What the store of the photos of a folder should hold, in order."""
    contents_of = {photo.key: Path(photo.path).read_bytes() for photo in photos_in(photos)}
    return {
        key: None if content in (NO_FACE, UNREADABLE) else face_of(content).tobytes()
        for key, content in contents_of.items()
    }


def killed_at_step(step: int, store: Path, run: Callable[[], object]) -> bool:
    """Run in a forked process that is killed by SIGKILL before it does its so many-th step that changes the store.

    Steps are files that are opened, renamed, linked or removed, and bytes that are written into a tar file, half of
    which are written.

    Returns:
        Whether there are so many steps.
    """
    child = os.fork()
    if child == 0:
        _die_at(step, str(store))
        try:
            run()
        finally:
            os._exit(3 if sys.exc_info()[0] else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"failed before it could be killed: {status}"
    return status != 0


def _die_at(step: int, store: str) -> None:
    steps, write = 0, os.pwrite

    def is_due() -> bool:
        nonlocal steps
        steps += 1
        return steps > step

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        changes = writes and event in ("open", "os.rename", "os.link", "os.remove", "os.rmdir")
        if changes and str(arguments[0]).startswith(store) and is_due():
            os.kill(os.getpid(), signal.SIGKILL)

    def write_half(file: int, data: bytes, offset: int) -> int:
        if is_due():
            write(file, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data, offset)

    os.pwrite = write_half  # type: ignore[assignment]
    sys.addaudithook(watch)
