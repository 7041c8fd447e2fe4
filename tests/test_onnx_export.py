"""A network exported to ONNX: its graph, its file, and what is refused."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from calibrations import CALIBRATION, LIKELIHOOD
from moved_networks import move_batch_normalisation
from plain_embeddings import embed_faces
from torch import nn

from facegm import FaceEmbedder
from facegm.align.face import TEMPLATE
from facegm.data.decoding import decode_photo
from facegm.data.preprocessing import Preprocessing
from facegm.embedding import export, onnx_graph
from facegm.embedding.export import export_embedder
from facegm.embedding.model_file import load_embedder, read_likelihood, save_embedder, weights_digest, write_calibration
from facegm.embedding.onnx_file import OnnxFile
from facegm.embedding.onnx_graph import onnx_model
from facegm.embedding.onnx_model import landmarks_in
from facegm.embedding.onnx_preprocessing import OnnxPreprocessing
from facegm.errors import FacegmError
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import FaceModelConfig, FaceModelName, build_face_network

SIDE, PREPROCESSING = 48, Preprocessing(face_size=64, crop_size=48)
ALIGNMENT = {"size": 128, "template": TEMPLATE.tolist(), "detector": "mtcnn"}


def trained(name: FaceModelName) -> tuple[FaceModelConfig, FaceNetwork]:
    """A small network whose statistics, scales, slopes and biases have left their start."""
    torch.manual_seed(0)
    config = FaceModelConfig(name=name, width=0.1, embedding_dim=24)
    network = build_face_network(config, SIDE).eval()
    move_batch_normalisation(network)
    for part in network.modules():
        if isinstance(part, nn.PReLU):
            nn.init.uniform_(part.weight, -0.2, 0.8)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return config, network


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)


def write_embedder(path: Path, name: FaceModelName = "mobilefacenet", *, mirror: bool = True) -> Path:
    config, network = trained(name)
    means = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    save_embedder(path, network, config, replace(PREPROCESSING, mirror=mirror), ALIGNMENT, means)
    return path


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated one."""
    path = write_embedder(tmp_path_factory.mktemp("model") / "embedder.safetensors")
    write_calibration(path, CALIBRATION, (LIKELIHOOD,))
    return path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks on few faces."""
    monkeypatch.setattr(export, "CHECKED", 40)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("name", ["resnet27", "iresnet50", "mobilefacenet"])
def test_the_graph_makes_of_pixels_what_the_network_does(name: FaceModelName, mirror: bool) -> None:
    """Against float64, by nothing but ONNX Runtime, as a program of another language would use the file."""
    _, network = trained(name)
    model = onnx_model(network, mirror=mirror)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    preprocessing, some = replace(PREPROCESSING, mirror=mirror), faces(33)
    pixels = preprocessing.middle_crops(some).transpose(0, 3, 1, 2).astype(np.float32)
    exact = embed_faces(network.double(), preprocessing, some)
    assert np.ptp(exact, axis=0).max() > 1e-3 * np.abs(exact).max()
    for size in (1, 32):
        parts = [session.run(None, {"faces": pixels[i : i + size]})[0] for i in range(0, 33, size)]
        assert np.linalg.norm(np.concatenate(parts) - exact, axis=1).max() < 1e-5 * np.linalg.norm(exact, axis=1).min()


def test_old_runtimes_and_insightface_can_read_the_graph() -> None:
    """Old ones refuse newer sets of operations; insightface takes a Sub and a Mul at the beginning for the scaling."""
    model = onnx_model(trained("mobilefacenet")[1], mirror=True)
    assert (model.ir_version, [(one.domain, one.version) for one in model.opset_import]) == (7, [("", 13)])
    assert [node.op_type for node in model.graph.node[:2]] == ["Sub", "Mul"]
    assert [node.name[:3] for node in model.graph.node[:2]] == ["Sub", "Mul"]
    shapes = [one.type.tensor_type.shape.dim for one in (model.graph.input[0], model.graph.output[0])]
    assert [[dim.dim_param or dim.dim_value for dim in shape] for shape in shapes] == [
        ["batch", 3, 48, 48],
        ["batch", 24],
    ]


def test_an_exported_file_needs_nothing_else(embedder: Path, tmp_path: Path, few: None) -> None:
    file = tmp_path / "model.onnx"
    agreement = export_embedder(embedder, file, faces=list(faces(8)), license_text="MIT")
    assert agreement.faces == 40
    assert agreement.cosine_distance < 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    original, exported = FaceEmbedder.load(embedder, device="cpu"), FaceEmbedder.load(file, device="cpu")
    some = list(faces(9))
    exact = original.embed_aligned(some)
    assert exported.embed_aligned(some) == pytest.approx(exact, rel=1e-4, abs=1e-4 * float(np.abs(exact).max()))
    assert exported.contract == original.contract
    assert weights_digest(file) == weights_digest(embedder) == original.contract.weights
    assert (exported.dim, exported.is_mirrored, exported.calibration) == (24, True, CALIBRATION)
    likelihood, before = read_likelihood(file), read_likelihood(embedder)
    assert likelihood is not None
    assert before is not None
    assert np.array_equal(likelihood.means, before.means)
    assert likelihood.thresholds == before.thresholds == (LIKELIHOOD,)
    assert exported.describe().startswith("MobileFaceNet as ONNX, ")
    description = OnnxFile.read(file).description
    assert description is not None
    assert description["license"] == "MIT"
    assert description["alignment"] == ALIGNMENT


def test_sides_are_embedded_apart_where_the_graph_does_not_add_them_up(tmp_path: Path, few: None) -> None:
    for mirror in (True, False):
        source = write_embedder(tmp_path / f"{mirror}.safetensors", mirror=mirror)
        export_embedder(source, tmp_path / "model.onnx")
        exported, some = FaceEmbedder.load(tmp_path / "model.onnx", device="cpu"), faces(3)
        if mirror:
            with pytest.raises(FacegmError, match=r"model\.onnx: the graph adds up a face and its mirror image"):
                exported.embed_sides(some)
        else:
            network, _, _ = load_embedder(source)
            for side, found in zip((some, some[:, :, ::-1]), exported.embed_sides(some), strict=True):
                exact = embed_faces(network, replace(PREPROCESSING, mirror=False), side)
                assert found == pytest.approx(exact, rel=1e-4, abs=1e-4 * float(np.abs(exact).max()))


def test_a_wrong_export_is_not_left_behind(
    embedder: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a graph that scales pixels a little differently, and of one that makes NaN, an older file stays as it was."""
    file = tmp_path / "model.onnx"
    file.write_bytes(b"an older one")
    for wrong in (100.0, float("nan")):
        monkeypatch.setattr(onnx_graph, "PIXEL_SCALE", wrong)
        with pytest.raises(
            FacegmError, match=r"model\.onnx: (not written, for its embeddings differ|makes embeddings)"
        ):
            export_embedder(embedder, file)
        assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
        assert file.read_bytes() == b"an older one"


