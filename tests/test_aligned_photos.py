"""Protects training without a store: faces that are aligned already give what a store made of them would give."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from stores import NamedFaces

from facegm.align.aligned_photos import AlignedPhotos, open_aligned_faces
from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.run import train_run
from facegm.faces.samples import LabelledFaces
from facegm.models.face_resnet import FaceResNetConfig
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
    store, direct = NamedFaces(tmp_path / "store"), open_aligned_faces(photos)
    assert isinstance(direct, AlignedPhotos)
    assert list(direct.records) == list(store.records)
    for key in store.records:
        np.testing.assert_array_equal(direct.face(key), store.face(key))
    by_store, by_photos = (LabelledFaces(faces, Preprocessing()) for faces in (store, direct))
    assert by_store.fingerprint == by_photos.fingerprint
    assert by_store.alignment.items() >= by_photos.alignment.items()
    assert isinstance(open_aligned_faces(tmp_path / "store"), FaceStore)


@pytest.mark.parametrize("residency", ["host", "stream"])
def test_a_run_on_them_exports_an_embedder_for_photos(photos: Path, tmp_path: Path, residency: str) -> None:
    data = FaceDataConfig(store=photos, residency=residency, workers=1)  # type: ignore[arg-type]
    config = FaceRunConfig(
        data=data,
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceResNetConfig(width=0.1, embedding_dim=16),
        train=TrainConfig(epochs=1, batch_size=6),
    )
    train_run(config, tmp_path / "run")
    assert FaceEmbedder.load(tmp_path / "run").dim == 16


@pytest.mark.parametrize(
    ("pixels", "cut", "message"),
    [
        ((112, 100, 3), None, "a/1.png: 100x112 pixels; a face that is aligned already is square"),
        ((9, 9, 3), 60, "a/1"),
    ],
)
def test_a_photo_that_cannot_be_used_is_named(
    pixels: tuple[int, int, int], cut: int | None, message: str, tmp_path: Path
) -> None:
    done, data = cv2.imencode(".png", np.zeros(pixels, np.uint8))
    assert done
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(data.tobytes()[:cut])
    with pytest.raises(FacegmError, match=f"{tmp_path}: {message}.*with --aligned makes a store"):
        open_aligned_faces(tmp_path).face("a/1.png")


def test_neither_store_nor_photos(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match=r"not a store of aligned faces; make one by `facegm align .*no photo found"):
        open_aligned_faces(tmp_path)
