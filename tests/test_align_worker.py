"""Protects what a worker does with its photos: batches, numbers of the manifest, and the choice of a face."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stores import NamedFaces

from facegm.align import networks, worker
from facegm.align.config import AlignConfig
from facegm.align.detector import DetectedFaces, FaceDetector
from facegm.align.engines import WorkerPool
from facegm.align.face import (
    FaceChoice,
    align_face,
    alignment_residual,
    contrast,
    perceptual_hash,
    profile,
    sharpness,
    warp_face,
)
from facegm.align.finder import BATCH_PIXELS
from facegm.align.found_face import in_whole_photo
from facegm.align.networks import Runtime
from facegm.align.pipeline import align_photos
from facegm.align.worker import Aligner, AlignJob, Result
from facegm.data.decoding import read_photo
from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError
from facegm.store.format import encode_face

pytestmark = pytest.mark.usefixtures("quick_workers")

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))
ODD_WIDTH = 77


class _Recording(FaceDetector):
    """Notes what it is given, and stumbles over photos of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def detect_batch(self, photos: Sequence[np.ndarray]) -> list[DetectedFaces]:
        self.batches.append([photo.shape[0] * photo.shape[1] for photo in photos])
        if any(photo.shape[1] == ODD_WIDTH for photo in photos):
            raise ZeroDivisionError("odd photo")
        return super().detect_batch(photos)


@pytest.fixture
def detectors(monkeypatch: pytest.MonkeyPatch) -> list[_Recording]:
    made: list[_Recording] = []

    def make(runtime: object, **_: object) -> _Recording:
        made.append(_Recording())
        return made[-1]

    monkeypatch.setattr(worker, "FaceDetector", make)
    return made


def _save(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Photo]:
    """Hopper at several sizes (width, height)."""
    photos = []
    with Image.open(HOPPER) as hopper:
        for number, size in enumerate(sizes):
            path = folder / f"{number:02}.png"
            hopper.resize(size).save(path, compress_level=1)
            photos.append(Photo(path=str(path), key=path.name, identity="hopper"))
    return photos


def _align(config: AlignConfig, groups: Sequence[Sequence[Photo]]) -> list[Result]:
    return [result for results in Aligner(config, "cpu").process(groups) for result in results]


# ------------------------------------------------------------------------------------------------- batches


def test_a_photo_that_the_detector_stumbles_over_does_not_spoil_its_batch(
    tmp_path: Path, detectors: list[_Recording]
) -> None:
    photos = _save(tmp_path, [(128, 150), (ODD_WIDTH, 100), (120, 140)])
    first, odd, last = _align(AlignConfig(), [photos])
    assert [result.record.status for result in (first, last)] == ["aligned", "aligned"]
    assert (odd.record.status, odd.record.reason, odd.face) == ("failed", "ZeroDivisionError: odd photo", None)
    assert odd.record.faces is None  # it shall be tried again
    assert detectors[0].batches == [
        [128 * 150, ODD_WIDTH * 100, 120 * 140],
        [128 * 150],
        [ODD_WIDTH * 100],
        [120 * 140],
    ]


def test_a_detector_that_fails_on_every_photo_ends_the_run(tmp_path: Path, detectors: list[_Recording]) -> None:
    """Protects a data set from a broken device, which would record all of its photos as failed."""
    photos = _save(tmp_path, [(ODD_WIDTH, 100), (ODD_WIDTH, 120)])
    with pytest.raises(FacegmError, match="the detector fails on every photo: ZeroDivisionError: odd photo"):
        _align(AlignConfig(), [photos])


def test_batches_are_cut_where_they_become_too_large(tmp_path: Path, detectors: list[_Recording]) -> None:
    small, large, most = (100, 120), (1500, 1500), (2048, 2048)
    photos = _save(tmp_path, [small, large, small, large, most, small, small])
    results = _align(AlignConfig(), [photos[:6], photos[6:]])
    assert [result.record.key for result in results] == [photo.key for photo in photos]
    sizes = [[width * height for width, height in batch] for batch in [[small, large, small], [large], [most]]]
    assert detectors[0].batches == [*sizes, [12_000], [12_000]]
    assert max(map(sum, detectors[0].batches)) <= BATCH_PIXELS == 2048 * 2048


