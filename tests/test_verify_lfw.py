"""The evaluation from photos to report on a small LFW-like set, with the real detector and an untrained network."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from stores import NamedFaces

from facegm.align.config import AlignConfig
from facegm.align.face import TEMPLATE
from facegm.align.pipeline import align_photos
from facegm.data.preprocessing import Preprocessing
from facegm.demo.photos import write_pairs, write_photos
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import save_embedder
from facegm.errors import FacegmError
from facegm.eval.sets.pairs import read_pairs
from facegm.eval.verify_lfw import verify_lfw
from facegm.models.face_network import FaceModelConfig, build_face_network

pytestmark = pytest.mark.usefixtures("quick_workers")

PEOPLE, PHOTOS = range(6), 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config, preprocessing = FaceModelConfig(width=0.1, embedding_dim=16), Preprocessing(face_size=64, crop_size=48)
    path = tmp_path_factory.mktemp("model") / "embedder.safetensors"
    save_embedder(
        path, build_face_network(config, 48), config, preprocessing, {"size": 128, "template": TEMPLATE.tolist()}
    )
    return path


@pytest.fixture(scope="module")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in a folder below, as LFW's archives unpack, with a grey one that holds no face."""
    folder = tmp_path_factory.mktemp("lfw")
    write_photos(folder / "photos", identities=PEOPLE, photos_per_identity=PHOTOS, seed=0)
    write_pairs(folder / "pairs.txt", identities=PEOPLE, photos_per_identity=PHOTOS, folds=3, pairs_per_class=6, seed=0)
    import cv2
    import numpy as np

    cv2.imwrite(
        str(folder / "photos" / read_pairs(folder / "pairs.txt").names_a[0]), np.full((250, 250, 3), 99, np.uint8)
    )
    return folder


@pytest.fixture(scope="module")
def report_folder(model: Path, lfw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    verify_lfw(model, lfw, folder, workers=1, note="synthetic identities")
    return folder


def test_report_scores_all_pairs_and_counts_the_fallback_crop(report_folder: Path, lfw: Path) -> None:
    pairs = read_pairs(lfw / "pairs.txt")
    numbers = json.loads((report_folder / "report.json").read_text())
    assert numbers["pairs"]["count"] == len(pairs) == 36
    assert pairs.names_a[0] in numbers["fallback_images"]
    assert numbers["note"] == "synthetic identities"
    assert numbers["baseline"]["accuracy"] > 0
    assert "ResNet-27" in (report_folder / "report.html").read_text()


def test_distances_are_those_of_the_embedder_on_the_photos(report_folder: Path, model: Path, lfw: Path) -> None:
    # The store between photo and report changes nothing: an app that embeds the photos gets the report's distances.
    pairs = read_pairs(lfw / "pairs.txt")
    embedder = FaceEmbedder.load(model)
    photos = [lfw / "photos" / name for name in (*pairs.names_a[1:4], *pairs.names_b[1:4])]
    by_photo = embedder.embed(photos, on_missing="center-crop")
    store = NamedFaces(report_folder / "aligned")
    faces = [store.face(f"photos/{name}") for name in (*pairs.names_a[1:4], *pairs.names_b[1:4])]
    by_store = embedder.embed_aligned(faces)
    by_store /= (by_store**2).sum(axis=1, keepdims=True) ** 0.5
    assert abs(by_photo - by_store).max() < 1e-5


def test_a_ready_store_gives_the_same_report(report_folder: Path, model: Path, lfw: Path, tmp_path: Path) -> None:
    # Aligned from the folder above the photos, so that its keys have that folder in front.
    align_photos(lfw, tmp_path / "store", AlignConfig(on_missing="center-crop", workers=1))
    verify_lfw(model, tmp_path / "store", tmp_path / "report", pairs_file=lfw / "pairs.txt")
    ready, fresh = (json.loads((f / "report.json").read_text()) for f in (tmp_path / "report", report_folder))
    assert ready["variants"] == fresh["variants"]
    assert ready["fallback_images"] == fresh["fallback_images"]


def test_photos_of_another_suffix_are_those_that_the_pairs_name(
    report_folder: Path, model: Path, lfw: Path, tmp_path: Path
) -> None:
    """Protects LFW as PNG files, which `pairs.txt` cannot tell from the usual ones."""
    for photo in (lfw / "photos").rglob("*.jpg"):
        converted = (tmp_path / "lfw" / photo.relative_to(lfw / "photos")).with_suffix(".PNG")
        converted.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as image:
            image.save(converted)
    verify_lfw(model, tmp_path / "lfw", tmp_path / "report", pairs_file=lfw / "pairs.txt", workers=1)
    png, jpeg = (json.loads((f / "report.json").read_text()) for f in (tmp_path / "report", report_folder))
    assert png["variants"] == jpeg["variants"]
    assert png["fallback_images"] == jpeg["fallback_images"]


def test_one_fold_is_refused_before_photos_are_aligned(model: Path, lfw: Path, tmp_path: Path) -> None:
    lines = (lfw / "pairs.txt").read_text().splitlines()
    (tmp_path / "View1.txt").write_text("\n".join(["6", *lines[1:13]]))
    with pytest.raises(FacegmError, match=r"View1\.txt has one fold"):
        verify_lfw(model, lfw / "photos", tmp_path / "report", pairs_file=tmp_path / "View1.txt", workers=1)
    assert not (tmp_path / "report").exists()


def test_missing_parts_are_named(model: Path, lfw: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(lfw / "photos", photos)
    with pytest.raises(FacegmError, match=r"no pairs\.txt here or in the folder above; give --pairs"):
        verify_lfw(model, photos, tmp_path / "report")
    shutil.copy(lfw / "pairs.txt", photos)
    lost = read_pairs(lfw / "pairs.txt").names_b[3]
    (photos / lost).unlink()
    with pytest.raises(FacegmError, match=rf"1 of the \d+ photos .* every pair must be scored.*{lost}"):
        verify_lfw(model, photos, tmp_path / "report", workers=1)
    shutil.copy(lfw / "photos" / lost, photos / lost)
    verify_lfw(model, photos, tmp_path / "report", workers=1)  # the missing photo is back, and is looked at again
    with pytest.raises(FacegmError, match="no such folder of photos"):
        verify_lfw(model, tmp_path / "nowhere", tmp_path / "report")
    with pytest.raises(FacegmError, match="no photo found"):
        verify_lfw(model, model.parent, tmp_path / "report", pairs_file=lfw / "pairs.txt")
