"""Training faces: labels found from the manifest, crops and mirror images against plain slicing, and their draws."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from stores import NamedFaces, face_path

from facegm.checkup.random_store import RandomStore
from facegm.data import residency
from facegm.data.draws import load
from facegm.data.preprocessing import Preprocessing, crop_and_mirror, network_input
from facegm.data.samples import Batch, DrawnSamples
from facegm.errors import FacegmError
from facegm.faces.samples import FaceDraws, LabelledFaces, augmented_input, plain_batch
from facegm.store.faces import TarWriter
from facegm.store.format import SETTINGS_FILE, StoreFormat, manifest_writer, to_table
from facegm.store.reader import FaceStore

SMALL = Preprocessing(face_size=64, crop_size=60)
DRAWN = DrawnSamples(
    np.array([9, 30]),
    FaceDraws(
        top=np.array([3, 4]),
        left=np.array([1, 0]),
        mirrored=np.array([True, False]),
        contrast=np.array([1.1, 0.9], np.float32),
        brightness=np.array([-0.05, 0.1], np.float32),
    ),
)


def assert_same(a: Batch, b: Batch) -> None:
    pairs = zip((a.images, a.labels, *a.draws), (b.images, b.labels, *b.draws), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_identities_are_counted_from_the_manifest(small_store: Path) -> None:
    faces = LabelledFaces(FaceStore(small_store), SMALL)
    assert len(faces) == 48  # the failed photo is no face
    assert faces.identities == tuple(f"person_{k}" for k in range(6))
    assert faces.labels.tolist() == [k for k in range(6) for _ in range(8)]


def test_excluded_identities_are_left_out(small_store: Path) -> None:
    faces = LabelledFaces(FaceStore(small_store), SMALL, exclude_identities=["person_0", "person_3"])
    assert faces.identities == ("person_1", "person_2", "person_4", "person_5")
    assert set(faces.labels.tolist()) == {0, 1, 2, 3}


def test_excluded_identities_that_a_store_lacks_are_named(small_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Protects casia.yaml on copies of CASIA-WebFace that lack some of the identities that it leaves out."""
    faces = LabelledFaces(FaceStore(small_store), SMALL, exclude_identities=["nobody", "person_0", "no one"])
    assert faces.identities == tuple(f"person_{k}" for k in range(1, 6))
    assert "of the 3 identities to exclude, 2 are not here: no one, nobody" in caplog.text


def test_one_identity_is_not_enough(small_store: Path) -> None:
    with pytest.raises(FacegmError, match="1 identity with aligned faces; training needs at least two"):
        LabelledFaces(FaceStore(small_store), SMALL, exclude_identities=[f"person_{k}" for k in range(5)])


def test_crop_and_mirror_equal_plain_slicing(small_store: Path) -> None:
    store = NamedFaces(small_store)
    batch = LabelledFaces(store, SMALL)[DRAWN]
    top, left, mirrored, *_ = batch.draws
    crops = crop_and_mirror(batch.images, top, left, mirrored, 60).numpy()
    keys = ("person_1/person_1_0002.jpg", "person_3/person_3_0007.jpg")
    first, second = (cv2.resize(store.face(key), (64, 64), interpolation=cv2.INTER_AREA) for key in keys)
    assert np.array_equal(crops[0], first[3:63, 1:61][:, ::-1])
    assert np.array_equal(crops[1], second[4:64, :60])
    assert batch.labels.tolist() == [1, 3]


def test_crops_are_drawn_over_their_whole_range_and_no_more() -> None:
    """Protects the augmentation: each place of the crop equally often, half of the faces mirrored, the whole jitter."""
    faces = LabelledFaces(RandomStore(2), SMALL, jitter=0.2)
    draws = faces.draw(np.zeros(20_000, np.int64), np.random.default_rng(0))
    for corner in (draws.top, draws.left):
        assert np.bincount(corner).tolist() == pytest.approx([4_000] * 5, rel=0.1)  # face_size - crop_size + 1 places
    assert abs(np.corrcoef(draws.top, draws.left)[0, 1]) < 0.05
    assert draws.mirrored.mean() == pytest.approx(0.5, abs=0.02)
    for changes, middle in ((draws.contrast, 1.0), (draws.brightness, 0.0)):
        assert changes.dtype == np.float32
        assert middle - 0.2 <= changes.min() < middle - 0.199
        assert middle + 0.199 < changes.max() <= middle + 0.2
        assert changes.std() == pytest.approx(0.2 / math.sqrt(3), rel=0.02)
    plain = LabelledFaces(RandomStore(2), Preprocessing(face_size=64, crop_size=60, mirror=False))
    assert not plain.draw(np.zeros(500, np.int64), np.random.default_rng(0)).mirrored.any()


