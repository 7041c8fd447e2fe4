"""Another program's model through what applications do: photos, a gallery, embeddings in a file, a server."""

import json
from pathlib import Path

import numpy as np
import pytest
from embedders import save_small_embedder
from onnx_models import write_outside_model
from serving import LocalClient

from facegm import FaceEmbedder
from facegm.cli import main
from facegm.demo.photos import write_photos
from facegm.embedding import export
from facegm.embedding.export import describe_onnx_model, export_embedder
from facegm.errors import FacegmError
from facegm.gallery.gallery import Gallery
from facegm.serving.app import create_app
from facegm.serving.limits import Limits
from facegm.serving.service import FaceService
from facegm.store.reader import FaceStore

pytestmark = pytest.mark.usefixtures("quick_workers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_outside_model(folder / "outside.onnx")
    describe_onnx_model(folder / "outside.onnx", "insightface", folder / "described.onnx")
    return folder / "described.onnx"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos each of two people."""
    folder = tmp_path_factory.mktemp("people")
    write_photos(folder, identities=range(2), photos_per_identity=2, seed=0)
    return folder


def test_a_photo_of_a_known_person_is_found_in_a_gallery(
    model: Path, people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gallery = ["--gallery", str(tmp_path / "people.gallery"), "--model", str(model)]
    assert main(["enroll", str(people), *gallery, "--no-strict"]) == 0
    person = sorted(people.iterdir())[1]
    capfd.readouterr()
    assert main(["search", str(sorted(person.iterdir())[0]), *gallery, "--json"]) == 0
    assert person.name in capfd.readouterr().out
    a, b = sorted(person.iterdir())
    assert (
        main(["match", str(a), str(b), "--model", str(model), "--output", str(tmp_path / "match.html"), "--json"]) == 0
    )
    said = json.loads(capfd.readouterr().out)
    embeddings = FaceEmbedder.load(model, device="cpu").embed([a, b])
    assert said["distance"] == pytest.approx(np.linalg.norm(embeddings[0] - embeddings[1]), abs=1e-5)


def test_a_store_is_embedded_into_a_file(model: Path, small_store: Path, tmp_path: Path) -> None:
    assert main(["embed", str(small_store), "--model", str(model), "--output", str(tmp_path / "faces.npz")]) == 0
    with np.load(tmp_path / "faces.npz") as found:
        embeddings = found["embeddings"]
    store = FaceStore(small_store)
    expected = FaceEmbedder.load(model, device="cpu").embed_aligned([store.read_face(row) for row in range(48)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(embeddings, expected, atol=1e-5)


def test_galleries_are_kept_apart_by_model_and_shared_with_an_export(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exported network is the same model; another program's is not."""
    monkeypatch.setattr(export, "CHECKED", 40)
    source = save_small_embedder(tmp_path / "embedder.safetensors")
    export_embedder(source, tmp_path / "model.onnx")
    original, exported = (
        FaceEmbedder.load(source, device="cpu"),
        FaceEmbedder.load(tmp_path / "model.onnx", device="cpu"),
    )
    faces = list(np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8))
    with Gallery.create(tmp_path / "people.gallery", original.contract) as gallery:
        embeddings = original.embed_aligned(faces)
        gallery.enroll("Ann", embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), strict=False)
    with Gallery.open(tmp_path / "people.gallery", exported.contract) as gallery:
        queries = exported.embed_aligned(faces)
        matches = gallery.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), k=1)
        assert all(match.distance < 1e-3 for [match] in matches)
    with pytest.raises(FacegmError, match="another model's embeddings"):
        Gallery.open(tmp_path / "people.gallery", FaceEmbedder.load(model, device="cpu").contract)


def test_a_server_takes_it(model: Path, people: Path) -> None:
    embedder = FaceEmbedder.load(model, device="cpu")
    a, b = (sorted(person.iterdir())[0] for person in sorted(people.iterdir()))
    with LocalClient(create_app(FaceService(embedder, None, Limits(), None), key=None)) as client:
        assert client.get("/v1/model").json()["contract"] == embedder.contract.to_json()
        photos = {"photo_a": a.read_bytes(), "photo_b": b.read_bytes()}
        said = client.post("/v1/verify", files=photos).json()
    embeddings = embedder.embed([a, b])
    assert said["distance"] == pytest.approx(np.linalg.norm(embeddings[0] - embeddings[1]), abs=1e-5)
    assert said["same"] is None
