"""A batch out of decoded faces in the host's memory (`data.residency: host`), on one thread: ways to gather it."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from interleaved import measure, write_results
from jaxtyping import Int64, UInt8

from facegm.checkup.random_store import PICTURES, RandomStore
from facegm.data.preprocessing import Preprocessing
from facegm.data.samples import DrawnSamples
from facegm.faces.samples import LabelledFaces

FACES, BATCH, RUNS = 20_000, 256, 200


class DecodedStore(RandomStore):
    """Faces that take no time to read."""

    def __init__(self, identities: int) -> None:
        super().__init__(identities)
        self._decoded = [super(DecodedStore, self).read_face(number) for number in range(PICTURES)]

    def read_face(self, row: int) -> UInt8[np.ndarray, "size size 3"]:
        return self._decoded[row % PICTURES]


def main() -> None:
    """Every way is given other faces each time, so that none finds them in the processor's cache."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    samples = LabelledFaces(DecodedStore(FACES), Preprocessing(face_size=128, crop_size=120))
    samples.keep_decoded(torch.device("cpu"))
    faces = samples._decoded
    assert faces is not None
    as_array, numbers = faces.numpy(), _batches()
    rows = measure(
        {
            "advanced indexing": lambda: faces[torch.from_numpy(next(numbers))],
            "index_select": lambda: faces.index_select(0, torch.from_numpy(next(numbers))),
            "numpy take": lambda: torch.from_numpy(as_array.take(next(numbers), axis=0)),
            "the data set, with labels and draws": lambda: samples[_drawn(samples, next(numbers))],
        },
        runs=RUNS,
    )
    write_results("gather", [{"faces": BATCH, "side": faces.shape[1], "of": FACES} | row for row in rows])


def _batches() -> Iterator[Int64[np.ndarray, " batch"]]:
    rng = np.random.default_rng(0)
    while True:
        yield rng.integers(0, FACES, BATCH)


def _drawn(samples: LabelledFaces, numbers: Int64[np.ndarray, " batch"]) -> DrawnSamples:
    return DrawnSamples(numbers, samples.draw(numbers, None))


if __name__ == "__main__":
    main()
