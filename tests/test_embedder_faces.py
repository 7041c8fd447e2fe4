"""Protects the embedder's faces: all of a photo, in order, with the numbers of each; and what one may ask of them."""

import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embedders import DIM, PREPROCESSING, blank, group, portrait, save_small_embedder, small_embedder, small_network
from PIL import Image
from torch import nn

import facegm
from facegm import Face, FaceEmbedder
from facegm.align.detector import FaceDetector
from facegm.align.face import TEMPLATE, resize_aligned, similarity_transform, warp_face
from facegm.align.finder import BATCH
from facegm.embedding import device
from facegm.embedding.comparison import FacePolicy
from facegm.embedding.photos import PhotoLike
from facegm.embedding.reasons import Reason, RefusedPhotoError
from facegm.embedding.trained_network import TrainedNetwork
from facegm.errors import FacegmError, UsageError


@pytest.fixture(scope="module")
def embedder() -> FaceEmbedder:
    return small_embedder()


@pytest.fixture(scope="module")
def faces(embedder: FaceEmbedder) -> list[Face]:
    return embedder.find(group(), color="rgb")


# ------------------------------------------------------------------------------------------------- all faces


def test_all_faces_of_a_photo_are_found_the_subject_first(faces: list[Face]) -> None:
    centres = [float(face.box[[0, 2]].mean()) for face in faces]
    assert [sum(centre > border for border in (245, 490)) for centre in centres] == [1, 0, 2]


def test_a_faces_numbers_follow_from_the_photo(embedder: FaceEmbedder, faces: list[Face]) -> None:
    """Against the detector alone, and the definitions of the numbers in float64."""
    found = FaceDetector().detect(group())
    for face in faces:
        [row] = np.flatnonzero(np.abs(found.boxes - face.box).max(axis=1) < 1e-6)
        np.testing.assert_allclose(face.landmarks, found.landmarks[row], rtol=0, atol=5.1e-4)
        assert face.probability == pytest.approx(found.probabilities[row], abs=1e-7)
        np.testing.assert_array_equal(face.chip, warp_face(group(), face.landmarks))
        transform = similarity_transform(face.landmarks, TEMPLATE)
        distances = [
            np.hypot(*(transform @ [*mark, 1] - aim)) for mark, aim in zip(face.landmarks, TEMPLATE, strict=True)
        ]
        assert face.quality.residual == pytest.approx(np.sqrt(np.mean(np.square(distances))))
        luminance = face.chip @ np.array([0.299, 0.587, 0.114])
        assert face.quality.contrast == pytest.approx(luminance.std(), abs=0.1)
        raw = embedder.embed_aligned([face.chip])[0].astype(np.float64)
        assert face.norm == pytest.approx(np.linalg.norm(raw), rel=1e-4)
        assert face.embedding is not None
        np.testing.assert_allclose(face.embedding, raw / np.linalg.norm(raw), atol=1e-5)


def test_no_face_is_an_empty_list(embedder: FaceEmbedder) -> None:
    assert embedder.find(blank(), color="rgb") == []
    [found] = embedder.find_batch([blank()], color="rgb")
    assert (found.faces, found.reason, found.size) == ((), None, (90, 80))


def test_a_face_as_json(faces: list[Face]) -> None:
    described = json.loads(json.dumps(faces[0].to_json()))
    assert set(described) == {"box", "landmarks", "probability", "quality", "norm", "likelihood", "is_abnormal"}
    np.testing.assert_allclose(described["landmarks"], faces[0].landmarks, atol=1e-3)
    assert set(described["quality"]) == {"residual", "profile", "sharpness", "contrast"}
    with_embedding = json.loads(json.dumps(faces[0].to_json(with_embedding=True)))
    np.testing.assert_array_equal(np.array(with_embedding.pop("embedding"), np.float32), faces[0].embedding)
    assert with_embedding == described


def test_the_public_names_are_there() -> None:
    assert facegm.Face is Face
    assert "Face" in facegm.__all__


# ------------------------------------------------------------------------------------------------- many photos


