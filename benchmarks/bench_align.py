"""Face detection and alignment of LFW photos against facenet-pytorch's detector one photo at a time.

Per core: detection alone, of decoded photos, on one thread. By wall clock: from photos on the disk, on all cores;
facegm's figure is that of the whole alignment to a store, the start of its workers included.
"""

import os
import tempfile
from itertools import count
from pathlib import Path

import torch
from facenet_pytorch import MTCNN
from interleaved import measure, write_results

from facegm.align.config import AlignConfig
from facegm.align.detector import FaceDetector
from facegm.align.pipeline import align_photos
from facegm.align.worker import BATCH
from facegm.data.find_photos import find_photos
from facegm.data.photos import read_photo

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
RUNS = 5
DETECTED, FACENET_PHOTOS, ALIGNED = 256, 512, 4096


def main() -> None:
    found = find_photos(DATA / "lfw" / "lfw-deepfunneled")
    rows = per_core([photo.path for photo in found[:: len(found) // DETECTED][:DETECTED]])
    with tempfile.TemporaryDirectory() as folder:
        rows += wall_clock([photo.path for photo in found[:ALIGNED]], Path(folder))
    write_results("align", rows)


def per_core(paths: list[Path]) -> list[dict[str, object]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    photos = [read_photo(path) for path in paths]
    stock, detectors = MTCNN(keep_all=True, device="cpu"), {name: FaceDetector(name) for name in ("cpu", "openvino")}

    def detect(runtime: str) -> None:
        for start in range(0, len(photos), BATCH):
            detectors[runtime].detect_batch(photos[start : start + BATCH])

    def detect_one_by_one() -> None:
        for photo in photos:
            stock.detect(photo, landmarks=True)

    ways = {
        "one core: facenet-pytorch detect, one by one": detect_one_by_one,
        "one core: facegm detect, torch": lambda: detect("cpu"),
        "one core: facegm detect, OpenVINO": lambda: detect("openvino"),
    }
    rows = measure(ways, runs=RUNS)
    torch.set_num_threads(threads)
    return [_with_speed(row, len(photos), len(photos)) for row in rows]


def wall_clock(paths: list[Path], folder: Path) -> list[dict[str, object]]:
    stock = MTCNN(keep_all=True, device="cpu")
    listing = folder / "photos.txt"
    listing.write_text("".join(f"{path}\n" for path in paths))
    stores = count()

    def align(runtime: str) -> None:
        align_photos(listing, folder / f"store-{next(stores)}", AlignConfig(runtime=runtime))  # type: ignore[arg-type]

    ways = {
        "all cores: facenet-pytorch detect, one by one": lambda: [
            stock.detect(read_photo(path), landmarks=True) for path in paths[:FACENET_PHOTOS]
        ],
        "all cores: facegm align, torch": lambda: align("cpu"),
        "all cores: facegm align, OpenVINO": lambda: align("openvino"),
    }
    photos = [FACENET_PHOTOS, len(paths), len(paths)]
    rows = measure(ways, runs=3)
    return [_with_speed(row, number, FACENET_PHOTOS) for row, number in zip(rows, photos, strict=True)]


def _with_speed(row: dict[str, object], photos: int, photos_of_first: int) -> dict[str, object]:
    speedup = photos / photos_of_first / float(str(row.pop("ratio_to_first")))
    speed = photos / float(str(row["median_s"]))
    return {"photos": photos, "photos_per_second": round(speed, 1), "times_the_first": round(speedup, 2), **row}


if __name__ == "__main__":
    main()
