"""Protects what people do with `facegm align`: odd folders, photos that go or change, damaged stores, any lists.

Each is what the command says and what training sees of it, on faces that are aligned already.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from alignment import InThisProcess
from PIL import Image
from stores import NamedFaces, contents

from facegm.align import engines
from facegm.cli import main
from facegm.data.preprocessing import Preprocessing
from facegm.errors import FacegmError
from facegm.faces.samples import LabelledFaces
from facegm.store.reader import FaceStore

PREPROCESSING = Preprocessing(face_size=16, crop_size=14)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "LocalWorker", InThisProcess)


Align = Callable[..., str]


@pytest.fixture
def align(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Align:
    """Align photos into `store`, as a user does; returns what was said."""

    def run(*options: str, source: Path | None = None, code: int = 0) -> str:
        capsys.readouterr()
        command = ["align", str(source or tmp_path / "photos"), "--output", str(tmp_path / "store"), "--aligned"]
        assert main([*command, "--workers=1", *options]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path, "PNG")


def people(folder: Path, names: str, photos: int = 4) -> None:
    for seed, name in enumerate(names.split()):
        for number in range(photos):
            save(folder / name / f"{number}.jpg", 10 * seed + number)


def identities(store: Path) -> tuple[str, ...]:
    return LabelledFaces(FaceStore(store), PREPROCESSING).identities


# ------------------------------------------------------------------------------------------------- identities


def test_train_beside_val_is_as_many_identities_as_there_are_people(tmp_path: Path, align: Align) -> None:
    people(tmp_path / "photos/train", "ann bob cid dan")
    people(tmp_path / "photos/val", "eve fay")
    assert "  6 identities\n" in align()
    assert identities(tmp_path / "store") == ("ann", "bob", "cid", "dan", "eve", "fay")


def test_albums_of_one_person_are_doubted_aloud_and_can_be_told_by_an_option(tmp_path: Path, align: Align) -> None:
    people(tmp_path / "photos/ann", "album1 album2")
    said = align()
    assert "  2 identities\n" in said
    assert "--identity-level" in said
    said = align("--identity-level=2")
    assert "  1 identity\n" in said
    assert "warning: one identity alone" in said
    assert {record.identity for record in NamedFaces(tmp_path / "store").records.values()} == {"ann"}


def test_photos_beside_the_identities_are_none_and_a_flat_folder_is_refused_for_training(
    tmp_path: Path, align: Align
) -> None:
    people(tmp_path / "photos", "ann bob")
    for number in range(3):
        save(tmp_path / f"photos/stranger{number}.jpg", 100 + number)
    said = align()
    assert "  2 identities\n" in said
    assert "3 faces of no known identity" in said
    assert identities(tmp_path / "store") == ("ann", "bob")
    for name in ("ann", "bob"):
        shutil.rmtree(tmp_path / "photos" / name)
    align("--remove-missing")
    with pytest.raises(FacegmError, match="0 identity with aligned faces, and 3 faces of no known identity; training"):
        identities(tmp_path / "store")


# ------------------------------------------------------------------------------------------------- photos that change


def test_a_photo_that_is_gone_goes_and_one_that_was_replaced_is_made_anew(tmp_path: Path, align: Align) -> None:
    people(tmp_path / "photos", "ann bob cid")
    align()
    (tmp_path / "photos/ann/1.jpg").unlink()
    save(tmp_path / "photos/bob/2.jpg", 999)
    said = align()
    assert "photos gone from the input, and their faces with them: 1\n" in said
    assert "photos that have changed, aligned anew: 1\n" in said
    assert not (tmp_path / "store/faces/ann/1.jpg.png").exists()
    shutil.move(tmp_path / "store", tmp_path / "brought into step")
    align()
    assert contents(tmp_path / "brought into step") == contents(tmp_path / "store")


def test_a_corrected_label_moves_the_face_without_a_look_at_it(tmp_path: Path, align: Align) -> None:
    people(tmp_path / "photos", "ann bob")
    names = [f"photos/{name}/{number}.jpg" for name in ("ann", "bob") for number in range(4)]
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{name}\t{name.split('/')[1]}\n" for name in names))
    align(source=listing)
    before = (tmp_path / "store/faces/photos/ann/0.jpg.png").stat().st_mtime_ns
    listing.write_text(listing.read_text().replace("ann/0.jpg\tann", "ann/0.jpg\tbob"))
    align(source=listing)
    records = NamedFaces(tmp_path / "store").records
    assert records["photos/ann/0.jpg"].identity == "bob"
    assert (tmp_path / "store/faces/photos/ann/0.jpg.png").stat().st_mtime_ns == before


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_lost_and_cut_faces_are_named_by_training_and_made_anew_by_the_same_command(
    tmp_path: Path, align: Align, container: str
) -> None:
    people(tmp_path / "photos", "ann bob")
    align(f"--container={container}")
    whole = {key: NamedFaces(tmp_path / "store").face(key) for key in NamedFaces(tmp_path / "store").records}
    if container == "folder":
        (tmp_path / "store/faces/ann/1.jpg.png").unlink()
        path = tmp_path / "store/faces/bob/3.jpg.png"
        path.write_bytes(path.read_bytes()[:100])
    else:
        with (tmp_path / "store/faces/00000.tar").open("r+b") as tar:
            row = FaceStore(tmp_path / "store").table().to_pylist()[1]
            tar.seek(row["offset"])
            tar.write(bytes(row["length"]))
    faces = LabelledFaces(FaceStore(tmp_path / "store"), PREPROCESSING)
    with pytest.raises(FacegmError, match=r"missing or damaged face .*ann/1\.jpg.*run `facegm align` again") as error:
        faces._load(1)
    assert container == "tar" or "1 others: bob/3.jpg" in str(error.value)
    count = 2 if container == "folder" else 1
    assert f"faces missing or damaged, made anew: {count}\n" in align(f"--container={container}")
    for key, face in whole.items():
        np.testing.assert_array_equal(NamedFaces(tmp_path / "store").face(key), face)


# ------------------------------------------------------------------------------------------------- files and lists


def test_photos_of_any_suffix_are_taken_and_what_is_passed_over_is_said(tmp_path: Path, align: Align) -> None:
    people(tmp_path / "photos", "ann bob cid")
    for number, suffix in enumerate((".jfif", ".jpe", ".mpo", "", ".dat")):
        save(tmp_path / f"photos/ann/x{number}{suffix}", 50 + number)
    (tmp_path / "photos/bob/holiday.zip").write_bytes(b"PK\3\4" + bytes(100))
    (tmp_path / "photos/bob/notes.txt").write_text("notes")
    said = align()
    assert "17 faces aligned, 0 centre crops, 0 failed" in said
    assert "1 .zip" in said
    assert "1 .txt" in said


@pytest.mark.parametrize(
    "text",
    [
        "path,identity\r\nphotos/ann/0.jpg,7\r\nphotos/bob/0.jpg,9\r\n",
        "photos/ann/0.jpg 7\nphotos/bob/0.jpg 9\n",
        "\ufeffphotos\\ann\\0.jpg\t7\r\nphotos\\bob\\0.jpg\t9\r\n",
    ],
)
def test_lists_of_other_kinds_are_read(tmp_path: Path, align: Align, text: str) -> None:
    people(tmp_path / "photos", "ann bob")
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert "2 faces aligned, 0 centre crops, 0 failed" in align(source=tmp_path / "list.csv")
    assert identities(tmp_path / "store") == ("7", "9")


def test_a_list_of_which_no_photo_is_there_is_an_error_that_says_what_was_looked_for(
    tmp_path: Path, align: Align
) -> None:
    (tmp_path / "list.txt").write_text("faces/ann/0.jpg\nfaces/bob/0.jpg\n")
    assert str(tmp_path / "faces/ann/0.jpg") in align(source=tmp_path / "list.txt", code=1)
    assert not (tmp_path / "store").exists()
