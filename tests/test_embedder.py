"""The exported embedder: what travels in the file, photos in and embeddings out, and what is refused."""

import json
from pathlib import Path

import cv2
import matplotlib.cbook
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from facegm import FaceEmbedder
from facegm.align.detector import FaceDetector
from facegm.align.face import TEMPLATE, align_face
from facegm.data.decoding import read_photo
from facegm.data.preprocessing import Preprocessing, network_input
from facegm.embedding.model_file import load_embedder, save_embedder
from facegm.errors import FacegmError
from facegm.models.face_network import FaceModelConfig, build_face_network

ALIGNMENT = {"size": 128, "template": TEMPLATE.tolist(), "detector": "facenet-pytorch MTCNN"}
CONFIG = FaceModelConfig(width=0.1, embedding_dim=24)
PREPROCESSING = Preprocessing(face_size=64, crop_size=48)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "embedder.safetensors"
    save_embedder(path, build_face_network(CONFIG, 48), CONFIG, PREPROCESSING, ALIGNMENT)
    return path


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "grace.jpg"
    photo = cv2.imread(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    assert photo is not None
    cv2.imwrite(str(path), photo[:400])
    return path


@pytest.fixture(scope="module")
def embedder(model_file: Path) -> FaceEmbedder:
    return FaceEmbedder.load(model_file)


def random_faces(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return list(rng.integers(0, 256, (count, 128, 128, 3), dtype=np.uint8))


def test_what_the_network_was_trained_with_travels_in_the_file(model_file: Path) -> None:
    with safe_open(model_file, framework="pt") as file:
        description = json.loads(file.metadata()["facegm"])
    assert description["preprocessing"] == {"face_size": 64, "crop_size": 48, "mirror": True}
    assert description["pixels"] == {"color": "RGB", "center": 127.5, "scale": 128.0}
    assert description["alignment"]["template"] == TEMPLATE.tolist()
    assert description["model"] == {"name": "resnet27", "width": 0.1, "embedding_dim": 24, "dropout": 0.0}
    network, preprocessing, alignment = load_embedder(model_file)
    assert (preprocessing, alignment) == (PREPROCESSING, ALIGNMENT)
    assert not network.training


def test_embedding_is_that_of_the_face_plus_its_mirror_image(embedder: FaceEmbedder, model_file: Path) -> None:
    faces = random_faces(3)
    network, _, _ = load_embedder(model_file)
    small = np.stack([cv2.resize(face, (64, 64), interpolation=cv2.INTER_AREA)[8:56, 8:56] for face in faces])
    with torch.no_grad():
        expected = sum(network(network_input(torch.from_numpy(view.copy()))) for view in (small, small[:, :, ::-1]))
    assert isinstance(expected, torch.Tensor)
    np.testing.assert_allclose(embedder.embed_aligned(faces), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_batches_equal_single_faces(embedder: FaceEmbedder) -> None:
    faces = random_faces(70)  # more than one batch
    alone = np.concatenate([embedder.embed_aligned([face]) for face in faces])
    np.testing.assert_allclose(embedder.embed_aligned(faces), alone, rtol=1e-4, atol=1e-5)
    assert embedder.embed_aligned([]).shape == (0, 24)


def test_photo_in_embedding_out(embedder: FaceEmbedder, portrait: Path) -> None:
    photo = read_photo(portrait)
    by_path, by_array = embedder.embed([portrait, photo], color="rgb")
    np.testing.assert_allclose(by_path, by_array, atol=1e-6)
    assert np.linalg.norm(by_path) == pytest.approx(1, abs=1e-6)
    aligned = align_face(photo, FaceDetector().detect(photo), crop_when_missing=False).image
    assert aligned is not None
    raw = embedder.embed_aligned([aligned])[0]
    np.testing.assert_allclose(by_path, raw / np.linalg.norm(raw), atol=1e-6)


def test_verify_compares_normalised_embeddings(embedder: FaceEmbedder, portrait: Path) -> None:
    darker = (read_photo(portrait) * 0.5).astype(np.uint8)
    a, b = embedder.embed([portrait, darker], color="rgb")
    comparison = embedder.verify(portrait, darker, color="rgb")
    assert comparison.distance == pytest.approx(float(np.sqrt(2 - 2 * a @ b)), abs=1e-3)
    assert (comparison.same, comparison.threshold, comparison.probability) == (None, None, None)
    assert embedder.verify(portrait, portrait, threshold=0.1).same is True
    assert embedder.verify(portrait, darker, color="rgb", threshold=comparison.distance).same is False


def test_photos_without_a_face_are_named_or_cropped(embedder: FaceEmbedder, portrait: Path, tmp_path: Path) -> None:
    blank = np.full((80, 80, 3), 128, np.uint8)
    (tmp_path / "text.jpg").write_text("no photo")
    with pytest.raises(FacegmError) as caught:
        embedder.embed([portrait, blank, tmp_path / "text.jpg", blank.astype(np.float32)], color="rgb")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("photo 1: no face found")
    assert "text.jpg: not an image" in lines[1]
    assert "photo 3: array of float32" in lines[2]
    assert embedder.embed([blank], color="rgb", on_missing="center-crop").shape == (1, 24)


def test_a_single_photo_is_not_a_list(embedder: FaceEmbedder, portrait: Path) -> None:
    for photo in (str(portrait), portrait, np.zeros((9, 9, 3), np.uint8)):
        with pytest.raises(TypeError, match="put a single one in brackets"):
            embedder.embed(photo)  # type: ignore[arg-type]


def test_unusable_model_files_are_refused(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match="no such model file"):
        FaceEmbedder.load(tmp_path / "missing.safetensors")
    with pytest.raises(FacegmError, match="is it a run folder"):
        FaceEmbedder.load(tmp_path)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model_file.read_bytes()[:-100])
    with pytest.raises(FacegmError, match="damaged or not a safetensors file"):
        FaceEmbedder.load(damaged)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(FacegmError, match="not a facegm embedder"):
        FaceEmbedder.load(foreign)


def test_other_weights_or_another_template_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_embedder(
        path, build_face_network(CONFIG, 60), CONFIG, PREPROCESSING, ALIGNMENT
    )  # saved for another input size
    load_embedder(path)  # 48 and 60 pixels happen to share their shapes
    save_embedder(path, build_face_network(CONFIG, 120), CONFIG, PREPROCESSING, ALIGNMENT)
    with pytest.raises(FacegmError, match=r"(?s)cannot use the embedder .*size mismatch"):
        load_embedder(path)
    network = build_face_network(CONFIG, 48)
    save_embedder(path, network, CONFIG, PREPROCESSING, ALIGNMENT | {"template": (TEMPLATE + 8).tolist()})
    with pytest.raises(FacegmError, match="another alignment template"):
        FaceEmbedder.load(path)
    torch.nn.init.constant_(network.embedding.bias, float("nan"))
    save_embedder(path, network, CONFIG, PREPROCESSING, ALIGNMENT)
    with pytest.raises(FacegmError, match=r"not finite in embedding\.bias"):
        load_embedder(path)
