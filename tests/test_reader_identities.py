"""Protects whose photos these are: the folder that is asked for, and a word wherever that may be the wrong one."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.data.readers.identities import Identities
from facegm.errors import UsageError


def _told(keys: Sequence[str], level: int = 1) -> tuple[list[str | None], list[str]]:
    identities = Identities(level)
    return [identities.of(key) for key in keys], identities.doubts()


@pytest.mark.parametrize(
    ("key", "by_level"),
    [
        ("Ann/1.jpg", ["Ann", "Ann", "Ann"]),
        ("lfw/lfw-deepfunneled/Ann/1.jpg", ["Ann", "lfw-deepfunneled", "lfw"]),
        ("Ann/2019/1.jpg", ["2019", "Ann", "Ann"]),
        ("1.jpg", [None, None, None]),
    ],
)
def test_the_identity_is_the_folder_of_its_level_or_the_highest(key: str, by_level: list[str | None]) -> None:
    assert [_told([key], level)[0][0] for level in (1, 2, 3)] == by_level


_FOLDERS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=4)


@given(photos=st.lists(_FOLDERS, max_size=8), level=st.integers(1, 5))
def test_any_folders_give_the_one_that_is_counted_from_the_photo(photos: list[list[str]], level: int) -> None:
    found, doubts = _told(["/".join([*folders, "1.jpg"]) for folders in photos], level)
    for folders, identity in zip(photos, found, strict=True):
        upwards = [*reversed(folders)]
        assert identity == (upwards[min(level, len(upwards)) - 1] if upwards else None)
    assert all(doubt and "\n" not in doubt for doubt in doubts)


@pytest.mark.parametrize("level", [0, -1])
def test_a_level_that_is_none_is_refused(level: int) -> None:
    with pytest.raises(UsageError, match="1 is the photo's own folder"):
        Identities(level)


MANY = [f"{letter}/1.jpg" for letter in "abcdefghijkl"]


@pytest.mark.parametrize(
    "keys",
    [
        MANY,
        [f"set/{key}" for key in MANY],
        [f"set/train/{key}" for key in MANY],
        ["Ann/1.jpg", "Bob/1.jpg"],
        ["train/Ann/1.jpg", "val/Bob/1.jpg"],
        ["train/Ann/1.jpg", "train/Bob/1.jpg"],
    ],
)
def test_usual_sets_are_not_doubted(keys: list[str]) -> None:
    assert _told(keys)[1] == []


def test_albums_of_one_person_are_doubted_with_the_option_that_joins_them() -> None:
    found, doubts = _told(["ann/album1/1.jpg", "ann/album1/2.jpg", "ann/album2/3.jpg"])
    assert found == ["album1", "album1", "album2"]
    hint = "if the folder above is the person, say --identity-level=2 (in training data.identity_level)"
    assert doubts == [f"all 2 identities lie below ann: album1, album2; {hint}"]
    assert _told(["ann/album1/1.jpg", "ann/album2/3.jpg"], 2) == (["ann", "ann"], [])


def test_a_set_divided_into_parts_keeps_its_identities_and_shared_ones_are_mentioned() -> None:
    keys = [f"train/n{number}/1.jpg" for number in range(4)] + ["val/n8/2.jpg", "val/n9/3.jpg"]
    assert _told(keys) == (["n0", "n1", "n2", "n3", "n8", "n9"], [])
    found, doubts = _told([*keys, "val/n1/2.jpg"])
    assert len(set(found)) == 6
    assert doubts == ["1 identity has photos in several parts of the set, such as train/n1 and val/n1"]
    assert _told(["vgg_train/n1/1.jpg", "vgg_test/n1/1.jpg"])[1] == [
        "1 identity has photos in several parts of the set, such as vgg_test/n1 and vgg_train/n1"
    ]


@pytest.mark.parametrize("parent", ["latest", "Trainor", "valerie", "contested"])
def test_names_that_hold_those_of_parts_are_persons(parent: str) -> None:
    assert "--identity-level=2" in _told([f"{parent}/2019/1.jpg", "protest/2019/1.jpg"])[1][0]


def test_folders_of_one_name_below_several_persons_are_doubted() -> None:
    keys = [f"{person}/{year}/1.jpg" for person in ("ann", "bob", "cy") for year in (2018, 2019)]
    found, doubts = _told([*keys, "dora/old/1.jpg"])
    assert set(found) == {"2018", "2019", "old"}
    assert doubts == [
        "2 identities have photos in several folders of one name, ann/2018 and bob/2018; ann/2019 and bob/2019; "
        "if the folder above is the person, say --identity-level=2 (in training data.identity_level)"
    ]
    assert _told(keys, 2)[1] == []


@pytest.mark.parametrize(
    ("keys", "pair"),
    [
        (["ann/1.jpg", "ann/2019/2.jpg", "bob/1.jpg"], "ann and ann/2019"),
        (["bob/1.jpg", "ann/album1/2.jpg", "ann/album2/2.jpg"], "bob and ann/album1"),
        (["x/bob/1.jpg", "x/ann/a/b/2.jpg", "x/ann/1.jpg"], "x/ann and x/ann/a/b"),
        (["aa/1.jpg", "ann/1.jpg", "ann/2019/2.jpg", "zz/k/l/3.jpg"], "ann and ann/2019"),
    ],
)
def test_photos_in_folders_of_different_depth_are_doubted(keys: list[str], pair: str) -> None:
    doubts = _told(keys)[1]
    assert doubts[0].startswith(f"identities are folders of different depth, such as {pair}; if")


def test_at_a_higher_level_a_person_with_photos_and_albums_is_no_doubt() -> None:
    found, doubts = _told(["ann/1.jpg", "ann/2019/2.jpg", "bob/x/3.jpg"], 2)
    assert found == ["ann", "ann", "bob"]
    assert doubts == []


def test_strangers_beside_the_identities_have_none_and_are_counted() -> None:
    found, doubts = _told(["Ann/1.jpg", "Bob/1.jpg", "y.jpg", "x.jpg", "z.jpg"])
    assert found == ["Ann", "Bob", None, None, None]
    assert doubts == ["3 photos lie in no folder, such as y.jpg: whose face that is is not known"]
    assert _told(["x.jpg"])[1] == ["1 photo lies in no folder, such as x.jpg: whose face that is is not known"]