def test_five_hundred_real_faces_are_embedded_alike(embedder: Path, shared_data: Path, tmp_path: Path) -> None:
    """By torch, and by ONNX Runtime one and 32 at a time: cosine distances within 0.0001."""
    photos = sorted((shared_data / "celeba291").rglob("*.jpg"))[::12][:500]
    some = [cv2.resize(decode_photo(photo.read_bytes()), (128, 128)) for photo in photos]
    agreement = export_embedder(embedder, tmp_path / "model.onnx", faces=some)
    assert agreement.faces == len(photos) == 500
    network, preprocessing, _ = load_embedder(embedder)
    exact = embed_faces(network.double(), preprocessing, np.stack(some))
    found = FaceEmbedder.load(tmp_path / "model.onnx", device="cpu").embed_aligned(some).astype(np.float64)
    cosines = (found * exact).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert max(1 - cosines.min(), abs(agreement.cosine_distance)) < 1e-4
    centred = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.median(1 - centred @ centred.T) > 1e-3, "faces differ"


def test_drawn_faces_are_the_same_in_each_call() -> None:
    drawn = export.drawn_faces(3)
    assert [face.shape for face in drawn] == [(128, 128, 3)] * 3
    assert all(np.array_equal(a, b) for a, b in zip(drawn, export.drawn_faces(3), strict=True))
    assert np.ptp(np.stack(drawn)) > 100


@pytest.mark.parametrize(
    "seen",
    [Preprocessing(), Preprocessing(face_size=64, crop_size=60), OnnxPreprocessing(), OnnxPreprocessing(size=160)],
)
def test_landmarks_lie_where_the_description_says(seen: Preprocessing | OnnxPreprocessing) -> None:
    """So that other programs can warp a photo straight to the input: a spot on each landmark of an aligned face."""
    rows, columns = np.mgrid[:128, :128]
    for (x, y), (u, v) in zip(TEMPLATE, landmarks_in(seen), strict=True):
        spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.0**2)) * 255
        [crop] = seen.middle_crops([np.repeat(spot[:, :, None], 3, axis=2).round().astype(np.uint8)])
        weights = crop[:, :, 0].astype(np.float64)
        found_v, found_u = (np.mgrid[: crop.shape[0], : crop.shape[1]] * weights).sum(axis=(1, 2)) / weights.sum()
        assert (found_u, found_v) == pytest.approx((u, v), abs=0.03)


