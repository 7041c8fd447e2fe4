"""Protects the road that alignment and embedder share: odd photos, batches in bounded memory, large photos alone."""

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from embedders import group, portrait, small_embedder

from facegm.align import finder as finder_module
from facegm.align import worker
from facegm.align.config import AlignConfig
from facegm.align.detector import DetectedFaces, FaceDetector
from facegm.align.face import FaceChoice, Subject
from facegm.align.finder import BATCH, BATCH_PIXELS, FaceFinder, Trouble, batches, decoded_ahead
from facegm.align.worker import Aligner
from facegm.embedding import embedder as embedder_module
from facegm.errors import FacegmError

ODD_WIDTH = 77
PATIENCE = 60


class Stumbling(FaceDetector):
    """Stumbles over photos of one width."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def detect_batch(self, photos: Sequence[np.ndarray]) -> list[DetectedFaces]:
        if any(photo.shape[1] == ODD_WIDTH for photo in photos):
            raise ZeroDivisionError("odd photo")
        return super().detect_batch(photos)


class Decoded(NamedTuple):
    pixels: np.ndarray | None


# ------------------------------------------------------------------------------------------------- odd photos


def test_an_odd_photo_is_a_trouble_of_its_own() -> None:
    first, odd, last = FaceFinder(Stumbling()).find([portrait(), portrait(ODD_WIDTH), portrait(90, 90)], [1, 1, 1])
    assert odd == Trouble("ZeroDivisionError: odd photo")
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert (len(first), len(last)) == (1, 1)
    assert FaceFinder(Stumbling()).find([], []) == []
    with pytest.raises(FacegmError, match="the detector fails on every photo: ZeroDivisionError: odd photo"):
        FaceFinder(Stumbling()).find([portrait(ODD_WIDTH)] * 2, [1, 1])


def test_the_embedder_says_which_photo_the_detector_fails_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder_module, "FaceDetector", Stumbling)
    photos = [portrait(), portrait(ODD_WIDTH), portrait(90, 90)]
    first, odd, last = small_embedder().find_batch(photos, color="rgb")
    assert (len(first.faces), len(last.faces), odd.faces) == (1, 1, ())
    assert (odd.reason, odd.size) == ("unreadable", (ODD_WIDTH, 160))
    assert odd.message == "the detector fails on it: ZeroDivisionError: odd photo"
    embeddings, is_found = small_embedder().embed(photos, color="rgb", on_missing="skip")
    assert (embeddings.shape[0], is_found.tolist()) == (2, [True, False, True])


def test_a_worker_that_cannot_look_at_a_large_photo_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be given photos that it dies of."""
    monkeypatch.setattr(worker, "FaceDetector", Stumbling)
    monkeypatch.setattr(worker, "decode_photo", lambda _: portrait(ODD_WIDTH))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: odd photo"):
        Aligner(AlignConfig(), "cpu").check()


@pytest.mark.parametrize("value", [40.0, np.nan])
def test_the_subject_is_the_same_whether_all_faces_are_asked_for_or_one(value: float) -> None:
    """The first face in rank that a warp brings to the template."""

    class Flat(FaceDetector):
        def detect_batch(self, photos: Sequence[np.ndarray]) -> list[DetectedFaces]:
            found = super().detect_batch(photos)
            for faces in found:
                first = FaceChoice().choose(faces, photos[0].shape)
                faces.landmarks[first] = value
            return found

    plain, odd = FaceFinder(FaceDetector()), FaceFinder(Flat())
    [faces], [rest] = plain.find([group()], [1]), odd.find([group()], [1])
    [subject] = odd.align([group()], [1], FaceChoice(), crop_when_missing=False)
    assert not isinstance(faces, Trouble)
    assert not isinstance(rest, Trouble)
    assert isinstance(subject, Subject)
    assert [face.box.tolist() for face in rest] == [face.box.tolist() for face in faces[1:]]
    assert subject.face is not None
    np.testing.assert_array_equal(subject.face.chip, faces[1].chip)
    [alone] = odd.align([portrait()], [1], FaceChoice(), crop_when_missing=True)
    assert isinstance(alone, Subject)
    assert (alone.face, alone.faces, alone.reason) == (None, 1, "the landmarks of no face determine a warp")
    assert alone.image is not None


# ------------------------------------------------------------------------------------------------- batches


def test_batches_are_cut_by_photos_and_by_pixels() -> None:
    small, large = Decoded(np.zeros((10, 10, 3), np.uint8)), Decoded(np.zeros((1500, 1500, 3), np.uint8))
    found = [*batches([small] * (BATCH + 3) + [large, large, Decoded(None)])]
    assert [len(batch) for batch in found] == [BATCH, 4, 2]
    assert all(sum(0 if p.pixels is None else p.pixels.size // 3 for p in batch) <= BATCH_PIXELS for batch in found)


def test_one_batch_is_decoded_while_another_is_looked_at() -> None:
    decoded = threading.Semaphore(0)

    def photos() -> Iterator[Decoded]:
        for _ in range(3 * BATCH):
            yield Decoded(np.zeros((1, 1, 3), np.uint8))
            decoded.release()

    ahead = decoded_ahead(batches(photos()))
    next(ahead)
    for _ in range(2 * BATCH - 1):  # the next batch comes without being asked for
        assert decoded.acquire(timeout=PATIENCE)
    assert not decoded.acquire(timeout=0.2), "more than one batch is decoded ahead"
    assert len([*ahead]) == 2


def test_a_very_large_photo_is_gone_before_another_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder_module, "BATCH_PIXELS", 100)
    monkeypatch.setattr(finder_module, "ALONE_PIXELS", 200)
    before: list[weakref.ref[np.ndarray]] = []

    def photos() -> Iterator[np.ndarray]:
        for _ in range(4):
            gc.collect()
            assert [reference for reference in before if reference() is not None] == []
            photo = np.zeros((15, 15, 3), np.uint8)
            before.append(weakref.ref(photo))
            yield photo
            del photo

    assert [photo.size for photo in small_embedder().find_batch(photos(), color="rgb")] == [(15, 15)] * 4
