"""Protects the alignment of a data set: every photo is accounted for once and in order, and no interruption shows.

The stores of one worker, of two, and of an interrupted and continued run are the same bytes; the faces they hold lie on
the template; and photos that hold no face, or are no photos, are recorded with the reason.
"""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stores import NamedFaces, contents, face_path

from facegm.align import pipeline
from facegm.align.config import AlignConfig
from facegm.align.detector import FaceDetector
from facegm.align.face import TEMPLATE, align_face, center_crop, warp_face
from facegm.align.finder import BATCH
from facegm.align.pipeline import align_photos
from facegm.align.worker import Result
from facegm.data.decoding import read_photo
from facegm.data.readers.photo import Photo
from facegm.store.writer import StoreWriter

pytestmark = pytest.mark.usefixtures("quick_workers")

Landmarks = np.ndarray

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))
HOPPER_LANDMARKS = np.array([(222, 192), (310, 186), (270, 240), (234, 281), (306, 277)], float)
"""Read off the photo by eye."""
LONG_NAME = "zoe/" + "n" * 246 + ".jpg"  # as long as a file name may be
NOISE = 4 * BATCH
ODD_NAME = os.fsdecode(b"zoe/caf\xe9\nphoto.jpg")


def _noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(path)


# Photos with a face, and where a point of the upright Hopper photo comes to lie in them.
def _half(points: Landmarks) -> Landmarks:
    return points / 2


def _cropped(points: Landmarks) -> Landmarks:
    return points - (100, 60)


def _turned(points: Landmarks) -> Landmarks:
    angle = np.deg2rad(20)  # counter-clockwise, with y downwards, about the middle of the 512x600 photo
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray((points - (256, 300)) @ turn.T + (256, 300))


def _same(points: Landmarks) -> Landmarks:
    return points


