"""Galleries of drawn people: embeddings that lie around a centre for each."""

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from facegm.align.found_face import Face, FaceQuality
from facegm.embedding.calibration import Calibration
from facegm.embedding.comparison import FacePolicy
from facegm.embedding.contract import EmbeddingContract
from facegm.embedding.photo_faces import PhotoFaces
from facegm.embedding.reasons import Reason
from facegm.gallery.gallery import Gallery

DIM = 16
SAMPLES = 8
"""That a call of `enroll_and_acknowledge` enrols."""
CONTRACT = EmbeddingContract(weights="aa" * 32, preprocessing="bb" * 32, dim=DIM)


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray((vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32))


def drawn(seed: int, count: int = 1, *, around: np.ndarray | None = None, spread: float = 0.1) -> np.ndarray:
    """So many embeddings: anywhere, or around one."""
    random = np.random.default_rng(seed).standard_normal((count, DIM))
    return unit(random if around is None else around + spread * unit(random))


def at_distance(distance: float, start: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """The unit vector at an L2 distance from another, on the great circle through a third."""
    start, towards = start.astype(np.float64).ravel(), towards.astype(np.float64).ravel()
    across = towards - (towards @ start) * start
    angle = 2 * np.arcsin(distance / 2)
    return np.asarray((np.cos(angle) * start + np.sin(angle) * across / np.linalg.norm(across)).astype(np.float32))


def new_gallery(folder: Path) -> Gallery:
    return Gallery.create(folder / "people.gallery", CONTRACT)


def enroll_and_acknowledge(path: Path, run: str, calls: int) -> None:
    """Enrol some samples of a person a call, and write a line to `RUN.txt` beside the gallery after each."""
    with Gallery.create(path, CONTRACT) as gallery:
        lines = os.open(path.with_name(f"{run}.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for call in range(calls):
            sources = [f"{run}/{call}/{number}" for number in range(SAMPLES)]
            gallery.enroll(f"person {call % 5}", embeddings_of_call(run, call), sources=sources, strict=False)
            os.write(lines, f"{call}\n".encode())


def embeddings_of_call(run: str, call: int) -> np.ndarray:
    return drawn(zlib.crc32(f"{run}/{call}".encode()), SAMPLES)


def acknowledged(path: Path, run: str) -> int:
    """Calls that had returned."""
    file = path.with_name(f"{run}.txt")
    return len(file.read_text().splitlines()) if file.exists() else 0


def calls_found(path: Path, run: str) -> int:
    """Calls whose samples the gallery holds, as they were given; AssertionError where a part of a call is there."""
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for source, embedding in database.execute("SELECT source, embedding FROM samples ORDER BY id"):
            of, call, number = source.split("/")
            if of == run:
                found.setdefault(int(call), []).append((int(number), np.frombuffer(embedding, np.float32)))
    database.close()
    for call, samples in found.items():
        assert [number for number, _ in samples] == [*range(SAMPLES)]
        np.testing.assert_array_equal([embedding for _, embedding in samples], embeddings_of_call(run, call))
    assert sorted(found) == list(range(len(found)))
    return len(found)


class DrawnEmbedder:
    """In place of `FaceEmbedder`: a photo's content names its faces, such as `Ann 3, Bob 1` by person and sample.

    Persons lie about 1.4 apart, their samples about 0.1. A photo of `?` cannot be read, and one of `-` has no face.
    """

    contract, dim = CONTRACT, DIM

    def __init__(self, calibration: Calibration | None = None) -> None:
        self.calibration = calibration
        self.looked_at: list[str] = []
        self.embedded = 0
        """Faces that went through the network."""

    def find_batch(
        self, photos: Iterable[bytes | Path], *, policy: FacePolicy | Literal["all"] = "all"
    ) -> Iterator[PhotoFaces]:
        for photo in photos:
            content = (photo if isinstance(photo, bytes) else photo.read_bytes()).decode()
            self.looked_at.append(content)
            if content == "?":
                yield PhotoFaces(name="", reason=Reason.UNREADABLE, message="cut off")
            else:
                faces = tuple(_face(words) for words in content.split(", ") if words != "-")
                found = PhotoFaces(name="", faces=faces)
                found = found if policy == "all" else found.chosen(policy)
                self.embedded += len(found.faces)
                yield found


def _face(words: str) -> Face:
    name, sample = words.split()
    around = drawn(zlib.crc32(name.encode()))
    embedding = drawn(zlib.crc32(words.encode()), around=around)[0] if int(sample) else around[0]
    return Face(
        box=np.array([0.0, 0.0, 10.0 + int(sample), 10.0]),
        landmarks=np.zeros((5, 2)),
        probability=1.0,
        chip=np.zeros((128, 128, 3), np.uint8),
        quality=FaceQuality(residual=0.0, profile=0.0, sharpness=0.0, contrast=0.0),
        embedding=embedding,
        norm=1.0,
    )


def write_photos(folder: Path, contents: Mapping[str, str]) -> Path:
    """Photos of a `DrawnEmbedder`, by their paths within the folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder
