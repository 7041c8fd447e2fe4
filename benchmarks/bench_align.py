"""Face detection and alignment of LFW photos against facenet-pytorch's detector one photo at a time.

Per core: detection alone, of decoded photos, on one thread. By wall clock, on all cores: detection from photos on the
disk, by one-thread processes that are there already; and the whole alignment to a store, their start included.
"""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch
from facenet_pytorch import MTCNN
from interleaved import measure, write_results

from facegm.align.config import AlignConfig
from facegm.align.detector import FaceDetector
from facegm.align.finder import BATCH
from facegm.align.networks import Runtime
from facegm.align.pipeline import align_photos
from facegm.data.decoding import read_photo
from facegm.data.machine import cores
from facegm.data.readers.source import find_photos

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
RUNTIMES: tuple[Runtime, ...] = ("cpu", "openvino")
RUNS, ALIGNMENT_RUNS = 5, 3
SAMPLE = 512
"""Photos, evenly spaced, for what is too slow for all of them."""


_detector: FaceDetector
"""Of a worker process."""


def main() -> None:
    found = find_photos(DATA / "lfw" / "lfw-deepfunneled").photos
    paths = [Path(photo.path) for photo in found]
    sample = paths[:: len(paths) // SAMPLE][:SAMPLE]
    rows = per_core(sample)
    with tempfile.TemporaryDirectory() as folder:
        rows += wall_clock(paths, sample, Path(folder))
    write_results("align", rows)


def per_core(paths: list[Path]) -> list[dict[str, object]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    photos = [read_photo(path) for path in paths]
    stock, detectors = MTCNN(keep_all=True, device="cpu"), {name: FaceDetector(name) for name in RUNTIMES}

    def detect(runtime: Runtime) -> None:
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


def wall_clock(paths: list[Path], sample: list[Path], folder: Path) -> list[dict[str, object]]:
    stock = MTCNN(keep_all=True, device="cpu")
    listing = folder / "photos.txt"
    listing.write_text("".join(f"{path}\n" for path in paths))
    stores = count()

    def align(runtime: Runtime) -> None:
        align_photos(listing, folder / f"store-{next(stores)}", AlignConfig(runtime=runtime))

    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(cores(), mp_context=context, initializer=_make_detector, initargs=("cpu",)) as by_torch,
        ProcessPoolExecutor(
            cores(), mp_context=context, initializer=_make_detector, initargs=("openvino",)
        ) as by_openvino,
    ):
        ways = {
            "all cores: facenet-pytorch detect, one by one": lambda: [
                stock.detect(read_photo(path), landmarks=True) for path in sample
            ],
            "all cores: facegm detect, torch": lambda: list(by_torch.map(_count_faces, batches)),
            "all cores: facegm detect, OpenVINO": lambda: list(by_openvino.map(_count_faces, batches)),
            "all cores: facegm align, torch": lambda: align("cpu"),
            "all cores: facegm align, OpenVINO": lambda: align("openvino"),
        }
        rows = measure(ways, runs=ALIGNMENT_RUNS)
    photos = [len(sample), *[len(paths)] * (len(ways) - 1)]
    return [_with_speed(row, number, len(sample)) for row, number in zip(rows, photos, strict=True)]


def _make_detector(runtime: Runtime) -> None:
    global _detector
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    _detector = FaceDetector(runtime)


def _count_faces(paths: list[Path]) -> int:
    return sum(map(len, _detector.detect_batch([read_photo(path) for path in paths])))


def _with_speed(row: dict[str, object], photos: int, photos_of_first: int) -> dict[str, object]:
    speedup = photos / photos_of_first / float(str(row.pop("ratio_to_first")))
    speed = photos / float(str(row["median_s"]))
    return {"photos": photos, "photos_per_second": round(speed, 1), "times_the_first": round(speedup, 2), **row}


if __name__ == "__main__":
    main()