WITH_FACE: dict[str, Callable[[Landmarks], Landmarks]] = {
    "ann/half.png": _half,
    "ann/turned.webp": _turned,
    "bob/cropped.jpg": _cropped,
    "zoe/half by exif.png": _half,
    ODD_NAME: _same,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 photos with a face (and one more under too long a name), NOISE without, and 5 that are no photos."""
    root = tmp_path_factory.mktemp("photos")
    for folder in ("ann", "bob", "bad/folder.jpg", "zoe"):
        (root / folder).mkdir(parents=True)
    with Image.open(HOPPER) as hopper:
        half = hopper.resize((256, 300), Image.Resampling.BOX)
        half.save(root / "ann/half.png")
        hopper.rotate(20, Image.Resampling.BICUBIC).save(root / "ann/turned.webp", quality=95)
        hopper.crop((100, 60, 420, 400)).save(root / "bob/cropped.jpg", quality=95)
        exif = Image.Exif()
        exif[0x0112] = 6
        half.transpose(Image.Transpose.ROTATE_90).save(root / "zoe/half by exif.png", exif=exif)
    shutil.copy(HOPPER, root / ODD_NAME)
    shutil.copy(HOPPER, root / LONG_NAME)
    for number in range(NOISE):
        _noise(root / f"noise/{number:03}.png", number)
    (root / "bad/empty.jpg").touch()
    (root / "bad/text.jpg").write_text("no photo")
    (root / "bad/truncated.jpg").write_bytes(HOPPER.read_bytes()[:30_000])
    (root / "bad/dangling.jpg").symlink_to("nowhere")
    return root


@pytest.fixture(scope="module")
def aligned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    output = tmp_path_factory.mktemp("stores") / "one worker"
    return output, align_photos(photos, output, AlignConfig(workers=1)).store.statuses


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


# ------------------------------------------------------------------------------------------------- what is in a store


def test_every_photo_is_accounted_for_once_and_in_order(photos: Path, aligned: tuple[Path, Counter[str]]) -> None:
    keys = [path.relative_to(photos).as_posix() for path in photos.rglob("*.*")]
    assert len(keys) == NOISE + 11 > 4 * BATCH
    records = NamedFaces(aligned[0]).records
    assert list(records) == sorted(keys, key=os.fsencode)
    assert {key: record.identity for key, record in records.items()} == {key: key.split("/")[0] for key in keys}


def test_what_became_of_each_photo(aligned: tuple[Path, Counter[str]]) -> None:
    store, counts = aligned
    records = NamedFaces(store).records
    reasons = {key: record.reason for key, record in records.items() if record.status == "failed"}
    assert {key for key, record in records.items() if record.status == "aligned"} == set(WITH_FACE)
    assert {record.faces for key, record in records.items() if key in WITH_FACE} == {1}
    assert "image file is truncated" in str(reasons.pop("bad/truncated.jpg"))
    assert reasons == {
        "bad/empty.jpg": "empty file",
        "bad/text.jpg": "not an image",
        "bad/folder.jpg": "a folder, not a file",
        "bad/dangling.jpg": "a link to a missing file",
        LONG_NAME: "file name too long for the store",
        **{f"noise/{number:03}.png": "no face found" for number in range(NOISE)},
    }
    assert counts["aligned"] == 5
    assert counts["failed"] == NOISE + 6
    assert counts["failed: no face found"] == NOISE
    assert sum(number for kind, number in counts.items() if kind.startswith("failed: ")) == counts["failed"]
    assert set(counts) == {"aligned", "failed"} | {kind for kind in counts if kind.startswith("failed: ")}


def test_the_store_holds_the_pictures_of_the_aligned_photos_and_nothing_else(
    photos: Path, aligned: tuple[Path, Counter[str]]
) -> None:
    store = NamedFaces(aligned[0])
    expected = {"store.json", "manifest.parquet", *(f"faces/{key}.png" for key in WITH_FACE)}
    assert set(contents(aligned[0])) == expected
    for key in WITH_FACE:
        landmarks = store.records[key].landmarks
        assert landmarks is not None
        np.testing.assert_array_equal(store.face(key), warp_face(read_photo(photos / key), np.array(landmarks)))


@pytest.mark.parametrize("key", WITH_FACE)
def test_landmarks_are_those_of_the_upright_photo_and_come_to_lie_on_the_template(
    detector: FaceDetector, aligned: tuple[Path, Counter[str]], key: str
) -> None:
    store = NamedFaces(aligned[0])
    record = store.records[key]
    assert record.landmarks is not None
    assert record.box is not None
    expected = WITH_FACE[key](HOPPER_LANDMARKS)
    assert np.abs(np.array(record.landmarks) - expected).max() < 8
    left, top, right, bottom = record.box
    assert ((expected > (left, top)) & (expected < (right, bottom))).all()
    assert record.probability is not None
    assert 0.9 < record.probability <= 1

    # A similarity cannot bring five points exactly onto the template, but it keeps their mean.
    away = _away_from_template(detector, store.face(key))
    assert away is not None
    assert np.hypot(*away[:2].T).max() < 4  # the eyes
    assert np.hypot(*away.mean(axis=0)) < 1.5


def _away_from_template(detector: FaceDetector, face: np.ndarray) -> Landmarks | None:
    """How far the landmarks of an aligned face lie from the template, by looking for them again, if they are found."""
    # In a picture as narrow as the face the detector itself is off by 3 pixels, so the face gets a border.
    border = 32
    again = detector.detect(np.pad(face, ((border, border), (border, border), (0, 0))))
    return np.asarray(again.landmarks[0] - border - TEMPLATE) if len(again) == 1 else None


def test_a_photo_turned_by_exif_gives_the_very_face_of_the_upright_one(aligned: tuple[Path, Counter[str]]) -> None:
    store = NamedFaces(aligned[0])
    np.testing.assert_array_equal(store.face("ann/half.png"), store.face("zoe/half by exif.png"))


def test_the_embedders_step_is_the_pipelines(
    detector: FaceDetector, photos: Path, aligned: tuple[Path, Counter[str]]
) -> None:
    photo = read_photo(photos / "bob/cropped.jpg")
    face = align_face(photo, detector.detect(photo), crop_when_missing=False)
    assert face.image is not None
    # In other company the detector's products are rounded otherwise, in the last bit.
    difference = NamedFaces(aligned[0]).face("bob/cropped.jpg").astype(int) - face.image
    assert np.abs(difference).max() <= 1


# ------------------------------------------------------------------------------------------------- the same bytes


def test_an_interrupted_store_continued_by_two_workers_is_the_store_of_one(
    photos: Path, aligned: tuple[Path, Counter[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the first batch: it is not looked at again, and what follows in other company is the same."""
    store = tmp_path / "interrupted"
    add = StoreWriter.add
    looked_at: list[str] = []

    def add_once(writer: StoreWriter, results: list[Result]) -> None:
        if looked_at:
            raise KeyboardInterrupt
        looked_at.extend(result.record.key for result in results)
        add(writer, results)

    monkeypatch.setattr(StoreWriter, "add", add_once)
    with pytest.raises(KeyboardInterrupt):
        align_photos(photos, store, AlignConfig(workers=1))
    monkeypatch.undo()
    assert 0 < len(looked_at) <= BATCH
    early = [face_path(store, key) for key in WITH_FACE if key in looked_at]
    before = [path.stat().st_mtime_ns for path in early]
    assert len(before) >= 3

    assert align_photos(photos, store, AlignConfig(workers=2)).store.statuses == aligned[1]

    assert contents(store) == contents(aligned[0])
    assert [path.stat().st_mtime_ns for path in early] == before


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_killed_in_the_middle_it_leaves_no_worker_and_goes_on_to_the_same_store(
    photos: Path, aligned: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "facegm", "align", str(photos), "--output", str(tmp_path / "store"), "--workers=2"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    journal = tmp_path / "store" / "journal.jsonl"
    _wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") >= 1)
    tasks = Path(f"/proc/{running.pid}/task").iterdir()  # each thread has the worker that it began
    workers = [Path("/proc", child) for task in tasks for child in (task / "children").read_text().split()]
    running.kill()
    running.wait()
    assert len(workers) >= 2
    _wait_for(lambda: not any("spawn_main" in _command_line(worker) for worker in workers))
    assert align_photos(photos, tmp_path / "store", AlignConfig(workers=1)).store.statuses == aligned[1]
    assert contents(tmp_path / "store") == contents(aligned[0])


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def test_a_second_run_looks_at_unreadable_photos_alone_and_changes_nothing(
    photos: Path, aligned: tuple[Path, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    class TryAgain(nullcontext[None]):
        def __init__(self, waiting: list[list[Photo]], *_: object, **__: object) -> None:
            self._photos = [photo for group in waiting for photo in group]

        def __enter__(self) -> Iterator[list[Result]]:  # type: ignore[override]
            for photo in self._photos:
                tried.append(photo.key)
                yield [Result(unreadable[photo.key], None)]

    unreadable = {key: record for key, record in NamedFaces(aligned[0]).records.items() if record.faces is None}
    monkeypatch.setattr(pipeline, "WorkerPool", TryAgain)
    before = contents(aligned[0])
    assert align_photos(photos, aligned[0], AlignConfig(workers=2)).store.statuses == aligned[1]
    assert tried == list(unreadable)
    assert len(tried) > 1
    assert contents(aligned[0]) == before


def test_a_mended_photo_is_aligned_and_comes_to_its_place(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        shutil.copy2(HOPPER, tmp_path / "photos" / name)
    expected = tmp_path / "expected"
    align_photos(tmp_path / "photos", expected, AlignConfig(workers=1))
    stamp = (tmp_path / "photos/b.jpg").stat()
    (tmp_path / "photos/b.jpg").write_bytes(b"torn")
    store = tmp_path / "store"
    assert align_photos(tmp_path / "photos", store, AlignConfig(workers=1)).store.statuses["failed"] == 1
    shutil.copy(HOPPER, tmp_path / "photos/b.jpg")
    os.utime(tmp_path / "photos/b.jpg", ns=(stamp.st_mtime_ns, stamp.st_mtime_ns))
    assert align_photos(tmp_path / "photos", store, AlignConfig(workers=1)).store.statuses == Counter(aligned=3)
    assert contents(store) == contents(expected)


# ------------------------------------------------------------------------------------------------- no face


def test_on_missing_center_crop_takes_the_middle_of_faceless_photos_alone(tmp_path: Path) -> None:
    _noise(tmp_path / "set/noise.png", 7)
    long_name = "n" * 250 + ".png"
    _noise(tmp_path / "set" / long_name, 8)
    shutil.copy(HOPPER, tmp_path / "set/hopper.jpg")
    (tmp_path / "set/empty.jpg").touch()
    listing = tmp_path / "list.txt"
    names = ["noise.png\tNobody", "hopper.jpg", "empty.jpg", "gone.jpg", long_name]
    listing.write_text("".join(f"set/{name}\n" for name in names))

    summary = align_photos(listing, tmp_path / "store", AlignConfig(workers=1, on_missing="center-crop"))

    store = NamedFaces(tmp_path / "store")
    found = {key: (record.status, record.reason, record.identity) for key, record in store.records.items()}
    assert found == {
        "set/empty.jpg": ("failed", "empty file", "set"),
        "set/gone.jpg": ("failed", "No such file or directory", "set"),
        "set/hopper.jpg": ("aligned", None, "set"),
        f"set/{long_name}": ("failed", "file name too long for the store", "set"),
        "set/noise.png": ("center-crop", "no face found", "Nobody"),
    }
    counts = summary.store.statuses
    assert counts["aligned"] == counts["center-crop"] == 1
    assert counts["failed"] == 3
    assert (summary.store.identities, summary.store.faces) == (2, 2)
    assert store.records["set/noise.png"].faces == 0
    middle = center_crop(read_photo(tmp_path / "set/noise.png"))
    np.testing.assert_array_equal(store.face("set/noise.png"), middle)
    assert store.settings["on_missing"] == "center-crop"


# ------------------------------------------------------------------------------------------------- real photos


def test_celeba_faces_are_found_where_they_are(detector: FaceDetector, shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "celeba291/faces.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))[::300][:20]
    names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    known = {row["file"]: np.array([(float(row[f"{n}_x"]), float(row[f"{n}_y"])) for n in names]) for row in rows}
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{(shared_data / 'celeba291' / name).resolve()}\t{name[:4]}\n" for name in known))

    align_photos(listing, tmp_path / "store", AlignConfig(workers=1))

    store = NamedFaces(tmp_path / "store")
    found = {"/".join(key.split("/")[-2:]): record for key, record in store.records.items()}
    assert len(found) == len(known) == 20
    assert all(record.identity == name[:4] for name, record in found.items())
    distances = [
        np.hypot(*(np.array(record.landmarks) - known[name]).T) for name, record in found.items() if record.landmarks
    ]
    assert len(distances) >= 19
    # The known landmarks are from the photo before it was cropped to 200x200, where the detector sees other scales.
    assert float(np.median(distances)) < 3
    assert max(float(np.median(distance)) for distance in distances) < 10
    aligned = [store.face(key) for key, record in store.records.items() if record.status == "aligned"]
    looked_for = [_away_from_template(detector, face) for face in aligned]
    away = np.array([points for points in looked_for if points is not None])
    assert len(away) >= 17
    assert float(np.median(np.hypot(away[:, :2, 0], away[:, :2, 1]))) < 3  # the eyes
    assert np.abs(away.mean(axis=(0, 1))).max() < 0.75