def test_an_evaluated_face_is_its_middle_as_it_is(small_store: Path) -> None:
    """Protects evaluation from chance, and few faces from labels that leave gaps."""
    store = NamedFaces(small_store)
    batch = plain_batch(LabelledFaces(store, SMALL, jitter=0.2), np.array([47, 9, 8]))
    face = cv2.resize(store.face("person_5/person_5_0008.jpg"), (64, 64), interpolation=cv2.INTER_AREA)
    expected = (face[2:62, 2:62].transpose(2, 0, 1).astype(np.float32) - 127.5) / 128
    np.testing.assert_allclose(augmented_input(batch, 60)[0], expected, atol=1e-6)
    assert batch.labels.tolist() == [1, 0, 0]


def test_streamed_and_decoded_faces_are_the_same(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_BLOCK", 7)
    decoded, streamed = (LabelledFaces(FaceStore(small_store), SMALL) for _ in range(2))
    decoded.keep_decoded(torch.device("cpu"))
    assert decoded.is_in_memory
    assert not streamed.is_in_memory
    assert decoded.image_bytes == 64 * 64 * 3
    assert_same(decoded[DRAWN], streamed[DRAWN])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_packed_faces_are_the_same_data_set(small_store: Path, tmp_path: Path) -> None:
    single = LabelledFaces(FaceStore(small_store), SMALL)
    settings = json.loads((small_store / SETTINGS_FILE).read_text()) | {"container": "tar"}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
    writer, rows = TarWriter(tmp_path, StoreFormat(container="tar"), "00000", 0), []
    for row in FaceStore(small_store).table().to_pylist()[:48]:
        part, offset = writer.append(row["key"], face_path(small_store, row["key"]).read_bytes())
        rows.append(row | {"part": part, "offset": offset})
    writer.finish()
    with manifest_writer(tmp_path) as manifest:
        manifest.write_table(to_table(rows))

    packed = LabelledFaces(FaceStore(tmp_path), SMALL)
    assert (packed.fingerprint, packed.alignment) == (single.fingerprint, single.alignment)
    for batch in load(packed, [DRAWN] * 4, workers=2):
        assert_same(batch, single[DRAWN])


def test_network_input_is_rgb_scaled_and_channels_first() -> None:
    crops = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    crops[0, 1, 2] = torch.tensor([255, 127, 0], dtype=torch.uint8)
    images = network_input(crops)
    assert images[0, :, 1, 2].tolist() == [127.5 / 128, -0.5 / 128, -127.5 / 128]
    assert images.shape == (1, 3, 4, 4)


def test_contrast_and_brightness_act_around_the_mean() -> None:
    crops = torch.randint(0, 256, (2, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = network_input(crops)
    whole, unmirrored = torch.zeros(2, dtype=torch.int64), torch.tensor([False, False])
    contrast, brightness = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.1])
    batch = Batch(crops, torch.tensor([0, 1]), FaceDraws(whole, whole, unmirrored, contrast, brightness))
    changed = augmented_input(batch, 6)
    torch.testing.assert_close(changed[0], plain[0])
    assert changed[1].mean().item() == pytest.approx(plain[1].mean().item() + 0.1, abs=1e-6)
    assert changed[1].std().item() == pytest.approx(0.5 * plain[1].std().item(), rel=1e-5)


def test_center_crop_takes_the_middle() -> None:
    faces = np.arange(2 * 64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 64, 64, 3)
    assert np.array_equal(SMALL.center_crop(faces), faces[:, 2:62, 2:62])
    with pytest.raises(ValueError, match="crop_size: 65, must be from 1 to face_size"):
        Preprocessing(face_size=64, crop_size=65)
