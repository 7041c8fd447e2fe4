"""Protects the face detector: it finds what facenet-pytorch's MTCNN finds."""

import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from facenet_pytorch import MTCNN

from facegm.align import area, proposals
from facegm.align.detector import STAGE_THRESHOLDS, DetectedFaces, FaceDetector
from facegm.align.proposals import MINIMUM_FACE, PYRAMID_FACTOR
from facegm.data.decoding import read_photo


@pytest.fixture(scope="module", params=["cpu", "openvino"])
def detector(request: pytest.FixtureRequest) -> FaceDetector:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return FaceDetector(request.param)


class Remembering(MTCNN):  # type: ignore[misc]  # facenet-pytorch has no types
    """Is asked about each photo once, whatever computes our detector."""

    def __init__(self) -> None:
        super().__init__(keep_all=True, device="cpu")
        self._found: dict[tuple[tuple[int, ...], bytes], Any] = {}

    def detect(self, photo: np.ndarray, landmarks: bool = False) -> Any:
        key = photo.shape, photo.tobytes()
        if key not in self._found:
            self._found[key] = super().detect(photo, landmarks=landmarks)
        return self._found[key]


@pytest.fixture(scope="module")
def reference() -> Any:
    return Remembering()


@pytest.fixture(scope="module")
def hopper() -> np.ndarray:
    return read_photo(Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg")))


# ------------------------------------------------------------------------------------------------- detection


def _assert_same_faces(detector: FaceDetector, reference: Any, photo: np.ndarray) -> int:
    return _compared(detector.detect(photo), reference, photo)


def _compared(found: DetectedFaces, reference: Any, photo: np.ndarray) -> int:
    boxes, probabilities, landmarks = reference.detect(photo, landmarks=True)
    if boxes is None:
        assert len(found) == 0
        return 0
    assert len(found) == len(boxes)
    # facenet's `detect` puts the largest box first; ours keeps the network's order.
    sizes = (found.boxes[:, 2] - found.boxes[:, 0]) * (found.boxes[:, 3] - found.boxes[:, 1])
    order = np.argsort(sizes)[::-1]
    np.testing.assert_allclose(found.boxes[order], boxes.astype(float), rtol=0, atol=0.01)
    np.testing.assert_allclose(found.landmarks[order], landmarks.astype(float), rtol=0, atol=0.01)
    np.testing.assert_allclose(found.probabilities[order], probabilities.astype(float), rtol=0, atol=1e-4)
    return len(found)


def _resized(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def test_the_settings_are_those_of_facenet_pytorch(reference: Any) -> None:
    ours = (MINIMUM_FACE, list(STAGE_THRESHOLDS), PYRAMID_FACTOR)
    assert ours == (reference.min_face_size, list(reference.thresholds), reference.factor)


@pytest.mark.parametrize(("height", "width"), [(600, 512), (300, 256), (171, 150), (90, 77), (25, 21)])
def test_faces_are_those_of_facenet_pytorch(
    detector: FaceDetector, reference: Any, hopper: np.ndarray, height: int, width: int
) -> None:
    found = _assert_same_faces(detector, reference, _resized(hopper, height, width))
    assert found == 1 or height < 100


def test_two_faces_in_one_photo(detector: FaceDetector, reference: Any, hopper: np.ndarray) -> None:
    small = _resized(hopper, 300, 256)
    assert _assert_same_faces(detector, reference, np.hstack([small, small[:, ::-1]])) == 2


def test_landmarks_are_in_the_order_of_the_template(detector: FaceDetector, hopper: np.ndarray) -> None:
    # Read off the photo by eye, in pixels of the 512x600 picture.
    by_eye = np.array([(222, 192), (310, 186), (270, 240), (234, 281), (306, 277)])
    found = detector.detect(hopper)
    assert np.abs(found.landmarks[0] - by_eye).max() < 8
    left, top, right, bottom = found.boxes[0]
    assert left < by_eye[:, 0].min()
    assert by_eye[:, 0].max() < right
    assert top < by_eye[:, 1].min()
    assert by_eye[:, 1].max() < bottom
    assert found.probabilities[0] > 0.99


def test_faces_of_ordinary_photos_are_those_of_facenet_pytorch(
    detector: FaceDetector, reference: Any, shared_data: Path
) -> None:
    faces = {}
    for path in sorted((shared_data / "photos").iterdir()):
        photo = read_photo(path)
        shrink = -(-max(photo.shape) // 800)  # the large ones smaller, so that the test is quick enough for every day
        photo = _resized(photo, photo.shape[0] // shrink, photo.shape[1] // shrink)
        faces[path.name] = _assert_same_faces(detector, reference, photo)
    assert faces["couple.jpg"] == 2
    assert faces["kate_siegel.jpg"] == 1
    assert faces["several_faces.jpg"] > 4


def test_faces_of_lfw_are_those_of_facenet_pytorch(detector: FaceDetector, reference: Any, shared_data: Path) -> None:
    photos = sorted((shared_data / "lfw" / "lfw-deepfunneled").glob("*/*_0001.jpg"))[::430]
    assert len(photos) >= 9
    for path in photos:
        assert _assert_same_faces(detector, reference, read_photo(path)) >= 1


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (19, 19, 3), (19, 300, 3), (300, 19, 3), (20, 20, 3), (20, 400, 3), (64, 64, 3), (150, 90, 3)]
)
@pytest.mark.parametrize("grey", [0, 128, None])
def test_no_face_is_an_empty_result_without_a_warning(
    detector: FaceDetector, shape: tuple[int, ...], grey: int | None
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    photo = noise if grey is None else np.full(shape, grey, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = detector.detect(photo)
    assert len(found) == 0
    assert (found.boxes.shape, found.probabilities.shape, found.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))


def test_a_face_too_small_to_look_for_is_not_found(detector: FaceDetector, hopper: np.ndarray) -> None:
    # The face is 181 of 512 pixels wide: at a ninth about 20, at a twentieth 9.
    assert len(detector.detect(_resized(hopper, 30, 26))) == 0


@pytest.mark.parametrize(("minimum_face", "expected"), [(12, [1, 1, 1]), (40, [1, 1, 1]), (70, [1, 1, 0])])
def test_another_smallest_face_is_that_of_facenet_pytorch(
    hopper: np.ndarray, minimum_face: int, expected: list[int]
) -> None:
    """Also that it does what it says, on faces of about 180, 60 and 25 pixels; its bound is not a sharp one."""
    detector = FaceDetector(minimum_face=minimum_face)
    reference = MTCNN(keep_all=True, device="cpu", min_face_size=minimum_face)
    for (height, width), count in zip([(600, 512), (200, 171), (84, 72)], expected, strict=True):
        found = _assert_same_faces(detector, reference, _resized(hopper, height, width))
        assert found == count


# ------------------------------------------------------------------------------------------------- batches, tiles


def test_photos_of_any_sizes_in_one_batch_are_those_of_facenet_pytorch(
    detector: FaceDetector, reference: Any, hopper: np.ndarray
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    tiny = np.zeros((5, 8, 3), np.uint8)
    photos = [noise, _resized(hopper, 300, 256), tiny, hopper, _resized(hopper, 171, 150), noise, hopper[:, 100:400]]
    found = detector.detect_batch(photos)
    assert [
        _compared(faces, reference, photo) for faces, photo in zip(found, photos, strict=True) if photo is not tiny
    ] == [0, 1, 1, 1, 0, 1]
    assert len(found[2]) == 0
    assert detector.detect_batch([]) == []


def test_a_photo_cut_into_tiles_and_bands_gives_the_same_faces(
    detector: FaceDetector, reference: Any, hopper: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "TILE", 30)
    monkeypatch.setattr(area, "TABLE_LIMIT", 20_000)
    photo = np.hstack([hopper, _resized(hopper, 600, 512)[:, ::-1], np.zeros((600, 101, 3), np.uint8)])
    assert _assert_same_faces(detector, reference, photo) == 2


@pytest.mark.parametrize(("height", "width"), [(20, 20), (21, 33), (22, 20), (37, 300), (38, 301), (200, 23)])
def test_levels_of_odd_and_even_sides_are_looked_at_to_their_border(
    detector: FaceDetector, reference: Any, height: int, width: int
) -> None:
    photo = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    _assert_same_faces(detector, reference, cv2.blur(photo, (5, 5)))


@pytest.mark.slow
def test_faces_of_many_photos_are_those_of_facenet_pytorch(
    detector: FaceDetector, reference: Any, shared_data: Path
) -> None:
    """On at least 99.5 % of the photos, looked at in batches as the pipeline does; prints what differs."""
    lfw = sorted((shared_data / "lfw" / "lfw-deepfunneled").glob("*/*.jpg"))[::15][:500]
    celeba = sorted((shared_data / "celeba291").glob("*/*.jpg"))[::30][:200]
    paths = [*lfw, *celeba, *sorted((shared_data / "photos").iterdir())]
    assert len(paths) > 705
    different: list[str] = []

    def compare(path: Path, photo: np.ndarray, faces: DetectedFaces) -> None:
        try:
            _compared(faces, reference, photo)
        except AssertionError as error:
            different.append(f"{path}: {error}")

    for start in range(0, len(paths), 16):
        photos = [read_photo(path) for path in paths[start : start + 16]]
        for path, photo, faces in zip(paths[start:], photos, detector.detect_batch(photos), strict=False):
            compare(path, photo, faces)
    print(f"{len(different)} of {len(paths)} photos differ", *different, sep="\n")
    assert len(different) <= 0.005 * len(paths)
