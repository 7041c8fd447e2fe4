"""One embedder that eight threads share, on photos of LFW: the same results as one thread, and no growth of memory.

    bench_shared_embedder.py [MODEL]   a run folder; without one, a MobileFaceNet with random weights

In each of ten rounds, on 1,000 photos that are evenly drawn, every thread takes an eighth of them through `find_batch`.
They are compared with what one thread finds in the same eighths: the faces' chips, which must be the same to the last
bit, and the largest difference of a coordinate of their embeddings. Memory is what the process holds at the end of a
round, where what is freed goes back to the system at once; else the allocator keeps some of it for each thread, which
grows for some rounds and then no more. torch computes on one thread for each of the eight.
"""

import gc
import os
import sys
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from interleaved import write_results
from jaxtyping import Float
from peak_memory import ENVIRONMENT, resident_bytes

from facegm import FaceEmbedder
from facegm.data.preprocessing import Preprocessing
from facegm.data.readers.source import find_photos
from facegm.embedding.trained_network import TrainedNetwork
from facegm.models.face_network import FaceModelConfig, build_face_network

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
PREPROCESSING = Preprocessing(face_size=64, crop_size=60)
PHOTOS, ROUNDS, THREADS = 1000, 10, 8


class Found(NamedTuple):
    """What one thread has found in its photos."""

    chips: list[tuple[int, ...]]
    """CRC-32 of the chips of each photo."""
    embeddings: Float[np.ndarray, "faces dim"]


def main() -> None:
    if not ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], ENVIRONMENT)
    torch.set_num_threads(1)
    photos = find_photos(DATA / "lfw" / "lfw-deepfunneled").photos
    paths = [photos[place].path for place in np.linspace(0, len(photos) - 1, PHOTOS).round().astype(int)]
    shares = [paths[thread::THREADS] for thread in range(THREADS)]
    embedder = embedder_of(sys.argv[1:])
    begun = time.perf_counter()
    alone = [find(embedder, share) for share in shares]
    faces = sum(len(found.embeddings) for found in alone)
    rows = [row("one thread", faces, 0, time.perf_counter() - begun)]
    for turn in range(1, ROUNDS + 1):
        begun = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            together = [*threads.map(lambda share: find(embedder, share), shares)]
        seconds = time.perf_counter() - begun
        for found, expected in zip(together, alone, strict=True):
            assert found.chips == expected.chips, "threads have found other faces"
        error = max(np.abs(found.embeddings - one.embeddings).max() for found, one in zip(together, alone, strict=True))
        del together
        rows.append(row(f"{THREADS} threads", faces, turn, seconds) | {"error": f"{error:.1e}"})
        print(rows[-1], flush=True)
    write_results("shared_embedder", rows)


def find(embedder: FaceEmbedder, paths: Sequence[str]) -> Found:
    """All faces of some photos."""
    chips, embeddings = [], []
    for photo in embedder.find_batch(paths):
        chips.append(tuple(zlib.crc32(face.chip.tobytes()) for face in photo.faces))
        embeddings += [face.embedding for face in photo.faces]
    return Found(chips, np.array(embeddings))


def embedder_of(arguments: Sequence[str]) -> FaceEmbedder:
    """That of a run, or one of random weights; by the same engine from the first photo on."""
    if arguments:
        return FaceEmbedder.load(arguments[0], device="cpu", expected=PHOTOS)
    torch.manual_seed(0)
    network = build_face_network(FaceModelConfig(name="mobilefacenet"), PREPROCESSING.crop_size).eval()
    return FaceEmbedder(TrainedNetwork(network, PREPROCESSING), expected=PHOTOS)


def row(way: str, faces: int, turn: int, seconds: float) -> dict[str, object]:
    """A line of the results."""
    gc.collect()
    resident = round(resident_bytes() / 2**20)
    return {"way": way, "photos": PHOTOS, "faces": faces, "round": turn, "seconds": round(seconds, 1), "MiB": resident}


if __name__ == "__main__":
    main()
