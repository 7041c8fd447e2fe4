"""Embedding aligned faces of LFW on this CPU, from their store: against a plain loop, on one thread and on all.

Takes a store that `facegm align ../shared/data/lfw/lfw-deepfunneled --on-missing center-crop` made. The networks are
the shipped small ones with random weights. The plain loop reads all faces, then takes 64 at a time through the network,
and their mirror images after them. Each way embeds the same faces in turn. On one thread the seconds are the process's
own, which other processes disturb least; on several those of the clock. What a translation to OpenVINO costs once,
before the first face, is a row of its own.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from interleaved import measure, wall_clock, write_results

from facegm.data.preprocessing import Preprocessing, network_input
from facegm.embedding import engine
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.openvino_engine import OpenVinoEngine
from facegm.embedding.trained_network import TrainedNetwork
from facegm.eval.sets.named_faces import NamedFaces
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import FaceModelConfig, build_face_network
from facegm.store.reader import FaceStore

MODELS = {
    "resnet27, width 0.375": FaceModelConfig(name="resnet27", width=0.375),
    "mobilefacenet": FaceModelConfig(name="mobilefacenet"),
}
PREPROCESSING = Preprocessing(face_size=64, crop_size=60)
FACES, RUNS = 144, 5


def main() -> None:
    store = FaceStore(Path(sys.argv[1] if len(sys.argv) > 1 else "stores/lfw"))
    rows: list[dict[str, object]] = []
    for threads in dict.fromkeys((1, torch.get_num_threads())):
        torch.set_num_threads(threads)
        for name, config in MODELS.items():
            torch.manual_seed(0)
            network = build_face_network(config, PREPROCESSING.crop_size).eval()
            ways = {
                "plain": partial(plain, network, store),
                "torch": of_engine(network, store, least=10**9),
                "OpenVINO": of_engine(network, store, least=1),
            }
            found = {way: embed() for way, embed in ways.items()}
            for row in measure(ways, runs=RUNS, clock=process_clock if threads == 1 else wall_clock):
                error = np.abs(found[str(row["way"])] - found["plain"]).max() / np.abs(found["plain"]).max()
                rows.append({"network": name, "on_threads": threads, "faces": FACES, **row, "error": f"{error:.1e}"})
            rows.append({"network": name, "on_threads": threads, **translation(network)})
    write_results("embed", rows)


@torch.no_grad()
def plain(network: FaceNetwork, store: FaceStore) -> np.ndarray:
    """Embed faces as one writes it down."""
    faces = [store.read_face(row) for row in range(FACES)]
    found = []
    for start in range(0, FACES, 64):
        images = network_input(torch.from_numpy(PREPROCESSING.middle_crops(np.stack(faces[start : start + 64]))))
        found.append((network(images) + network(images.flip(3))).numpy())
    return np.concatenate(found)


def of_engine(network: FaceNetwork, store: FaceStore, *, least: int) -> Callable[[], np.ndarray]:
    """The embedder, which takes to OpenVINO from `least` faces on; made at the first call, which is not measured."""
    embedder = FaceEmbedder(TrainedNetwork(network, PREPROCESSING))

    def embed() -> np.ndarray:
        engine.WORTH_A_TRANSLATION = least
        return embedder.embed_aligned(NamedFaces(store, {str(row): row for row in range(FACES)}))

    return embed


def process_clock(way: Callable[[], object]) -> float:
    """Seconds that the processor is busy with a way."""
    start = time.process_time()
    way()
    return time.process_time() - start


def translation(network: FaceNetwork) -> dict[str, object]:
    """Seconds until OpenVINO has embedded a first face."""
    begun = time.perf_counter()
    OpenVinoEngine(network).forward(torch.zeros(1, 3, PREPROCESSING.crop_size, PREPROCESSING.crop_size))
    return {"way": "OpenVINO, once", "runs": 1, "median_s": round(time.perf_counter() - begun, 3)}


if __name__ == "__main__":
    main()
