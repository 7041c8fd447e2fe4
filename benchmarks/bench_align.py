"""Alignment of synthetic demo photos, wall clock, against facenet-pytorch's own detector one photo at a time."""

import tempfile
from pathlib import Path

from facenet_pytorch import MTCNN
from interleaved import measure, write_results

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.data.find_photos import find_photos
from facegm.data.photos import read_photo
from facegm.demo.photos import write_photos

PHOTOS = 480  # enough that the start of the workers, some seconds, does not decide


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", identities=range(40), photos_per_identity=PHOTOS // 40, seed=0)
        paths = [photo.path for photo in find_photos(folder / "photos")]
        detector = MTCNN(keep_all=True, device="cpu")
        store = iter(range(100))
        ways = {
            "facenet-pytorch detect, one by one": lambda: [detector.detect(read_photo(path)) for path in paths],
            "facegm align, all workers": lambda: align_photos(
                folder / "photos", folder / f"store-{next(store)}", AlignConfig()
            ),
        }
        rows = measure(ways, runs=3)
    write_results(
        "align", [{"photos_per_second": round(PHOTOS / float(str(row["median_s"])), 1), **row} for row in rows]
    )


if __name__ == "__main__":
    main()