def test_a_photo_larger_than_a_batch_is_looked_at_alone(tmp_path: Path, detectors: list[_Recording]) -> None:
    photos = _save(tmp_path, [(100, 120), (2100, 2100), (100, 120)])
    _align(AlignConfig(), [photos])
    assert detectors[0].batches == [[12_000], [2100 * 2100], [12_000]]


def test_a_face_that_cannot_be_kept_is_a_failure_of_its_photo_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(face: np.ndarray, encoding: str) -> bytes:
        raise RuntimeError("could not encode")

    photos = _save(tmp_path, [(128, 150)])
    monkeypatch.setattr(worker, "encode_face", encode)
    [result] = _align(AlignConfig(), [photos])
    assert (result.record.status, result.record.reason) == ("failed", "RuntimeError: could not encode")
    assert result.face is None


# ------------------------------------------------------------------------------------------------- what is recorded


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    _save(folder, [(128, 150), (200, 240), (256, 300)])
    (folder / 'torn, "odd".png').write_bytes(b"torn")
    return folder


@pytest.fixture(scope="module")
def store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "store"
    align_photos(source, folder, AlignConfig(workers=1))
    return folder


def test_the_recorded_quality_follows_from_landmarks_and_stored_face(store: Path) -> None:
    opened = NamedFaces(store)
    aligned = [record for record in opened.records.values() if record.status == "aligned"]
    assert len(aligned) == 3
    for record in aligned:
        face, landmarks = opened.face(record.key), np.array(record.landmarks)
        assert record.residual == pytest.approx(alignment_residual(landmarks), abs=1e-4)
        assert record.profile == pytest.approx(profile(landmarks), abs=1e-4)
        assert record.sharpness == pytest.approx(sharpness(face), abs=1e-4)
        assert record.contrast == pytest.approx(contrast(face), abs=1e-4)
        assert record.perceptual_hash == perceptual_hash(face)


