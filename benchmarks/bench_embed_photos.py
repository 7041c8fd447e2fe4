"""Photos of LFW to a file of embeddings on this CPU: `facegm embed` against a loop that takes one photo at a time.

    bench_embed_photos.py [PHOTOS] [RUNS]   1,000 photos, evenly drawn, and 3 runs; `all` for LFW's 7,701

The loop is what the embedder did before it knew batches: decode a photo, detect, align the largest central face and
embed it, by torch on all cores. `facegm embed` is measured with the start of its worker processes, as a user would;
where OpenVINO is kept from it, and with OpenVINO for detector and network. Beside them the road through a store,
`facegm align` and then the embedding of its faces. Each way does the same photos in turn. Embeddings are compared with
those that the store's faces have: the largest difference of a coordinate. The network is MobileFaceNet with random
weights.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import torch
from interleaved import measure, write_results
from jaxtyping import Float

from facegm.align.config import AlignConfig
from facegm.align.detector import FaceDetector
from facegm.align.face import FACE_SIZE, TEMPLATE, align_face
from facegm.align.pipeline import align_photos
from facegm.data.decoding import read_photo
from facegm.data.preprocessing import Preprocessing
from facegm.data.readers.source import find_photos
from facegm.embedding.aligned_embedder import normalised
from facegm.embedding.embed_config import EmbedConfig
from facegm.embedding.embed_run import embed_photos
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import save_embedder
from facegm.eval.sets.embedding_files import read_embeddings
from facegm.models.face_network import FaceModelConfig, build_face_network

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
NETWORK = FaceModelConfig(name="mobilefacenet")
PREPROCESSING = Preprocessing(face_size=64, crop_size=60)
WITHOUT_OPENVINO = "FACEGM_BENCH_WITHOUT_OPENVINO"
"""Set in the environment of processes that shall not see OpenVINO; worker processes import this file."""
if WITHOUT_OPENVINO in os.environ:
    sys.modules["openvino"] = None  # type: ignore[assignment]

Embeddings = dict[str, Float[np.ndarray, " dim"]]
"""By the names of the photos' files, which in LFW are all different."""


def main() -> None:
    found = find_photos(DATA / "lfw" / "lfw-deepfunneled").photos
    number = len(found) if sys.argv[1:2] == ["all"] else int((sys.argv[1:] or ["1000"])[0])
    runs = int((sys.argv[2:] or ["3"])[0])
    paths = [Path(found[place].path) for place in np.linspace(0, len(found) - 1, number).round().astype(int)]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "photos.txt"
        listing.write_text("".join(f"{path}\n" for path in paths))
        torch.manual_seed(0)
        model = Path(folder) / "network.safetensors"
        alignment = {"size": FACE_SIZE, "template": TEMPLATE.tolist()}
        save_embedder(model, build_face_network(NETWORK, PREPROCESSING.crop_size), NETWORK, PREPROCESSING, alignment)
        ways = Ways(model, paths, listing, Path(folder))
        for row in measure(ways.all, runs=runs, is_warm=False):
            speed = round(number / float(str(row["median_s"])), 1)
            times = round(1 / float(str(row.pop("ratio_to_first"))), 2)
            difference = {"difference": f"{ways.difference(str(row['way'])):.1e}"}
            rows.append({"photos": number, "photos_per_second": speed, "times_the_first": times} | row | difference)
    write_results("embed_photos", rows)


class Ways:
    """The ways to embed the same photos, and what each has found last."""

    def __init__(self, model: Path, paths: list[Path], listing: Path, folder: Path) -> None:
        self._model, self._paths, self._listing, self._folder = model, paths, listing, folder
        self._numbers = count()
        self._found: dict[str, Embeddings] = {}
        self.all: dict[str, Callable[[], None]] = {
            way: lambda way=way, embed=embed: self._found.update({way: embed()})  # type: ignore[misc]
            for way, embed in {
                "one photo at a time": lambda: one_at_a_time(model, paths),
                "facegm embed": lambda: self._embed(EmbedConfig(device="cpu", runtime="cpu"), without_openvino=True),
                "facegm embed --policy largest-central": lambda: self._embed(
                    EmbedConfig(device="cpu", runtime="cpu", policy="largest-central"), without_openvino=True
                ),
                "facegm embed --runtime openvino": lambda: self._embed(EmbedConfig(device="cpu", runtime="openvino")),
                STORE: self._through_a_store,
            }.items()
        }

    def difference(self, way: str) -> float:
        """Largest difference of a coordinate from the road through a store, of photos whose face both have found."""
        mine, stored = self._found[way], self._found[STORE]
        return max(float(np.abs(mine[name] - stored[name]).max()) for name in mine.keys() & stored.keys())

    def _embed(self, config: EmbedConfig, *, source: Path | None = None, without_openvino: bool = False) -> Embeddings:
        output = self._folder / f"faces-{next(self._numbers)}.parquet"
        with hidden_openvino(without_openvino):
            embed_photos(source or self._listing, self._model, output, config)
        named = read_embeddings(output)
        return {Path(name).name: embedding for name, embedding in zip(named.names, named.embeddings, strict=True)}

    def _through_a_store(self) -> Embeddings:
        store = self._folder / f"store-{next(self._numbers)}"
        align_photos(self._listing, store, AlignConfig(runtime="cpu"))
        return self._embed(EmbedConfig(device="cpu"), source=store, without_openvino=True)


STORE = "facegm align, then embed the store"


def one_at_a_time(model: Path, paths: list[Path]) -> Embeddings:
    """Embed photos as `FaceEmbedder.embed([photo])` did, one after the other."""
    embedder, detector, found = FaceEmbedder.load(model, device="cpu", expected=1), FaceDetector(), {}
    for path in paths:
        photo = read_photo(path)
        chip = align_face(photo, detector.detect(photo), crop_when_missing=False).image
        if chip is not None:
            [found[path.name]] = normalised(embedder.embed_aligned([chip]))
    return found


@contextmanager
def hidden_openvino(is_hidden: bool) -> Iterator[None]:
    """Keep OpenVINO from this process, and from those that it starts."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "openvino"}
    if is_hidden:
        os.environ[WITHOUT_OPENVINO] = "1"
        sys.modules["openvino"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        os.environ.pop(WITHOUT_OPENVINO, None)
        if is_hidden:
            del sys.modules["openvino"]
            sys.modules.update(before)


if __name__ == "__main__":
    main()
