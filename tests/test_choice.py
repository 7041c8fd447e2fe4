"""Protects the choice of the subject among the faces of a photo."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.align.detector import DetectedFaces
from facegm.align.face import FaceChoice


def _faces(*boxes: tuple[float, float, float, float]) -> DetectedFaces:
    count = len(boxes)
    return DetectedFaces(
        boxes=np.array(boxes, float).reshape(count, 4), probabilities=np.ones(count), landmarks=np.zeros((count, 5, 2))
    )


CENTRAL, LARGER_AT_THE_BORDER, SMALL_CENTRAL = (
    (80.0, 70.0, 170.0, 180.0),
    (0.0, 0.0, 110.0, 120.0),
    (115, 115, 135, 135),
)


def test_the_subject_is_chosen_over_a_larger_bystander() -> None:
    shape = (250, 250, 3)
    assert FaceChoice().choose(_faces(LARGER_AT_THE_BORDER, CENTRAL), shape) == 1
    assert FaceChoice().choose(_faces(CENTRAL, LARGER_AT_THE_BORDER), shape) == 0
    assert FaceChoice().choose(_faces(SMALL_CENTRAL, LARGER_AT_THE_BORDER, CENTRAL), shape) == 2
    assert FaceChoice().choose(_faces(LARGER_AT_THE_BORDER), shape) == 0
    assert FaceChoice().choose(_faces(), shape) is None


@pytest.mark.parametrize(("shape", "chosen"), [((200, 620, 3), 1), ((200, 580, 3), 0), ((620, 200, 3), 0)])
def test_of_equal_faces_the_one_nearer_the_middle_is_chosen(shape: tuple[int, ...], chosen: int) -> None:
    near_the_left, near_the_right = (60.0, 60.0, 140.0, 140.0), (460.0, 60.0, 540.0, 140.0)
    assert FaceChoice().choose(_faces(near_the_left, near_the_right), shape) == chosen


_COORDINATES = st.floats(0, 500)


@given(
    boxes=st.lists(st.tuples(_COORDINATES, _COORDINATES, st.floats(1, 300), st.floats(1, 300)), min_size=1, max_size=6),
    height=st.integers(20, 600),
    width=st.integers(20, 600),
)
def test_the_choice_is_facenets_rule(boxes: list[tuple[float, float, float, float]], height: int, width: int) -> None:
    # align_dataset_mtcnn.py of davidsandberg/facenet: bounding_box_size - offset_dist_squared * 2.0, the largest wins.
    scores = []
    for x, y, box_width, box_height in boxes:
        centre_x, centre_y = x + box_width / 2, y + box_height / 2
        scores.append(box_width * box_height - 2.0 * ((centre_x - width / 2) ** 2 + (centre_y - height / 2) ** 2))
    chosen = FaceChoice().choose(_faces(*((x, y, x + w, y + h) for x, y, w, h in boxes)), (height, width, 3))
    assert chosen is not None
    assert scores[chosen] >= max(scores) - 1e-6
