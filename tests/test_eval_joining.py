"""Protects the rule by which pairs find their faces and embeddings: nothing but names, and never the wrong one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.errors import FacegmError
from facegm.eval.joining import join

NAMES = ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Bob/Bob_0001.jpg"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".PNG", ".webp", ""])
@pytest.mark.parametrize("folder", ["", "lfw/", "/data/sets/lfw/"])
def test_any_suffix_and_a_folder_in_front(folder: str, suffix: str) -> None:
    keys = [folder + name.removesuffix(".jpg") + suffix for name in reversed(NAMES)]
    assert join(NAMES, ["other/x.jpg", *keys]) == {NAMES[0]: 3, NAMES[1]: 2, NAMES[2]: 1}


@pytest.mark.parametrize("name", ["Ann/Dr. Who", "Ann/photo.v1", "a.b/c"])
def test_a_name_without_suffix_may_hold_dots(name: str) -> None:
    assert join([name], ["Ann/Dr.jpg", "Ann/photo.jpg", f"{name}.jpg"]) == {name: 2}
    assert join([f"{name}.png"], [name]) == {f"{name}.png": 0}


def test_what_is_spelled_alike_comes_before_what_differs_by_its_suffix() -> None:
    assert join(["1.v1", "1.v2"], ["1.v2", "1.v1", "1.jpg"]) == {"1.v1": 1, "1.v2": 0}


def test_the_end_of_another_name_is_not_the_name() -> None:
    assert join(["Ann/1.jpg"], ["JoAnn/1.jpg", "Ann/11.jpg", "Ann/1.jpg/2.jpg"]) == {}
    assert join([], ["a"]) == join(["a"], []) == {}


def test_of_several_folders_in_front_the_one_that_most_names_have_is_all_names() -> None:
    """Protects from a copy of a few photos elsewhere in the set, and from joining one image to a stranger's."""
    keys = ["b/Ann/Ann_0001.jpg", *[f"lfw/{name}" for name in NAMES[:2]], "more/Bob/Bob_0001.jpg"]
    assert join(NAMES, keys) == {NAMES[0]: 1, NAMES[1]: 2}


@pytest.mark.parametrize(
    ("names", "keys", "named"),
    [
        (["a/1.jpg"], ["a/1.png", "a/1.bmp"], r"a/1\.jpg: a/1\.png and a/1\.bmp are both like it"),
        (["a/1.jpg", "a/1"], ["a/1.jpg"], r"a/1\.jpg and a/1: the pairs name both"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(names: list[str], keys: list[str], named: str) -> None:
    with pytest.raises(FacegmError, match=named):
        join(names, keys)


part = st.text("ab.", min_size=1, max_size=3).filter(lambda text: text.strip(".") != "")
path = st.lists(part, min_size=1, max_size=3).map("/".join)


@given(st.lists(path, min_size=1, max_size=6, unique=True), path)
def test_exact_names_behind_one_folder_are_found_whatever_their_form(names: list[str], folder: str) -> None:
    keys = [f"{folder}/{name}" for name in names]
    assert join(names, keys) == {name: row for row, name in enumerate(names)}
