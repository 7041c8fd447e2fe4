"""Protects what is said of a set of which images are missing: which pairs went, of which kind and fold."""

import numpy as np

from facegm.eval.sets.missing import drop_missing
from facegm.eval.sets.pairs import Pairs

PAIRS = Pairs(
    ("a/1", "a/1", "b/1", "c/1", "a/2", "d/1"),
    ("a/2", "b/1", "b/2", "a/2", "a/3", "c/1"),
    np.array([True, False, True, False, True, False]),
    np.array([0, 0, 1, 1, 2, 2]),
    "made up",
)


def test_pairs_of_missing_images_go_and_are_counted_by_kind_and_fold() -> None:
    left = drop_missing(PAIRS, [image for image in PAIRS.images if image not in ("b/1", "a/3")])
    assert left.pairs.names_a == ("a/1", "c/1", "d/1")
    assert left.pairs.names_b == ("a/2", "a/2", "c/1")
    assert left.pairs.same.tolist() == [True, False, False]
    assert left.pairs.fold.tolist() == [0, 1, 2]
    assert left.pairs.fold_origin == "made up"
    assert left.missing == ("a/3", "b/1")
    assert left.matched.tolist() == [0, 1, 1]
    assert left.mismatched.tolist() == [1, 0, 0]
    assert left.describe() == (
        "3 of 6 pairs dropped (2 matched + 1 mismatched: 0 + 1 of fold 0, 1 + 0 of fold 1, 1 + 0 of fold 2), "
        "as 2 images are missing: a/3, b/1"
    )
    assert left.numbers() == {
        "dropped": 3,
        "matched_by_fold": [0, 1, 1],
        "mismatched_by_fold": [1, 0, 0],
        "missing_images": ["a/3", "b/1"],
    }


def test_nothing_goes_where_all_are_there() -> None:
    left = drop_missing(PAIRS, PAIRS.images)
    assert left.count == 0
    assert left.pairs.digest == PAIRS.digest