def test_a_bad_photo_loses_nothing(embedder: FaceEmbedder, tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    given: list[Any] = [portrait(), tmp_path / "torn.jpg", blank(), 3.5, group(), tmp_path / "missing.jpg"]
    found = [*embedder.find_batch(given, color="rgb")]
    assert [len(photo.faces) for photo in found] == [1, 0, 0, 0, 3, 0]
    assert [photo.reason for photo in found] == [None, "unreadable", None, "unreadable", None, "unreadable"]
    assert [photo.name for photo in found][1::2] == [str(given[1]), "photo 3", str(given[5])]
    assert [photo.size for photo in found] == [(160, 160), None, (90, 80), None, (640, 240), None]
    assert found[1].message == "not an image"
    [alone] = embedder.find(portrait(), color="rgb")
    np.testing.assert_allclose(found[0].faces[0].embedding, alone.embedding, atol=1e-5)  # type: ignore[arg-type]


def test_of_a_photo_with_too_many_faces_none_is_embedded(
    embedder: FaceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    embed = FaceEmbedder.embed_aligned

    def counted(embedder: FaceEmbedder, chips: Sequence[np.ndarray]) -> np.ndarray:
        embedded.append(len(chips))
        return embed(embedder, chips)

    monkeypatch.setattr(FaceEmbedder, "embed_aligned", counted)
    found = [*embedder.find_batch([group(), portrait()], color="rgb", max_faces=2)]
    assert [(len(photo.faces), photo.reason) for photo in found] == [(0, "too-many-faces"), (1, None)]
    assert (found[0].size, sum(embedded)) == ((640, 240), 1)
    assert [len(photo.faces) for photo in embedder.find_batch([group()], color="rgb", max_faces=3)] == [3]


@pytest.mark.parametrize("number", [0, np.nan, np.inf])
def test_a_face_whose_embedding_says_nothing_loses_its_photo_alone(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of dark photos; where it is so of all, the model is to blame."""
    embed = FaceEmbedder.embed_aligned

    def odd(embedder: FaceEmbedder, chips: Sequence[np.ndarray]) -> np.ndarray:
        embeddings = embed(embedder, chips)
        embeddings[[chip.mean() < 70 for chip in chips]] = number
        return embeddings

    embedder, dark = small_embedder(), portrait() // 3
    given = [portrait(), dark, blank(), group()]
    expected = [*embedder.find_batch([portrait(), group()], color="rgb")]
    monkeypatch.setattr(FaceEmbedder, "embed_aligned", odd)
    found = [*embedder.find_batch(given, color="rgb")]
    assert [len(photo.faces) for photo in found] == [1, 0, 0, 3]
    assert [photo.reason for photo in found] == [None, Reason.UNUSABLE_EMBEDDING, None, None]
    assert "says nothing about identity" in found[1].message
    for face, other in zip(found[0].faces + found[3].faces, expected[0].faces + expected[1].faces, strict=True):
        np.testing.assert_array_equal(face.chip, other.chip)
        np.testing.assert_allclose(face.embedding, other.embedding, atol=1e-5)  # type: ignore[arg-type]
    embeddings, is_found = embedder.embed(given, color="rgb", on_missing="skip")
    assert is_found.tolist() == [True, False, False, True]
    subjects = [found[row].faces[0].embedding for row in (0, 3)]
    np.testing.assert_allclose(embeddings, subjects, atol=1e-5)  # type: ignore[arg-type]
    with pytest.raises(FacegmError, match=r"^photo 1: .*says nothing about identity; take another photo$"):
        embedder.embed([portrait(), dark], color="rgb")
    [alone] = embedder.find_batch([dark], color="rgb")
    assert alone.reason is Reason.UNUSABLE_EMBEDDING
    with pytest.raises(FacegmError, match="zero, NaN or infinity in 2 of 2"):
        [*embedder.find_batch([dark, dark], color="rgb")]


def test_photos_stream_through_in_bounded_memory(embedder: FaceEmbedder) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        for size in itertools.count(40):
            taken += 1
            yield np.full((30, size % 60 + 20, 3), 128, np.uint8)

    found = embedder.find_batch(endless(), color="rgb")
    sizes = [photo.size for photo in itertools.islice(found, 2 * BATCH + 1)]
    assert sizes == [(size % 60 + 20, 30) for size in range(40, 40 + len(sizes))]  # in their order
    # Three batches are looked at, others by the threads beside, and one is decoded ahead.
    assert taken <= (3 + torch.get_num_threads() + 1) * BATCH
    found.close()  # type: ignore[attr-defined]


def test_many_photos_are_embedded_as_each_alone(embedder: FaceEmbedder) -> None:
    sizes = (100, 160, 130, 200)
    together = embedder.embed([portrait(size, size) for size in sizes], color="rgb")
    for size, embedding in zip(sizes, together, strict=True):
        np.testing.assert_allclose(embedder.embed([portrait(size, size)], color="rgb")[0], embedding, atol=1e-5)
    assert embedder.embed([]).shape == (0, DIM)


def test_batches_side_by_side_find_what_one_after_the_other_does(
    embedder: FaceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = [portrait(60 + 7 * (number % 5), 70) if number % 24 == 0 else blank() for number in range(100)]
    given[50] = b"torn"
    expected = [*embedder.find_batch(given, color="rgb")]
    embeddings, is_found = embedder.embed(given, color="rgb", on_missing="skip")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for a, b in zip(embedder.find_batch(given, color="rgb"), expected, strict=True):
        assert (a.name, a.size, a.reason, len(a.faces)) == (b.name, b.size, b.reason, len(b.faces))
        for face, other in zip(a.faces, b.faces, strict=True):
            np.testing.assert_array_equal(face.chip, other.chip)
    together, is_found_together = embedder.embed(given, color="rgb", on_missing="skip")
    np.testing.assert_allclose(together, embeddings, atol=1e-6)
    assert is_found_together.tolist() == is_found.tolist()
    assert is_found.sum() == 5


def test_opencvs_arrays_give_what_their_colours_give(embedder: FaceEmbedder, tmp_path: Path) -> None:
    path = tmp_path / "portrait.png"
    Image.fromarray(portrait()).save(path)
    by_file, by_rgb = embedder.embed([path])[0], embedder.embed([portrait()], color="rgb")[0]
    by_bgr = embedder.embed([portrait()[:, :, ::-1]], color="bgr")[0]
    np.testing.assert_allclose(by_bgr, by_file, atol=1e-6)
    np.testing.assert_allclose(by_rgb, by_file, atol=1e-6)
    with pytest.raises(FacegmError, match=r"photo 0: .*give color='rgb', or color='bgr'"):
        embedder.embed([portrait()])


def test_pictures_bytes_and_files_are_embedded_and_others_named(embedder: FaceEmbedder) -> None:
    picture = Image.fromarray(portrait())
    with io.BytesIO() as file:
        picture.save(file, "PNG")
        content = file.getvalue()
    found = embedder.embed([picture, content, io.BytesIO(content)])
    np.testing.assert_allclose(found, found[[0, 0, 0]], atol=1e-5)
    with pytest.raises(FacegmError, match=r"photo 1: a tensor .*give an array"):
        embedder.embed([picture, torch.zeros(3, 90, 90)])  # type: ignore[list-item]


def test_one_array_of_photos_is_as_many_photos(embedder: FaceEmbedder) -> None:
    batch = np.stack([portrait(), portrait()[:, ::-1]])
    np.testing.assert_allclose(embedder.embed(batch, color="rgb"), embedder.embed([*batch], color="rgb"), atol=1e-6)
    assert [len(photo.faces) for photo in embedder.find_batch(batch, color="rgb")] == [1, 1]


def test_photos_without_a_face_are_skipped_with_a_mask(
    embedder: FaceEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    given: list[PhotoLike] = [blank(), portrait(), b"torn", portrait(200, 200)]
    with caplog.at_level("INFO"):
        embeddings, is_found = embedder.embed(given, color="rgb", on_missing="skip")
    assert is_found.tolist() == [False, True, False, True]
    np.testing.assert_allclose(embeddings, embedder.embed(given[1::2], color="rgb"), atol=1e-5)
    assert "2 of 4 photos are skipped, the first: photo 0: no face found" in caplog.text
    with pytest.raises(UsageError, match="on_missing 'ignore': take one of raise, center-crop, skip"):
        embedder.embed(given, color="rgb", on_missing="ignore")  # type: ignore[call-overload]


def test_a_large_jpeg_has_its_faces_in_pixels_of_the_whole(
    embedder: FaceEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned by EXIF as well, so that size and coordinates are those of the upright photo."""
    path, exif = tmp_path / "large.jpg", Image.Exif()
    exif[0x0112] = 6
    photo = np.full((500, 640, 3), 90, np.uint8)
    photo[40:440, 200:600] = portrait(400, 400)
    Image.fromarray(np.ascontiguousarray(np.rot90(photo))).save(path, exif=exif, quality=95)
    [whole] = embedder.find_batch([path])
    monkeypatch.setattr("facegm.data.decoding.MAX_PIXELS", 500 * 640 // 3)
    [reduced] = embedder.find_batch([path])
    assert whole.size == reduced.size == (640, 500)
    [a], [b] = whole.faces, reduced.faces
    assert np.abs(a.landmarks - b.landmarks).max() < 6
    with Image.open(path) as jpeg:
        jpeg.draft(None, (250, 320))
        halved = np.rot90(np.asarray(jpeg), -1)
    assert halved.shape == (250, 320, 3)
    found = FaceDetector().detect(np.ascontiguousarray(halved))
    # Pixel x of the halved photo covers those of numbers 2 x and 2 x + 1, whose middle is 2 x + 0.5.
    np.testing.assert_allclose(b.landmarks, 2 * found.landmarks[0] + 0.5, rtol=0, atol=2e-3)
    np.testing.assert_allclose(b.box, 2 * found.boxes[0] + 0.5, rtol=0, atol=2e-3)


# ------------------------------------------------------------------------------------------------- which face


@pytest.mark.parametrize(("policy", "found"), [("largest-central", 0), ("largest", 1)])
def test_the_policy_says_which_face_is_meant(
    embedder: FaceEmbedder, faces: list[Face], policy: FacePolicy, found: int
) -> None:
    [face] = embedder.find(group(), color="rgb", policy=policy)
    np.testing.assert_array_equal(face.box, faces[found].box)
    alone = portrait(200, 200)
    comparison = embedder.verify(group(), alone, color="rgb", policy=policy)
    [other] = embedder.find(alone, color="rgb")
    a, b = (np.asarray(one.embedding, np.float64) for one in (faces[found], other))
    assert comparison.distance == pytest.approx(np.linalg.norm(a - b), abs=1e-5)


def test_only_refuses_several_faces(embedder: FaceEmbedder) -> None:
    assert len(embedder.find(portrait(), color="rgb", policy="only")) == 1
    for photo, reason in ((group(), Reason.SEVERAL_FACES), (blank(), Reason.NO_FACE), (b"torn", Reason.UNREADABLE)):
        with pytest.raises(RefusedPhotoError) as caught:
            embedder.find(photo, color="rgb", policy="only")
        assert caught.value.reason is reason
    with pytest.raises(UsageError, match="policy 'first': take one of largest-central, largest, only"):
        embedder.find(portrait(), color="rgb", policy="first")  # type: ignore[arg-type]


def test_verify_names_both_photos_that_cannot_be_compared(embedder: FaceEmbedder, tmp_path: Path) -> None:
    with pytest.raises(RefusedPhotoError) as caught:
        embedder.verify(tmp_path / "missing.jpg", blank(), color="rgb")
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'missing.jpg'}: No such file or directory",
        "photo 1: no face found",
    ]
    assert caught.value.reason is Reason.UNREADABLE


# ------------------------------------------------------------------------------------------------- what says nothing


def _zero(network: nn.Module) -> None:
    for parameter in network.parameters():
        nn.init.zeros_(parameter)


def _constant(network: Any) -> None:
    _zero(network)
    nn.init.ones_(network.embedding.bias)


def _overflowing(network: Any) -> None:
    nn.init.constant_(network.embedding.weight, 3e38)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_zero, "zero, NaN or infinity in .* so they say nothing about identity"),
        (_constant, "all faces have the same one, so they say nothing about identity"),
        (_overflowing, "zero, NaN or infinity in .* so they say nothing about identity"),
    ],
)
def test_an_embedder_that_says_nothing_is_refused(damage: Any, message: str) -> None:
    network = small_network()
    damage(network)
    embedder = small_embedder(network)
    with pytest.raises(FacegmError, match=message):
        embedder.verify(portrait(), portrait(200, 200), color="rgb", threshold=1.1)


