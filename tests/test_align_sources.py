"""Protects alignment from tar shards and record files: it gives the very faces that the photos as files would give."""

import hashlib
import io
import struct
import tarfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stores import NamedFaces

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos

pytestmark = pytest.mark.usefixtures("quick_workers")


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


HOPPER = (files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg").read_bytes()
NOISE = _png(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
PHOTOS = {"3/1.jpg": HOPPER, "7/2.jpg": NOISE, "7/3.jpg": b"no photo", "7/4.jpg": b""}
"""By identity and number, in the order of both."""


def _tree(folder: Path) -> Path:
    for name, data in PHOTOS.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "tree"


def _shards(folder: Path) -> Path:
    (folder / "shards").mkdir()
    for number, names in enumerate((["3/1.jpg", "7/2.jpg"], ["7/3.jpg", "7/4.jpg"])):
        with tarfile.open(folder / "shards" / f"{number:04}.tar", "w") as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(PHOTOS[name])
                tar.addfile(info, io.BytesIO(PHOTOS[name]))
    return folder / "shards"


def _records(path: Path, images: Mapping[int, tuple[int, bytes]]) -> Path:
    """Write a RecordIO file as im2rec does: number, label and content of each image."""
    content, index = b"", ""
    for key, (label, data) in images.items():
        index += f"{key}\t{len(content)}\n"
        record = struct.pack("<IfQQ", 0, label, key, 0) + data
        content += struct.pack("<II", 0xCED7230A, len(record)) + record + bytes(-len(record) % 4)
    path.write_bytes(content)
    path.with_suffix(".idx").write_text(index)
    return path


def _record_file(folder: Path) -> Path:
    names = [(int(name[2:-4]), int(name[0]), data) for name, data in PHOTOS.items()]
    return _records(folder / "set.rec", {key: (label, data) for key, label, data in names})


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NamedFaces]:
    """The same photos, aligned from a tree, from shards and from a record file."""
    folder = tmp_path_factory.mktemp("sources")
    stores = {}
    for make in (_tree, _shards, _record_file):
        align_photos(make(folder), folder / make.__name__, AlignConfig(workers=1, runtime="cpu"))
        stores[make.__name__] = NamedFaces(folder / make.__name__)
    return stores


@pytest.mark.parametrize(
    ("source", "keys", "identities"),
    [
        ("_tree", list(PHOTOS), ["3", "7"]),
        ("_shards", ["0000/3/1.jpg", "0000/7/2.jpg", "0001/7/3.jpg", "0001/7/4.jpg"], ["3", "7"]),
        (
            "_record_file",
            [f"{label:07}/{key:09}.jpg" for label, key in ((3, 1), (7, 2), (7, 3), (7, 4))],
            ["0000003", "0000007"],
        ),
    ],
)
def test_faces_and_reasons_do_not_depend_on_where_the_photos_lie(
    stores: dict[str, NamedFaces], source: str, keys: list[str], identities: list[str]
) -> None:
    store = stores[source]
    records = list(store.records.values())
    assert [record.key for record in records] == keys
    assert [record.identity for record in records] == [identities[0], *[identities[1]] * 3]
    assert [record.status for record in records] == ["aligned", "failed", "failed", "failed"]
    assert [record.reason for record in records[1:3]] == ["no face found", "not an image"]
    assert str(records[3].reason).startswith("empty")
    assert [record.digest for record in records[:3]] == [
        hashlib.sha256(data).hexdigest() for data in (HOPPER, NOISE, b"no photo")
    ]
    np.testing.assert_array_equal(store.face(keys[0]), stores["_tree"].face("3/1.jpg"))
    assert records[0].landmarks == stores["_tree"].records["3/1.jpg"].landmarks
    landmarks = np.array(records[0].landmarks)
    assert abs(landmarks - [(222, 192), (310, 186), (270, 240), (234, 281), (306, 277)]).max() < 8  # read off by eye


def _bilinear(face: np.ndarray, side: int) -> np.ndarray:
    """Resize with pixel 0 kept in place, as the template's coordinates are multiplied; edges go on as they end."""
    places = np.arange(side) * len(face) / side
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, len(face) - 1)
    share = (places - low)[:, None]
    rows = face[low] * (1 - share[..., None]) + face[high] * share[..., None]
    return np.asarray(rows[:, low] * (1 - share) + rows[:, high] * share)


def test_aligned_faces_of_112_pixels_are_resized_and_not_looked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    faces = [rng.integers(0, 256, (112, 112, 3), dtype=np.uint8) for _ in range(3)]
    ready = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    images = [*map(_png, faces), _png(ready), _png(faces[0][:, :100])]
    source = _records(tmp_path / "train.rec", {key: (key // 2, data) for key, data in enumerate(images)})

    counts = align_photos(source, tmp_path / "store", AlignConfig(is_aligned=True, workers=1)).store.statuses

    assert (counts["aligned"], counts["failed"]) == (4, 1)
    store = NamedFaces(tmp_path / "store")
    for key, face in enumerate(faces):
        stored = store.face(f"{key // 2:07}/{key:09}.jpg")
        assert stored.shape == (128, 128, 3)
        assert abs(stored - _bilinear(face, 128)).max() <= 1
    np.testing.assert_array_equal(store.face("0000001/000000003.jpg"), ready)
    assert "100x112 pixels" in str(store.records["0000002/000000004.jpg"].reason)
