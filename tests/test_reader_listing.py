"""Protects lists of photos: each way in which people write them names the right file and identity."""

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from facegm.data.readers.source import find_photos
from facegm.errors import FacegmError


def _touch(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _list(folder: Path, content: str | bytes) -> Path:
    path = folder / "list.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_list_names_photos_relative_absolute_and_outside(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    _touch(folder, "Zoe/1.jpg")
    lines = [
        "Zoe/1.jpg",
        "./Ann//2.jpg\tAnn Lee",
        "",
        f"{tmp_path}/abs/3.png\t Carl ",
        "../up/4.jpg",
        "..odd/5.jpg",
        "scan without suffix\tDora",
        "   ",
        "6.jpg",
    ]
    up = str(tmp_path).lstrip("/")
    expected = {
        "..odd/5.jpg": ("..odd", folder / "..odd/5.jpg"),
        "6.jpg": (None, folder / "6.jpg"),
        "Ann/2.jpg": ("Ann Lee", folder / "Ann/2.jpg"),
        "Zoe/1.jpg": ("Zoe", folder / "Zoe/1.jpg"),
        "scan without suffix": ("Dora", folder / "scan without suffix"),
        f"{up}/abs/3.png": ("Carl", tmp_path / "abs/3.png"),
        f"{up}/up/4.jpg": ("up", tmp_path / "up/4.jpg"),
    }
    for text in ("\n".join(lines), "\r\n".join(lines) + "\r\n", "\ufeff" + "\r\n".join(lines)):
        photos = find_photos(_list(folder, text)).photos
        found = {photo.key: (photo.identity, Path(os.path.normpath(photo.path))) for photo in photos}
        assert found == expected
        assert [photo.key for photo in photos] == sorted(expected, key=os.fsencode)


def test_what_is_behind_a_photos_name_is_its_identity(tmp_path: Path) -> None:
    expected = {
        "0000045/001.jpg": "0",
        "0000099/my photo 2.JPG": "10575",
        "Ann/3.png": "7",
        "Ann/4.png 8": "tab",  # a tab is the other way to say it
        "Ann/5 6": "Ann",  # `Ann/5` is no photo's name, and no such file is there
        "Ann/6.jpg": "x7",
        "Ann/7.jpg": "-1",
        "Ann/8 .jpg": "Ann",
        "Ann/9.jpg 9.jpg": "Ann",
        "Ann/10.jpg": "Ann Lee",
        "Ann/11.jpg": "Ann Lee",
        "Ann/12.jpg": "3",
        "Ann, Lee/13.jpg": "Ann",
        "Ann/14, 15.jpg": "Ann",
        "Ann/16.jpg": "Lee, Ann",
        "Ann/17, 18.jpg": "9",
        "Ann/scan 19": "Bea",
        "Ann/scan 20": "Ann",
        "Ann/scan,21": "Bea",
        "Ann/22.jpg": "Bea",
    }
    lines = [
        "0000045/001.jpg 0",
        "0000099/my photo 2.JPG 10575",
        "Ann/3.png   7",
        "Ann/4.png 8\ttab",
        "Ann/5 6",
        "Ann/6.jpg x7",
        "Ann/7.jpg -1",
        "Ann/8 .jpg",
        "Ann/9.jpg 9.jpg",
        "Ann/10.jpg Ann Lee",
        "Ann/11.jpg,Ann Lee",
        "Ann/12.jpg, 3 ",
        "Ann, Lee/13.jpg,Ann",
        "Ann/14, 15.jpg",
        'Ann/16.jpg,"Lee, Ann"',
        '"Ann/17, 18.jpg",9',
        "Ann/scan 19 Bea",
        "Ann/scan 20",
        "Ann/scan,21,Bea",
        '"Ann/22.jpg","Bea"',
    ]
    _touch(tmp_path, "Ann/scan 19", "Ann/scan 20", "Ann/scan,21")
    for ending in ("\n", "\r\n"):
        photos = find_photos(_list(tmp_path, ending.join(lines))).photos
        assert {photo.key: photo.identity for photo in photos} == expected
        assert [photo.path for photo in photos] == [str(tmp_path / key) for key in sorted(expected)]


@pytest.mark.parametrize(
    "text",
    [
        "path,identity\nx/1.jpg,Ann\nx/2.jpg,Bob\n",
        "\ufeffPath, Label\r\nx/1.jpg, Ann\r\n\r\nx/2.jpg,Bob\r\n",
        'identity,split,filename\nAnn,train,x/1.jpg\n"Bob",test,"x/2.jpg"\n',
        "image\tid\nx/1.jpg\tAnn\nx/2.jpg\tBob",
        "x/1.jpg,Ann\nx/2.jpg,Bob",
        '"x/1.jpg","Ann"\n"x/2.jpg","Bob"',
        "x/1.jpg Ann\nx/2.jpg Bob",
        "x\\1.jpg,Ann\r\nx\\2.jpg,Bob\r\n",
        ".\\x\\1.jpg Ann\nx\\2.jpg Bob",
    ],
)
def test_the_ways_in_which_people_write_paths_and_identities(tmp_path: Path, text: str) -> None:
    _touch(tmp_path, "x/1.jpg", "x/2.jpg")
    found = find_photos(_list(tmp_path, text))
    assert [(photo.key, photo.identity) for photo in found.photos] == [("x/1.jpg", "Ann"), ("x/2.jpg", "Bob")]
    assert all(os.path.isfile(photo.path) for photo in found.photos)
    assert found.remarks == ()


def test_a_header_without_an_identity_leaves_it_to_the_folder(tmp_path: Path) -> None:
    _touch(tmp_path, "x/1.jpg")
    photos = find_photos(_list(tmp_path, "path,width\nx/1.jpg,640\n")).photos
    assert [(photo.key, photo.identity) for photo in photos] == [("x/1.jpg", "x")]


@pytest.mark.parametrize(
    ("text", "line"),
    [("path,identity\nx/1.jpg,Ann\nx/2.jpg\n", 3), ("x/1.jpg,Ann\nx/2.jpg,Lee, Ann\n", 2)],
)
def test_a_line_of_other_columns_is_named_with_its_number(tmp_path: Path, text: str, line: int) -> None:
    _touch(tmp_path, "x/1.jpg")
    with pytest.raises(FacegmError, match=rf"list\.txt, line {line}: . columns"):
        find_photos(_list(tmp_path, text))


def test_backslashes_that_are_part_of_names_stay(tmp_path: Path) -> None:
    _touch(tmp_path, "x\\1.jpg", "Ann/y\\2.jpg")
    photos = find_photos(_list(tmp_path, "x\\1.jpg\nAnn/y\\2.jpg\n")).photos
    assert [(photo.key, photo.identity) for photo in photos] == [("Ann/y\\2.jpg", "Ann"), ("x\\1.jpg", None)]


@pytest.mark.parametrize(
    "text", ["Ann/1.jpg,Ann\nBob/1.jpg,Bob\n", "Ann/1.jpg Ann\n", "faces\\Ann\\1.jpg\n", "Dear sir,\n"]
)
def test_a_list_of_which_nothing_is_there_names_a_path_and_what_is_expected(tmp_path: Path, text: str) -> None:
    first = {"A": "Ann/1.jpg", "f": "faces/Ann/1.jpg", "D": "Dear sir,"}[text[0]]
    with pytest.raises(FacegmError) as caught:
        find_photos(_list(tmp_path, text))
    assert f"photos is there, such as {tmp_path / first}; expected a photo's path on each line" in str(caught.value)
    assert "comma or a space and the identity" in str(caught.value)


def test_of_a_list_of_which_something_is_there_the_rest_is_left_to_fail(tmp_path: Path) -> None:
    _touch(tmp_path, "Ann/999.jpg")
    lines = [f"Ann/{number:03}.jpg" for number in range(1000)]
    assert len(find_photos(_list(tmp_path, "\n".join(lines))).photos) == 1000


def test_the_identity_of_a_listed_photo_is_the_folder_of_the_level(tmp_path: Path) -> None:
    _touch(tmp_path, "Ann/2019/1.jpg")
    text = f"Ann/2019/1.jpg\n{tmp_path}/abs/Bob/2019/2.jpg\n3.jpg\nCy/4.jpg\nx/y/5.jpg\tDora\n"
    found = find_photos(_list(tmp_path, text))
    assert {photo.identity for photo in found.photos} == {"2019", None, "Cy", "Dora"}
    assert any("--identity-level=2" in remark and "2019" in remark for remark in found.remarks)
    photos = find_photos(_list(tmp_path, text), identity_level=2).photos
    assert {photo.identity for photo in photos} == {"Ann", "Bob", None, "Cy", "Dora"}


@pytest.mark.parametrize("again", ["Ann/1.jpg 3", "Ann/1.jpg", "./Ann/1.jpg\tBob", "Ann/../Ann//1.jpg"])
def test_a_photo_listed_twice_is_an_error_with_its_line(tmp_path: Path, again: str) -> None:
    with pytest.raises(FacegmError, match=r"list\.txt, line 4: .* is listed twice"):
        find_photos(_list(tmp_path, f"Ann/1.jpg\n\nAnn/2.jpg\n{again}\n"))


def test_a_photo_given_as_the_list_is_an_error(tmp_path: Path) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (40, 24)).save(photo, "jpeg")
    with pytest.raises(FacegmError, match=r"line \d+: not text"):
        find_photos(_list(tmp_path, photo.getvalue()))


