"""Protects `facegm embed`: every photo is accounted for, each face's embedding is the plain road's and the store's."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from alignment import InThisProcess
from calibrations import CALIBRATION, LIKELIHOOD
from embedders import CONFIG, HOPPER, PREPROCESSING, group, save_small_embedder, small_network
from PIL import Image

from facegm.align import engines
from facegm.align.config import AlignConfig
from facegm.align.detector import FaceDetector
from facegm.align.face import TEMPLATE, FaceChoice, warp_face
from facegm.align.finder import FaceFinder
from facegm.align.pipeline import align_photos
from facegm.cli import main
from facegm.data.decoding import read_photo
from facegm.data.preprocessing import network_input
from facegm.data.readers.photo import Photo
from facegm.data.readers.source import find_photos, read_photo_bytes
from facegm.embedding import embed_job, embedder
from facegm.embedding.embed_job import EmbedJob
from facegm.embedding.face_table import DESCRIPTION
from facegm.embedding.model_file import load_embedder, save_embedder, write_calibration
from facegm.embedding.photo_faces import PhotoFaces, find_faces
from facegm.embedding.photos import OpenedPhoto
from facegm.eval.sets.embedding_files import read_embeddings

pytestmark = pytest.mark.usefixtures("no_disk")


@pytest.fixture(scope="module", autouse=True)
def workers_in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "LocalWorker", InThisProcess)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    means = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    path = save_small_embedder(tmp_path_factory.mktemp("model") / "embedder.safetensors", means=means)
    write_calibration(path, CALIBRATION, [replace(LIKELIHOOD, threshold=-1e9)])
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person at two sizes; two beside each other, of whom the smaller is at the border; none; and one cut short."""
    root = tmp_path_factory.mktemp("photos")
    (root / "grace").mkdir()
    (root / "nobody").mkdir()
    with Image.open(HOPPER) as hopper:
        large, small = hopper.resize((256, 300)), hopper.resize((128, 150))
    large.save(root / "grace/1.jpg")
    small.save(root / "grace/2.png")
    both = Image.new("RGB", (400, 300), "grey")
    both.paste(large, (0, 0))
    both.paste(small, (270, 150))
    both.save(root / "grace/3.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)).save(root / "nobody/4.png")
    (root / "nobody/5.jpg").write_bytes((root / "grace/1.jpg").read_bytes()[:4000])
    return root


def run(*arguments: object) -> None:
    assert main(["embed", *map(str, arguments)]) == 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def plain_faces(model: Path, photo: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Landmarks and embedding of each face of a photo, the subject first: one photo, one face at a time."""
    network, preprocessing, _ = load_embedder(model)
    pixels = read_photo(photo)
    faces = FaceDetector().detect(pixels)
    subject = FaceChoice().choose(faces, pixels.shape)
    assert subject is not None
    found = []
    for number in [subject, *(number for number in range(len(faces)) if number != subject)]:
        chip = preprocessing.middle_crops([warp_face(pixels, faces.landmarks[number].round(3))])
        with torch.no_grad():
            image = network_input(torch.from_numpy(chip))
            both = network(image) + network(image.flip(3))
        found.append((faces.landmarks[number], (both / both.norm()).numpy()[0]))
    return found


@pytest.fixture(scope="module")
def embedded(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("embedded") / "faces.parquet"
    run(photos, "--model", model, "--output", output, "--workers", 1)
    return output


def test_every_photo_has_its_rows_and_every_face_the_embedding_of_the_plain_road(
    embedded: Path, photos: Path, model: Path
) -> None:
    rows = rows_of(embedded)
    assert [(row["path"], row["face"], row["reason"]) for row in rows] == [
        ("grace/1.jpg", 0, None),
        ("grace/2.png", 0, None),
        ("grace/3.png", 0, None),
        ("grace/3.png", 1, None),
        ("nobody/4.png", None, "no-face"),
        ("nobody/5.jpg", None, "unreadable"),
    ]
    assert [row["identity"] for row in rows] == ["grace", "grace", "grace", None, "nobody", "nobody"]
    assert all((row["embedding"] is None) == bool(row["message"]) for row in rows)
    for name in ("grace/1.jpg", "grace/2.png", "grace/3.png"):
        expected = plain_faces(model, photos / name)
        found = [row for row in rows if row["path"] == name]
        assert len(found) == len(expected)
        for row, (landmarks, embedding) in zip(found, expected, strict=True):
            np.testing.assert_allclose(row["landmarks"], landmarks.ravel(), atol=2e-3)
            np.testing.assert_allclose(row["embedding"], embedding, atol=1e-5)
            left, top, right, bottom = row["box"]
            assert left < row["landmarks"][0] < right
            assert top < row["landmarks"][1] < bottom
            assert row["probability"] > 0.9
            assert row["norm"] > 0
            assert row["likelihood"] < 0
            assert row["is_abnormal"] is False
    assert not [*embedded.parent.glob("*.parts")]


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_it_is_the_road_through_a_store(embedded: Path, photos: Path, model: Path, tmp_path: Path, suffix: str) -> None:
    """Protects embeddings, 1e-5, and what is recorded of faces; the store's other photos say why they have none."""
    align_photos(photos, tmp_path / "store", AlignConfig(workers=1))
    output = tmp_path / f"stored{suffix}"
    run(tmp_path / "store", "--model", model, "--output", output)
    direct, stored = read_embeddings(embedded), read_embeddings(output)
    assert direct.names == stored.names
    np.testing.assert_allclose(direct.embeddings, stored.embeddings, atol=1e-5)
    if suffix == ".npz":
        return
    subjects = [row for row in rows_of(embedded) if row["face"] != 1]
    for one, other in zip(subjects, rows_of(output), strict=True):
        for name in ("norm", "likelihood"):
            np.testing.assert_allclose(one[name] or 0, other[name] or 0, rtol=1e-4)
        same = one.keys() - {"embedding", "norm", "likelihood", "message"}
        assert {name: one[name] for name in same} == {name: other[name] for name in same}


def test_a_centre_crop_of_a_store_has_a_reason_and_an_embedding(photos: Path, model: Path, tmp_path: Path) -> None:
    align_photos(photos, tmp_path / "store", AlignConfig(workers=1, on_missing="center-crop"))
    run(tmp_path / "store", "--model", model, "--output", tmp_path / "faces.parquet")
    row = rows_of(tmp_path / "faces.parquet")[3]
    assert (row["path"], row["face"], row["reason"], row["box"]) == ("nobody/4.png", 0, "no-face", None)
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("policy", "of_two"),
    [("largest-central", [(0, None)]), ("only", [(None, "several-faces")])],
)
def test_a_policy_says_which_of_several(
    embedded: Path, photos: Path, model: Path, tmp_path: Path, policy: str, of_two: list[tuple[int | None, str | None]]
) -> None:
    output = tmp_path / "faces.parquet"
    run(photos, "--model", model, "--output", output, "--policy", policy, "--workers", 1)
    rows = rows_of(output)
    assert [(row["face"], row["reason"]) for row in rows if row["path"] == "grace/3.png"] == of_two
    assert [row["reason"] for row in rows if row["path"].startswith("nobody")] == ["no-face", "unreadable"]
    first = rows_of(embedded)[0]["embedding"]
    np.testing.assert_allclose(rows[0]["embedding"], first, atol=1e-5)


@pytest.mark.parametrize(("policy", "middle"), [("largest-central", 350), ("largest", 120)])
def test_the_largest_face_and_the_largest_central_one_are_told_apart(
    model: Path, tmp_path: Path, policy: str, middle: int
) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(group()).save(tmp_path / "photos/group.png")
    output = tmp_path / "faces.parquet"
    run(tmp_path / "photos", "--model", model, "--output", output, "--policy", policy, "--workers", 1)
    [row] = rows_of(output)
    assert row["box"][0] < middle < row["box"][2]


def test_embeddings_without_a_direction_are_refused_over_a_store_too(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a network whose weights are zero, or that has collapsed."""
    network = small_network()
    for weights in network.parameters():
        torch.nn.init.zeros_(weights)
    alignment = {"size": 128, "template": TEMPLATE.tolist()}
    save_embedder(tmp_path / "zero.safetensors", network, CONFIG, PREPROCESSING, alignment)
    arguments = ["--model", str(tmp_path / "zero.safetensors"), "--output", str(tmp_path / "faces.parquet")]
    assert main(["embed", str(small_store), *arguments]) == 1
    assert "embeddings: zero, NaN or infinity in" in capsys.readouterr().err
    assert not (tmp_path / "faces.parquet").exists()


def test_the_next_group_is_decoded_while_one_is_looked_at_and_rows_come_by_group(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the speed where photos are small; and the numbers, for no group shares a product with another one."""
    groups = [find_photos(photos).photos[:2], find_photos(photos).photos[2:5]]
    is_read, sizes = Event(), list[tuple[int, bool]]()

    def read(photo: Photo) -> bytes:
        if photo is groups[1][0]:
            is_read.set()
        return read_photo_bytes(photo)

    def find(finder: FaceFinder, opened: list[OpenedPhoto]) -> list[PhotoFaces]:
        sizes.append((len(opened), is_read.wait(20)))
        return find_faces(finder, opened)

    monkeypatch.setattr(embed_job, "read_photo_bytes", read)
    monkeypatch.setattr(embedder, "find_faces", find)
    threads = torch.get_num_threads()
    try:
        job = EmbedJob(model=model, policy="all", device="cpu", runtime="cpu", photos=5)
        rows = [*job.begin(0).process(groups)]
    finally:
        torch.set_num_threads(threads)
    assert sizes == [(2, True), (3, True)]
    assert [[photo[0]["path"] for photo in group] for group in rows] == [[one.key for one in group] for group in groups]


def test_the_file_says_whose_embeddings_it_holds_and_json_what_became_of_the_photos(
    embedded: Path, photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "faces.npz"
    run(photos, "--model", model, "--output", output, "--workers", 1, "--json")
    summary = json.loads(capsys.readouterr().out)
    assert (summary["photos"], summary["faces"]) == (5, 4)
    assert summary["reasons"] == {"no-face": 1, "unreadable": 1}
    description = json.loads(pq.read_schema(embedded).metadata[DESCRIPTION.encode()])
    assert description["contract"] == summary["contract"]
    assert description["contract"]["dim"] == 24
    with np.load(output) as arrays:
        assert json.loads(str(arrays[DESCRIPTION]))["contract"] == summary["contract"]
        assert arrays["paths"].tolist() == ["grace/1.jpg", "grace/2.png", "grace/3.png", "grace/3.png"]
        assert arrays["face"].tolist() == [0, 0, 0, 1]
        assert arrays["missing_reasons"].tolist() == ["no-face", "unreadable"]


def test_what_is_there_already_is_left_and_what_has_changed_is_made_anew(
    photos: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    output = tmp_path / "faces.parquet"
    arguments = (photos, "--output", output, "--workers", 1)
    run(*arguments, "--model", model)
    before = output.stat()
    run(*arguments, "--model", model)
    assert output.stat().st_ino == before.st_ino
    assert "holds the embeddings of these photos already" in caplog.text
    caplog.clear()
    other = save_small_embedder(tmp_path / "other.safetensors", seed=1)
    run(*arguments, "--model", other)
    assert output.stat().st_ino != before.st_ino
    os.utime(photos / "grace/1.jpg", ns=(1, 1))
    run(*arguments, "--model", other)
    assert "already" not in caplog.text


def test_a_whole_output_does_not_cost_another_embedding_its_parts(photos: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "faces.parquet"
    arguments = (photos, "--output", output, "--workers", 1, "--model", model)
    run(*arguments)
    parts = tmp_path / "faces.parquet.parts"
    parts.mkdir()
    (parts / "job.json").write_text('{"policy": "only"}')
    (parts / "000000000-000000005.parquet").write_text("hours of work")
    run(*arguments)
    assert sorted(path.name for path in parts.iterdir()) == ["000000000-000000005.parquet", "job.json"]


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_verify_reads_what_embed_writes(
    photos: Path,
    model: Path,
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("facegm.eval.set_to_verify.write_report", lambda *_, **__: None)  # its charts take long
    output = tmp_path / f"faces{suffix}"
    run(photos, "--model", model, "--output", output, "--workers", 1)
    pairs = tmp_path / "pairs.csv"
    lines = [f"grace/1.jpg,grace/{b},{same},{fold}\n" for fold in (1, 2) for b, same in (("2.png", 1), ("3.png", 0))]
    arguments = ["verify", "--embeddings", str(output), "--pairs", str(pairs), "--output", str(tmp_path / "verified")]
    pairs.write_text("".join(lines))
    assert main(arguments) == 0
    pairs.write_text("".join([*lines, "grace/1.jpg,nobody/4.png,0,2\n"]))
    assert main(arguments) == 1
    assert "nobody/4.png" in capsys.readouterr().err  # which has no face
    assert main([*arguments, "--allow-missing"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--output", "faces.csv"], 2, "faces.csv: give an --output that ends in .parquet or .npz"),
        (["--output", "faces.parquet", "--policy", "first"], 2, "invalid choice: 'first'"),
        (["--output", "taken.parquet"], 1, "is no file that `facegm embed` made"),
        (["--output", "folder.npz"], 2, "folder.npz: a folder"),
    ],
)
def test_wrong_outputs_are_refused(
    photos: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.parquet").write_text("notes")
    (tmp_path / "folder.npz").mkdir()
    assert main(["embed", str(photos), "--model", str(model), *arguments]) == code
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.npz", "taken.parquet"]


def test_of_a_store_it_cannot_be_said_how_faces_are_found(
    small_store: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["embed", str(small_store), "--model", str(model), "--output", str(tmp_path / "a.npz")]
    assert main([*arguments, "--workers", "2"]) == 2
    assert "a store, whose faces are found and chosen" in capsys.readouterr().err
