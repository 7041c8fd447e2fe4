"""The inspection of a synthetic store on one thread: time, memory, and the share of near-duplicates that is found.

Hashes are drawn so that they lie as those of LFW's photos: signs of a normal distribution with the same correlations.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from interleaved import measure, write_results
from jaxtyping import Float64, UInt8, UInt64
from peak_memory import ENVIRONMENT, peak_bytes
from scipy.stats import norm

from facegm.align.duplicates import NEAR_DUPLICATE_BITS
from facegm.align.face import HASH_BITS, perceptual_hash
from facegm.align.inspection import inspect_manifest
from facegm.align.near_hashes import join_near

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
PHOTOS, PHOTOS_OF_IDENTITY = (62_500, 125_000, 250_000, 500_000), 47
"""As CASIA-WebFace: 10,575 identities with 494,414 photos."""
RUNS, CHUNK = 3, 20_000
DISTANCES, PAIRS = (24, 30, 36, 42), 2_000
"""Planted pairs: in how many bits they differ, and how many of each."""


class ParquetManifest:
    """Reads only the columns that it is asked for, as a store does."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def table(self, columns: Sequence[str]) -> pa.Table:
        return pq.read_table(self._path, columns=list(columns))


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:]:
        print(peak_bytes(lambda: inspect(Path(sys.argv[1]))))
        return
    draw = Hashes(_middle_hashes(DATA / "lfw" / "lfw-deepfunneled"))
    write_results("inspect_recall", [recall(draw, photos) for photos in PHOTOS])
    with tempfile.TemporaryDirectory() as folder:
        manifests = {}
        for photos in PHOTOS:
            hashes = draw.some(photos)
            for identities in (photos // PHOTOS_OF_IDENTITY, 1):
                name = f"{photos:,} photos of {identities:,} identities"
                manifests[name] = write_manifest(Path(folder) / f"{name}.parquet", photos, identities, hashes)
        name = f"{photos:,} photos of {photos // PHOTOS_OF_IDENTITY:,} identities, without hashes"
        manifests[name] = write_manifest(Path(folder) / f"{name}.parquet", photos, photos // PHOTOS_OF_IDENTITY, None)
        rows = measure({name: partial(inspect, path) for name, path in manifests.items()}, runs=RUNS, clock=one_core)
        peaks = [_peak_mebibytes(path) for path in manifests.values()]
    write_results("inspect", [row | {"peak_mib": peak} for row, peak in zip(rows, peaks, strict=True)])


def one_core(way: Callable[[], object]) -> float:
    """Seconds of the processor, of which one thread takes as many on a machine that does other things beside."""
    start = time.process_time()
    way()
    return time.process_time() - start


def inspect(path: Path) -> None:
    pa.set_cpu_count(1)
    inspect_manifest(ParquetManifest(path))


def recall(draw: "Hashes", photos: int) -> dict[str, object]:
    """The share of pairs found, planted among the photos of one identity."""
    pairs = draw.pairs()
    planted = [side for one_other in pairs.values() for side in one_other]
    hashes = np.concatenate([*planted, draw.some(photos - len(planted) * PAIRS)])
    chains = join_near(_words(hashes), np.zeros(photos, np.int64), NEAR_DUPLICATE_BITS)
    one_other = chains[: len(planted) * PAIRS].reshape(len(pairs), 2, PAIRS)
    found = (one_other[:, 0] == one_other[:, 1]).mean(axis=1)
    mean, deviation = _distances(hashes[-photos // 2 :])
    shares = {f"found_at_{bits}_bits": round(float(share), 4) for bits, share in zip(pairs, found, strict=True)}
    return {
        "photos": photos,
        **shares,
        "distance_mean": mean,
        "distance_deviation": deviation,
        "real_distance_mean": draw.real[0],
        "real_distance_deviation": draw.real[1],
    }


class Hashes:
    """Draws hashes that lie as real ones do.

    Args:
        real: 32 bytes each.
    """

    def __init__(self, real: UInt8[np.ndarray, "photos 32"]) -> None:
        signs = np.unpackbits(real, axis=1) * 2.0 - 1
        # A normal distribution's signs correlate by 2/pi times the arc sine of its own correlation.
        values, vectors = np.linalg.eigh(np.sin(np.pi / 2 * np.corrcoef(signs.T)))
        self._mean = norm.ppf((signs.mean(axis=0) + 1) / 2)
        self._root = vectors * np.sqrt(values.clip(0))
        self._rng = np.random.default_rng(0)
        self.real = _distances(real)

    def some(self, photos: int) -> UInt8[np.ndarray, "photos 32"]:
        sizes = [min(CHUNK, photos - start) for start in range(0, photos, CHUNK)]
        return np.concatenate([_signs(self._mean + self._noise(size)) for size in sizes])

    def pairs(self) -> dict[int, tuple[UInt8[np.ndarray, "pairs 32"], UInt8[np.ndarray, "pairs 32"]]]:
        """Photos and the same with some noise, by the number of bits in which they differ."""
        photos, copies = [], []
        for _ in range(10):
            photo, strength = self._mean + self._noise(CHUNK), self._rng.uniform(0.2, 0.8, (CHUNK, 1))
            photos.append(_signs(photo))
            copies.append(_signs(photo + strength * self._noise(CHUNK)))
        one, other = np.concatenate(photos), np.concatenate(copies)
        distances = np.bitwise_count(one ^ other).sum(axis=1)
        chosen = {bits: np.flatnonzero(distances == bits)[:PAIRS] for bits in DISTANCES}
        return {bits: (one[rows], other[rows]) for bits, rows in chosen.items()}

    def _noise(self, photos: int) -> Float64[np.ndarray, "photos 256"]:
        return np.asarray(self._rng.standard_normal((photos, HASH_BITS)) @ self._root.T)


def _signs(values: Float64[np.ndarray, "photos 256"]) -> UInt8[np.ndarray, "photos 32"]:
    return np.packbits(values > np.median(values, axis=1, keepdims=True), axis=1)


def _words(hashes: UInt8[np.ndarray, "photos 32"]) -> UInt64[np.ndarray, "4 photos"]:
    return np.ascontiguousarray(hashes.view(np.uint64).T)


def _distances(hashes: UInt8[np.ndarray, "photos 32"]) -> tuple[float, float]:
    """Mean and standard deviation of the distance between two."""
    one, other = np.random.default_rng(0).permuted(np.tile(np.arange(len(hashes)), (2, 1)), axis=1)
    distances = np.bitwise_count(hashes[one] ^ hashes[other]).sum(axis=1)[one != other]
    return round(float(distances.mean()), 1), round(float(distances.std()), 1)


def _middle_hashes(photos: Path) -> UInt8[np.ndarray, "photos 32"]:
    """Hashes of the photos' middles, where the faces are: near enough to those of aligned faces, and fast."""
    hashes = []
    for path in sorted(photos.glob("*/*.jpg")):
        photo = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        face = cv2.resize(np.asarray(photo, np.uint8)[75:185, 70:180], (128, 128))
        hashes.append(perceptual_hash(np.asarray(face, np.uint8)))
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, HASH_BITS // 8)


def write_manifest(path: Path, photos: int, identities: int, hashes: UInt8[np.ndarray, "photos 32"] | None) -> Path:
    rng = np.random.default_rng(0)
    identity = np.sort(rng.integers(0, identities, photos))
    measures = ("residual", "profile", "sharpness", "contrast", "probability")
    failed = rng.random(photos) < 0.01
    columns = {
        "key": pa.array([f"{number:07}/{row:08}.jpg" for row, number in enumerate(identity.tolist())]),
        "identity": pa.array([f"{number:07}" for number in identity.tolist()]),
        "status": pa.array(["failed" if row else "aligned" for row in failed.tolist()]),
        "reason": pa.array(["no face found" if row else None for row in failed.tolist()]),
        "faces": pa.array(rng.integers(1, 3, photos, dtype=np.int32)),
        "box": pa.FixedSizeListArray.from_arrays(pa.array(rng.uniform(0, 250, 4 * photos)), 4),
        **{name: pa.array(rng.random(photos)) for name in measures},
        "digest": _fixed(rng.integers(0, 256, (photos, 32), dtype=np.uint8)),
        "perceptual_hash": pa.nulls(photos, pa.binary(32)) if hashes is None else _fixed(hashes),
    }
    pq.write_table(pa.table(columns), path)
    return path


def _fixed(values: UInt8[np.ndarray, "photos 32"]) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(values), [None, pa.py_buffer(values.tobytes())])


def _peak_mebibytes(path: Path) -> int:
    command = [sys.executable, __file__, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout) >> 20


if __name__ == "__main__":
    main()