def test_the_digest_is_that_of_the_file_readable_or_not(source: Path, store: Path) -> None:
    for key, record in NamedFaces(store).records.items():
        assert record.digest == hashlib.sha256((source / key).read_bytes()).hexdigest()


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_coordinates_are_those_of_the_whole_photo(reduction: int) -> None:
    """Against a picture of coordinates that is reduced as a JPEG is, each pixel the mean of a square."""
    x = np.arange(64.0)
    reduced = x.reshape(-1, reduction).mean(axis=1)
    np.testing.assert_array_equal(in_whole_photo(np.arange(64.0 // reduction), reduction), reduced)


def test_a_photo_decoded_at_reduced_size_is_recorded_in_pixels_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that the face is what its record says, and that the least size is one in the whole photo."""
    photos = _save(tmp_path, [(1024, 1200)])
    whole = read_photo(Path(photos[0].path))
    [plain] = _align(AlignConfig(), [photos])

    def decode(data: bytes) -> tuple[np.ndarray, int]:
        return whole.reshape(300, 4, 256, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8), 4

    monkeypatch.setattr(worker, "decode", decode)
    [result] = _align(AlignConfig(), [photos])
    assert np.abs(np.array(result.record.landmarks) - np.array(plain.record.landmarks)).max() < 30
    [box] = FaceDetector().detect(decode(b"")[0]).boxes
    np.testing.assert_allclose(np.array(result.record.box), (box + 0.5) * 4 - 0.5, rtol=0, atol=0.01)
    landmarks = (np.array(result.record.landmarks) + 0.5) / 4 - 0.5
    assert result.face == encode_face(warp_face(decode(b"")[0], landmarks))

    left, top, right, bottom = result.record.box or ()
    side = min(right - left, bottom - top)
    for minimum, status in ((side - 0.1, "aligned"), (side + 0.1, "failed")):
        [result] = _align(AlignConfig(choice=FaceChoice(minimum_size=minimum)), [photos])
        assert result.record.status == status


def test_the_record_says_by_what_a_changed_photo_is_known(tmp_path: Path) -> None:
    [photo] = _save(tmp_path, [(100, 120)])
    [result] = _align(AlignConfig(), [[photo]])
    found = Path(photo.path).stat()
    assert (result.record.photo_bytes, result.record.photo_modified_ns) == (found.st_size, found.st_mtime_ns)
    Path(photo.path).unlink()
    [result] = _align(AlignConfig(), [[photo]])
    assert (result.record.photo_bytes, result.record.photo_modified_ns) == (None, None)


def test_the_smallest_face_that_is_looked_for_is_the_detectors(source: Path) -> None:
    results = [_align(AlignConfig(minimum_face=size), [[_photo(source, "00.png")]]) for size in (20, 110)]
    assert [result.record.status for [result] in results] == ["aligned", "failed"]


# ------------------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize("choice", [FaceChoice(minimum_size=90), FaceChoice(minimum_probability=1.0)])
def test_a_face_that_is_not_good_enough_is_a_failure_with_its_reason(source: Path, choice: FaceChoice) -> None:
    [result] = _align(AlignConfig(choice=choice), [[_photo(source, "00.png")]])
    assert result.record.reason == "no face large and probable enough"
    assert (result.record.status, result.record.faces, result.face) == ("failed", 1, None)


def test_the_smallest_size_is_that_of_the_box(source: Path) -> None:
    [found] = _align(AlignConfig(), [[_photo(source, "01.png")]])
    left, top, right, bottom = found.record.box or ()
    side = min(right - left, bottom - top)

    def align(minimum: float) -> Result:
        [result] = _align(AlignConfig(choice=FaceChoice(minimum_size=minimum)), [[_photo(source, "01.png")]])
        return result

    assert align(side - 0.01).record.status == "aligned"
    assert align(side + 0.01).record.status == "failed"


def test_the_choice_is_in_the_store_and_is_not_changed_later(source: Path, store: Path, tmp_path: Path) -> None:
    assert NamedFaces(store).settings["minimum_size"] == NamedFaces(store).settings["minimum_probability"] == 0
    for changed in (FaceChoice(minimum_size=20), FaceChoice(minimum_probability=0.9)):
        with pytest.raises(FacegmError, match=r"made otherwise \(minimum_(size|probability): 0.0, now"):
            align_photos(source, store, AlignConfig(choice=changed))
    config = AlignConfig(choice=FaceChoice(minimum_size=20, minimum_probability=0.9))
    align_photos(source, tmp_path / "store", config, photos=[])
    settings = NamedFaces(tmp_path / "store").settings
    assert (settings["minimum_size"], settings["minimum_probability"]) == (20, 0.9)


def test_the_face_is_that_of_the_photo_alone_but_for_rounding(source: Path, store: Path) -> None:
    photo = read_photo(source / "02.png")
    face = align_face(photo, FaceDetector().detect(photo), crop_when_missing=False)
    assert face.image is not None
    assert np.abs(NamedFaces(store).face("02.png").astype(int) - face.image).max() <= 1


def _photo(folder: Path, name: str) -> Photo:
    return Photo(path=str(folder / name), key=name, identity="hopper")


# ------------------------------------------------------------------------------------------------- errors of a worker


def align_all(groups: Sequence[Sequence[Photo]], config: AlignConfig, runtime: Runtime) -> list[Result]:
    with WorkerPool(groups, AlignJob(config=config, runtime=runtime), workers=config.workers) as workers:
        return [result for results in workers for result in results]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_keeps_a_worker_from_its_work_is_said(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FacegmError, match="runtime cuda: torch sees no GPU here"):
        align_all([[_photo(source, "02.png")]], AlignConfig(workers=1), "cuda")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_store_is_begun_that_cannot_be_made_here(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FacegmError, match="runtime cuda: torch sees no GPU here"):
        align_photos(source, tmp_path / "store", AlignConfig(runtime="cuda"))
    monkeypatch.setattr(networks, "find_spec", lambda _: None)
    with pytest.raises(FacegmError, match=r"pip install 'facegm\[openvino\]'"):
        align_photos(source, tmp_path / "store", AlignConfig(runtime="openvino"))
    assert not (tmp_path / "store").exists()