def test_calibrating_an_onnx_file_changes_nothing_else(embedder: Path, tmp_path: Path, few: None) -> None:
    file = tmp_path / "model.onnx"
    export_embedder(embedder, file)
    noted = onnx.load(file)
    noted.metadata_props.add(key="somebody", value="else")
    file.write_bytes(noted.SerializeToString())
    before = OnnxFile.read(file)
    write_calibration(file, replace(CALIBRATION, measured_on="others"), (replace(LIKELIHOOD, faces=7),))
    after = OnnxFile.read(file)
    assert FaceEmbedder.load(file, device="cpu").calibration == replace(CALIBRATION, measured_on="others")
    likelihood = read_likelihood(file)
    assert likelihood is not None
    assert [one.faces for one in likelihood.thresholds] == [7]
    assert after.digest == before.digest
    assert onnx.load(file).graph == noted.graph
    assert {entry.key: entry.value for entry in after.model.metadata_props}["somebody"] == "else"
    described = [(one.description or {}) for one in (before, after)]
    assert {*described[0]} == {*described[1]}
    for key in {*described[0]} - {"calibration", "likelihood"}:
        assert described[0][key] == described[1][key]


def test_a_description_of_another_graph_is_refused(embedder: Path, tmp_path: Path, few: None) -> None:
    """Protects galleries: who has changed the weights would else embed under the contract of the old ones."""
    file = tmp_path / "model.onnx"
    export_embedder(embedder, file)
    model = onnx.load(file)
    weights = bytearray(model.graph.initializer[-1].raw_data)
    weights[0] ^= 1
    model.graph.initializer[-1].raw_data = bytes(weights)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(FacegmError, match=r"model\.onnx: .*the graph is damaged, or another than was described"):
        FaceEmbedder.load(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("contract", {"weights": "x"}),
        ("preprocessing", {"face_size": "big"}),
        ("alignment", {"size": 112}),
        ("architecture", "Perceptron"),
        ("calibration", 3),
        ("likelihood", {"means": "%", "shape": [1]}),
    ],
)
def test_an_unusable_description_is_named(key: str, value: object, embedder: Path, tmp_path: Path, few: None) -> None:
    file = tmp_path / "model.onnx"
    export_embedder(embedder, file)
    model = OnnxFile.read(file)
    model.described((model.description or {}) | {key: value}).write(file)
    with pytest.raises(FacegmError, match=r"model\.onnx: this facegm cannot use "):
        FaceEmbedder.load(file)


def test_damaged_files_are_named_and_never_believed(embedder: Path, tmp_path: Path, few: None) -> None:
    """Cut short anywhere, or with a byte changed: one error, or what cannot be seen, such as another licence."""
    file, damaged = tmp_path / "model.onnx", tmp_path / "damaged.onnx"
    export_embedder(embedder, file)
    data, generator = file.read_bytes(), np.random.default_rng(0)
    original = OnnxFile.read(file).digest
    for length in [0, 1, 2, 100, len(data) // 2, len(data) - 1, *generator.integers(0, len(data), 10)]:
        damaged.write_bytes(data[:length])
        with pytest.raises(FacegmError, match=r"damaged\.onnx: "):
            FaceEmbedder.load(damaged)
    for position in generator.integers(0, len(data), 60):
        changed = bytearray(data)
        changed[position] ^= 1 << int(generator.integers(8))
        damaged.write_bytes(bytes(changed))
        with suppress(FacegmError):
            assert FaceEmbedder.load(damaged, device="cpu").dim == 24
            assert OnnxFile.read(damaged).digest == original
    for foreign in (b"PK\x03\x04", b"\x89PNG\r\n", json.dumps({"graph": 1}).encode()):
        damaged.write_bytes(foreign * 9)
        with pytest.raises(FacegmError, match=r"damaged\.onnx: damaged or not an ONNX model"):
            FaceEmbedder.load(damaged)


def test_without_the_extra_the_way_to_it_is_named(
    embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegm.embedding.onnx_file.find_spec", lambda _: None)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FacegmError, match=r'pip install "facegm\[onnx\]"'):
        FaceEmbedder.load(tmp_path / "model.onnx")
    with pytest.raises(FacegmError, match=r'pip install "facegm\[onnx\]"'):
        export_embedder(embedder, tmp_path / "other.onnx")
