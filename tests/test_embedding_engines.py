"""Whatever embeds many faces gives what the plain network does: other layouts, folded layers, OpenVINO, bfloat16."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from moved_networks import move_batch_normalisation
from plain_embeddings import embed_faces
from torch import nn

from facegm.align.networks import exact_convolutions
from facegm.data.preprocessing import Preprocessing
from facegm.embedding import engine
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.engine import TorchEngine
from facegm.embedding.openvino_engine import OpenVinoEngine
from facegm.embedding.processes import compute_alone
from facegm.embedding.trained_network import TrainedNetwork
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import FaceModelConfig, FaceModelName, build_face_network

NAMES: tuple[FaceModelName, ...] = ("resnet27", "iresnet50", "mobilefacenet")
SIDE = 48
PREPROCESSING = Preprocessing(face_size=64, crop_size=SIDE)


def trained(name: FaceModelName) -> FaceNetwork:
    """A small network whose statistics, scales, slopes and biases have left their start."""
    torch.manual_seed(0)
    network = build_face_network(FaceModelConfig(name=name, width=0.1, embedding_dim=24), SIDE).eval()
    move_batch_normalisation(network)
    for part in network.modules():
        if isinstance(part, nn.PReLU):
            nn.init.uniform_(part.weight, -0.2, 0.8)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return network


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact, axis=1).max() / np.linalg.norm(exact, axis=1).min())


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("is_many", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_those_of_the_plain_network(
    name: FaceModelName, is_many: bool, mirror: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64; batches of five, of which the last is not full, and the order of the faces is kept."""
    if is_many:
        pytest.importorskip("openvino")
    monkeypatch.setattr(engine, "WORTH_A_TRANSLATION", 12 if is_many else 13)
    monkeypatch.setattr(engine, "PIXELS", 5 * SIDE**2)
    preprocessing = Preprocessing(face_size=64, crop_size=SIDE, mirror=mirror)
    network, some = trained(name), faces(12)
    embedder = FaceEmbedder(TrainedNetwork(network, preprocessing))
    found = embedder.embed_aligned(list(some))
    assert isinstance(embedder._engines.get().engine(0), OpenVinoEngine) == is_many
    exact = embed_faces(network.double(), preprocessing, some)
    assert np.ptp(exact, axis=0).max() > 1e-3 * np.abs(exact).max()
    assert relative_error(found, exact) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_taken_where_the_processor_has_it(name: FaceModelName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near enough to verify by, and far enough to see that it was taken."""
    network, some = trained(name), faces(4)
    exact = embed_faces(network, PREPROCESSING, some)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    found = FaceEmbedder(TrainedNetwork(network, PREPROCESSING)).embed_aligned(list(some))
    assert found.dtype == np.float32
    assert 1e-4 < relative_error(found, exact) < 0.03


def test_the_embedder_leaves_the_network_as_it_is() -> None:
    network = trained("mobilefacenet")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    described = FaceEmbedder(TrainedNetwork(network, PREPROCESSING)).describe()
    embedder = FaceEmbedder(TrainedNetwork(network, PREPROCESSING))
    embedder.embed_aligned(list(faces(2)))
    assert embedder.describe() == described
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_face_that_cannot_be_read_stops_with_its_own_error() -> None:
    """Faces are read in another thread, which must neither hang nor hide what happened."""

    class Broken(list[np.ndarray]):
        def __getitem__(self, number: object) -> np.ndarray:  # type: ignore[override]
            raise OSError("no such face")

    with pytest.raises(OSError, match="no such face"):
        FaceEmbedder(TrainedNetwork(trained("resnet27"), PREPROCESSING)).embed_aligned(Broken(faces(3)))


def test_a_network_without_a_translation_says_so() -> None:
    """So that a new kind of layer is noticed, not left out."""
    pytest.importorskip("openvino")
    network = trained("resnet27")
    network.trunk.append(nn.Sigmoid())
    with pytest.raises(TypeError, match="no translation of Sigmoid"):
        OpenVinoEngine(network)


def test_an_engine_that_is_made_by_a_thread_that_computes_alone_has_all_threads() -> None:
    """For it is there for all that come after."""
    pytest.importorskip("openvino")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1, initializer=compute_alone, initargs=(2,)) as pool:
            made = pool.submit(OpenVinoEngine, trained("resnet27")).result()
        assert made._compiled.get_property("INFERENCE_NUM_THREADS") == 2
    finally:
        torch.set_num_threads(before)


def test_threads_do_not_take_turns_at_a_translated_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """One may embed while another is not through."""
    pytest.importorskip("openvino")
    made, images = OpenVinoEngine(trained("resnet27")), torch.rand(2, 3, SIDE, SIDE)
    expected, both = made.forward(images), threading.Barrier(2)

    class Waiting:
        """The request of a thread, which waits for that of the other."""

        def __init__(self, request: object) -> None:
            self._request = request

        def infer(self, *arguments: object, **options: object) -> object:
            both.wait(20)
            return self._request.infer(*arguments, **options)  # type: ignore[attr-defined]

    make = made._request
    monkeypatch.setattr(made, "_request", lambda: Waiting(make()))
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(made.forward, [images, images]):
            torch.testing.assert_close(found, expected)


def test_on_a_gpu_embeddings_keep_whole_float32_whatever_other_threads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is the process's: here by an engine that takes the CPU for a GPU, while a detector sets it."""
    made, seen = TorchEngine(trained("resnet27")), list[bool]()
    monkeypatch.setattr(made, "_device", torch.device("cuda"))
    forward = made._network.forward

    def observed(images: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return forward(images)

    monkeypatch.setattr(made._network, "forward", observed)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with ThreadPoolExecutor(1) as pool:
        with exact_convolutions(torch.device("cuda")):
            coming = pool.submit(made.forward, torch.rand(1, 3, SIDE, SIDE))
            with pytest.raises(TimeoutError):
                coming.result(0.2)
        coming.result(60)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32
