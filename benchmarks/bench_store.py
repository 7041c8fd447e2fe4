"""Opening a store for training, for half a million and ten million photos; and a rerun of its alignment.

Opening is measured in processes of their own: seconds, and memory beyond a Python that has loaded torch and this
package (pyarrow is counted). A rerun finds all photos done, after a look at each photo and at each face of 200 bytes.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from interleaved import write_results
from peak_memory import ENVIRONMENT, peak_bytes

from facegm.data.preprocessing import Preprocessing
from facegm.faces.samples import LabelledFaces

SIZES = {500_000: 10_575, 10_000_000: 300_000}
"""Photos, and their identities."""
RUNS, BLOCK = 5, 2**17


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps(measure_opening(Path(sys.argv[1]))))
        return
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {photos: Path(folder) / str(photos) for photos in SIZES}
        for photos, store in stores.items():
            write_store(store, photos, SIZES[photos])
        for photos, store in stores.items():
            found = [_in_a_process(store) for _ in range(RUNS)]
            rows.append(
                {
                    "photos": photos,
                    "identities": SIZES[photos],
                    "runs": RUNS,
                    "open_s": round(median(one["open_s"] for one in found), 3),
                    "fingerprint_s": round(median(one["fingerprint_s"] for one in found), 3),
                    "peak_mib": round(median(one["peak_mib"] for one in found)),
                    "manifest_mib": round((store / "manifest.parquet").stat().st_size / 2**20),
                }
            )
        rows[0] |= rerun(Path(folder) / "rerun", next(iter(SIZES)))
    write_results("store", rows)


def measure_opening(store: Path) -> dict[str, float]:
    """Open a store as training does: its faces' names and labels, and the digest by which a checkpoint knows them."""
    seconds = [time.perf_counter()]

    def begin() -> None:
        from facegm.store.reader import FaceStore

        faces = LabelledFaces(FaceStore(store), Preprocessing())
        seconds.append(time.perf_counter())
        assert faces.fingerprint
        seconds.append(time.perf_counter())

    peak = peak_bytes(begin)
    return {"open_s": seconds[1] - seconds[0], "fingerprint_s": seconds[2] - seconds[1], "peak_mib": peak / 2**20}


def rerun(folder: Path, photos: int) -> dict[str, object]:
    """Seconds of an alignment's beginning and end where all is done."""
    from facegm.data.readers.photo import Photo
    from facegm.store.format import FaceRecord
    from facegm.store.writer import StoreWriter

    status = Path(__file__).stat()
    found = [
        Photo(path=__file__, key=f"{row // 47:07}/{row:09}.jpg", identity=f"{row // 47:07}", offset=0, length=1)
        for row in range(photos)
    ]
    settings = {"source": "photos", "size": 128, "encoding": "png", "container": "tar"}
    with StoreWriter(folder, found, settings, batch=32) as store:
        for group in store.waiting:
            store.add(
                [
                    (
                        FaceRecord(
                            key=photo.key,
                            identity=photo.identity,
                            status="aligned",
                            digest="00" * 32,
                            photo_bytes=status.st_size,
                            photo_modified_ns=status.st_mtime_ns,
                        ),
                        bytes(200),
                    )
                    for photo in group
                ]
            )
    begun = time.perf_counter()
    with StoreWriter(folder, found, settings, batch=32) as store:
        checked = time.perf_counter()
        assert not store.waiting
    return {"rerun_check_s": round(checked - begun, 1), "rerun_end_s": round(time.perf_counter() - checked, 1)}


def write_store(folder: Path, photos: int, identities: int) -> None:
    """The manifest of a store of tar files, whose faces are not there."""
    from facegm.store.format import FORMAT, SCHEMA, SETTINGS_FILE, manifest_writer

    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, identities, photos))
    with manifest_writer(folder) as manifest:
        for start in range(0, photos, BLOCK):
            some = labels[start : start + BLOCK].tolist()
            rows = np.arange(start, start + len(some))
            columns = {field.name: pa.nulls(len(some), field.type) for field in SCHEMA} | {
                "key": pa.array([f"{label:07}/{row:09}.jpg" for label, row in zip(some, rows.tolist(), strict=True)]),
                "identity": pa.array([f"{label:07}" for label in some]),
                "status": pa.array(np.where(rows % 100 == 7, "failed", "aligned")),
                "landmarks": pa.FixedSizeListArray.from_arrays(pa.array(rng.uniform(0, 250, 10 * len(some))), 10),
                "digest": _random_bytes(rng, len(some)),
                "perceptual_hash": _random_bytes(rng, len(some)),
                "part": pa.array(["00000"] * len(some)),
                "offset": pa.array(rows * 20_480 + 512),
                "length": pa.array(rng.integers(15_000, 20_000, len(some), dtype=np.int32)),
                "checksum": pa.array(rng.integers(0, 2**32, len(some), dtype=np.uint32)),
            }
            manifest.write_table(pa.table(columns, schema=SCHEMA))
    settings = {"format": FORMAT, "size": 128, "encoding": "png", "container": "tar", "template": []}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))


def _random_bytes(rng: np.random.Generator, rows: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), rows, [None, pa.py_buffer(rng.bytes(32 * rows))])


def _in_a_process(store: Path) -> dict[str, float]:
    command = [sys.executable, __file__, str(store)]
    found: dict[str, float] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout
    )
    return found


if __name__ == "__main__":
    main()
