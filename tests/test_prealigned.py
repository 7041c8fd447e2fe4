"""Protects training without a store: faces that are aligned already give what a store made of them would give."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from stores import NamedFaces

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.align.prealigned import LARGEST_DISTANCE, PrealignedFaces, open_aligned_faces, require_aligned
from facegm.data.preprocessing import Preprocessing
from facegm.data.readers.source import find_photos
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.run import train_run
from facegm.faces.samples import LabelledFaces
from facegm.models.face_network import FaceModelConfig
from facegm.store.reader import FaceStore
from facegm.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("quick_workers")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Aligned faces of 112 and 128 pixels, of three identities."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(12):
        path = folder / f"person_{number % 3}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        side = 112 if number < 9 else 128
        cv2.imwrite(str(path), rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return folder


def test_they_are_the_faces_of_the_store_that_would_be_made_of_them(photos: Path, tmp_path: Path) -> None:
    align_photos(photos, tmp_path / "store", AlignConfig(is_aligned=True, workers=1))
    store, direct = NamedFaces(tmp_path / "store"), open_aligned_faces(photos, is_aligned=True)
    assert isinstance(direct, PrealignedFaces)
    assert list(direct.keys) == list(store.records)
    for row, key in enumerate(store.records):
        np.testing.assert_array_equal(direct.read_face(row), store.face(key))
    by_store, by_photos = (LabelledFaces(faces, Preprocessing()) for faces in (store, direct))
    assert by_store.fingerprint == by_photos.fingerprint
    assert by_store.alignment.items() >= by_photos.alignment.items()
    assert isinstance(open_aligned_faces(tmp_path / "store", is_aligned=False), FaceStore)


@pytest.mark.parametrize("residency", ["host", "stream"])
def test_a_run_on_them_exports_an_embedder_for_photos(photos: Path, tmp_path: Path, residency: str) -> None:
    data = FaceDataConfig(store=photos, aligned=True, residency=residency, workers=1)  # type: ignore[arg-type]
    config = FaceRunConfig(
        data=data,
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.1, embedding_dim=16),
        train=TrainConfig(epochs=1, batch_size=6),
    )
    train_run(config, tmp_path / "run")
    assert FaceEmbedder.load(tmp_path / "run").dim == 16


def test_a_photo_that_cannot_be_used_is_named(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    oblong, cut = (tmp_path / "photos/person_0" / name for name in ("a.png", "b.png"))
    Image.new("RGB", (100, 112)).save(oblong)
    cut.write_bytes((photos / "person_0/0.png").read_bytes()[:600])
    faces = open_aligned_faces(tmp_path / "photos", is_aligned=True)
    for path, message in {
        oblong: "100x112 pixels; a face that is aligned already is square",
        cut: "image file is truncated",
    }.items():
        key = f"person_0/{path.name}"
        with pytest.raises(FacegmError, match=f"photos: {key}: .*{message}.*with --aligned makes a store"):
            faces.read_face(list(faces.keys).index(key))


def test_a_source_without_a_square_face_is_refused(tmp_path: Path) -> None:
    """Protects from photos of another shape, which could only fail one by one."""
    for number in range(6):
        (tmp_path / "ann").mkdir(exist_ok=True)
        Image.new("RGB", (180, 140)).save(tmp_path / f"ann/{number}.png")
    with pytest.raises(FacegmError, match="none of the pictures that were looked at is a square face"):
        open_aligned_faces(tmp_path, is_aligned=True)


def test_neither_store_nor_photos(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match="no photo found"):
        open_aligned_faces(tmp_path, is_aligned=True)


def test_photos_are_not_taken_for_aligned_faces_unless_it_is_said(photos: Path) -> None:
    with pytest.raises(FacegmError, match=r"not a store of aligned faces; .* or say data\.aligned=true"):
        open_aligned_faces(photos, is_aligned=False)


# ------------------------------------------------------------------------------------------------- a look at them


@pytest.fixture
def raw(tmp_path: Path, shared_data: Path) -> dict[str, Path]:
    """40 square photos as LFW and CelebA have them, by set."""
    folder = tmp_path / "raw"
    for name, source in {"lfw": "lfw/lfw-deepfunneled", "celeba": "celeba291"}.items():
        for person in sorted(path for path in (shared_data / source).iterdir() if path.is_dir())[:40]:
            (folder / name / person.name).mkdir(parents=True)
            shutil.copy(min(person.iterdir()), folder / name / person.name)
    return {name: folder / name for name in ("lfw", "celeba")}


@pytest.mark.parametrize("name", ["lfw", "celeba"])
def test_raw_photos_said_to_be_aligned_are_refused_with_the_number(raw: dict[str, Path], name: str) -> None:
    """Protects from training to the end on photos that were never aligned, which are square as aligned faces are."""
    with pytest.raises(
        FacegmError, match=r"these are not aligned faces: .* lie 1\d\.\d pixels \(median\) from"
    ) as refusal:
        open_aligned_faces(raw[name], is_aligned=True)
    assert float(re.findall(r"lie (\S+) pixels", str(refusal.value))[0]) > 1.3 * LARGEST_DISTANCE
    with pytest.raises(FacegmError, match="these are not aligned faces"):
        align_photos(raw[name], raw[name].parent / "store", AlignConfig(is_aligned=True))
    assert not (raw[name].parent / "store").exists()


@pytest.mark.parametrize("name", ["lfw", "celeba"])
@pytest.mark.parametrize("side", [112, 128])
def test_aligned_faces_are_taken(raw: dict[str, Path], name: str, side: int, tmp_path: Path) -> None:
    align_photos(raw[name], tmp_path / "store", AlignConfig(workers=1))
    for path in [*(tmp_path / "store/faces").rglob("*.png")]:
        with Image.open(path) as face:
            face.resize((side, side), Image.Resampling.BOX).save(path.with_suffix(".jpg"))
        path.unlink()
    assert len(open_aligned_faces(tmp_path / "store/faces", is_aligned=True).keys) == 40


def test_what_shows_no_faces_is_doubted_aloud_and_taken(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    require_aligned(photos, find_photos(photos).photos)
    assert "finds a face in 0 of 12 pictures that were looked at; whether they are aligned" in caplog.text