def test_one_photo_twice_is_one_face(embedder: FaceEmbedder) -> None:
    found = embedder.verify(portrait(), portrait(), color="rgb", threshold=1.1)
    assert found.distance < 1e-6
    assert found.same is True


# ------------------------------------------------------------------------------------------------- aligned faces


def test_aligned_faces_of_another_size_are_brought_to_the_template(embedder: FaceEmbedder) -> None:
    small = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    found, expected = embedder.embed_aligned([small]), embedder.embed_aligned([resize_aligned(small)])
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(FacegmError, match="face 1: array of float64"):
        embedder.embed_aligned([small, small / 255.0])


# ------------------------------------------------------------------------------------------------- contract, device


def test_the_contract_is_of_weights_and_preprocessing() -> None:
    contract = small_embedder().contract
    assert contract == small_embedder().contract
    assert contract.dim == DIM
    other_weights = small_embedder(small_network(seed=1)).contract
    other_view = FaceEmbedder(TrainedNetwork(small_network(), replace(PREPROCESSING, mirror=False))).contract
    assert other_weights == replace(contract, weights=other_weights.weights) != contract
    assert other_view == replace(contract, preprocessing=other_view.preprocessing) != contract


def test_the_automatic_device_is_said_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = save_small_embedder(tmp_path / "embedder.safetensors")
    device._automatic_device.cache_clear()
    with caplog.at_level("INFO"):
        FaceEmbedder.load(path)
        FaceEmbedder.load(path)
        FaceEmbedder.load(path, device="cpu")
    said = [record.message for record in caplog.records if "device" in record.message]
    assert len(said) == 1
    assert said[0].startswith("device auto: the CPU, for there is no GPU that torch sees")
    with pytest.raises(FacegmError, match=r"device cuda: no GPU that torch sees.*; take auto or cpu"):
        FaceEmbedder.load(path, device="cuda")
    with pytest.raises(FacegmError, match="device 'gpu': take auto, cpu, cuda or cuda:N"):
        FaceEmbedder.load(path, device="gpu")