def test_a_list_of_names_that_are_no_utf8(tmp_path: Path) -> None:
    _touch(tmp_path, b"J\xf6rg/caf\xe9.jpg")
    (photo,) = find_photos(_list(tmp_path, b"J\xf6rg/caf\xe9.jpg\n")).photos
    assert os.path.isfile(photo.path)
    assert os.fsencode(photo.key) == b"J\xf6rg/caf\xe9.jpg"
    assert os.fsencode(photo.identity or "") == b"J\xf6rg"


_TEXT = st.text(
    st.characters(exclude_characters="\t\n\r\0/\\\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=12
)
_NAME = st.lists(_TEXT.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=3).map("/".join)
_ENTRIES = st.dictionaries(_NAME.filter(str.strip), st.none() | _TEXT.filter(str.strip), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(entries=_ENTRIES, ending=st.sampled_from(["\n", "\r\n"]))
def test_any_names_survive_a_list(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, str | None], ending: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "there.jpg").touch()
    entries = {"there.jpg": None, **entries}
    lines = [name if identity is None else f"{name}\t{identity}" for name, identity in entries.items()]
    photos = find_photos(_list(folder, ending.join(lines))).photos
    assert [photo.key for photo in photos] == sorted(entries, key=str.encode)
    for photo in photos:
        identity = entries[photo.key]
        assert photo.path == str(folder / photo.key)
        assert photo.identity == ((Path(photo.key).parent.name or None) if identity is None else identity.strip())


_WORD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(rows=st.dictionaries(_NAME, _WORD.filter(str.strip), min_size=1, max_size=5))
def test_any_names_survive_a_csv_file(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, str]) -> None:
    """As Python's own csv module writes them, but for line ends within a name."""
    folder = tmp_path_factory.getbasetemp()
    assume(not any(end in word for word in rows.values() for end in "\r\n"))
    rows = {f"x{name}.jpg": identity for name, identity in rows.items()}
    assume(len({os.path.normpath(name) for name in rows}) == len(rows))
    (folder / "there.jpg").touch()
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([("path", "identity"), ("there.jpg", "x"), *rows.items()])
    photos = find_photos(_list(folder, text.getvalue())).photos
    assert {photo.key: photo.identity for photo in photos if photo.key != "there.jpg"} == {
        os.path.normpath(name): identity.strip() for name, identity in rows.items()
    }
