"""Protects the listing of photos: folders and lists name each photo exactly once, with the right identity."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegm.data.find_photos import find_photos
from facegm.errors import FacegmError

# ------------------------------------------------------------------------------------------------- folders


def _touch(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_tree_gives_photos_by_their_suffix_sorted_by_key(tmp_path: Path) -> None:
    _touch(tmp_path, "Bob/1.JPG", "Ann/b.png", "Ann/2019/summer/a.jpeg", "a.webp", "Ann-Lee/x.tiff", "Zoe/z.gif")
    _touch(tmp_path, "Zoe/y.bmp", "Zoe/x.tif", "Ann/notes.txt", "Ann/README", "Ann/a.jpg.part", ".DS_Store", "Ann/jpg")
    _touch(tmp_path, ".cache/a.jpg", "Ann/.hidden.jpg", "Ann/.thumbs/t.jpg", "Bob/2.jpg/inside.jpg")

    photos = find_photos(tmp_path)

    expected = {
        "Ann-Lee/x.tiff": "Ann-Lee",  # "-" sorts before "/": the order is that of the whole key, byte by byte
        "Ann/2019/summer/a.jpeg": "Ann",
        "Ann/b.png": "Ann",
        "Bob/1.JPG": "Bob",
        "Bob/2.jpg": "Bob",  # a folder named like a photo: listed, to be recorded as unreadable, and not entered
        "Zoe/x.tif": "Zoe",
        "Zoe/y.bmp": "Zoe",
        "Zoe/z.gif": "Zoe",
        "a.webp": tmp_path.name,
    }
    assert [(photo.key, photo.identity) for photo in photos] == list(expected.items())
    assert [photo.path for photo in photos] == [tmp_path / key for key in expected]


def test_a_tree_is_followed_through_links(tmp_path: Path) -> None:
    _touch(tmp_path, "elsewhere/a.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "Ann").symlink_to(tmp_path / "elsewhere")
    assert [(photo.key, photo.identity) for photo in find_photos(tmp_path / "set")] == [("Ann/a.jpg", "Ann")]


def test_odd_names_in_a_tree_lead_back_to_the_file(tmp_path: Path) -> None:
    names = [b"J\xf6rg/caf\xe9.jpg", "Zoë/été\u2028.jpg".encode(), b"two\nlines/a\nb\tc.png", b" / .jpg"]
    names += [b"\xc0/sorts before.jpg", "字/by its bytes.jpg".encode()]
    _touch(tmp_path, *names)
    photos = find_photos(tmp_path)
    assert [os.fsencode(photo.key) for photo in photos] == sorted(names)
    assert [os.fsencode(photo.identity) for photo in photos] == [name.split(b"/")[0] for name in sorted(names)]
    assert all(photo.path.is_file() for photo in photos)


@pytest.mark.parametrize("name", ["empty", "text", "missing", "empty.txt", "blank.txt"])
def test_a_source_without_photos_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    _touch(tmp_path, "text/readme.txt", "empty.txt")
    (tmp_path / "blank.txt").write_text("\n \n\t\n")
    with pytest.raises(FacegmError, match=f"{name}: no (photo|such)"):
        find_photos(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_an_error_not_a_gap(tmp_path: Path) -> None:
    _touch(tmp_path, "Ann/a.jpg", "Bob/b.jpg")
    (tmp_path / "Bob").chmod(0)
    with pytest.raises(FacegmError, match="Bob: cannot list"):
        find_photos(tmp_path)
    (tmp_path / "Bob").chmod(0o700)


# ------------------------------------------------------------------------------------------------- lists


def _list(folder: Path, content: str | bytes) -> Path:
    path = folder / "list.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_list_names_photos_relative_absolute_and_outside(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
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
        "6.jpg": ("lists", folder / "6.jpg"),
        "Ann/2.jpg": ("Ann Lee", folder / "Ann/2.jpg"),
        "Zoe/1.jpg": ("Zoe", folder / "Zoe/1.jpg"),
        "scan without suffix": ("Dora", folder / "scan without suffix"),
        f"{up}/abs/3.png": ("Carl", tmp_path / "abs/3.png"),
        f"{up}/up/4.jpg": ("up", tmp_path / "up/4.jpg"),
    }
    for text in ("\n".join(lines), "\r\n".join(lines) + "\r\n", "\ufeff" + "\r\n".join(lines)):
        photos = find_photos(_list(folder, text))
        found = {photo.key: (photo.identity, Path(os.path.normpath(photo.path))) for photo in photos}
        assert found == expected
        assert [photo.key for photo in photos] == sorted(expected, key=os.fsencode)


@pytest.mark.parametrize("again", ["Ann/1.jpg", "./Ann/1.jpg\tBob", "Ann/../Ann//1.jpg"])
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
    (photo,) = find_photos(_list(tmp_path, b"J\xf6rg/caf\xe9.jpg\n"))
    assert photo.path.is_file()
    assert os.fsencode(photo.key) == b"J\xf6rg/caf\xe9.jpg"
    assert os.fsencode(photo.identity) == b"J\xf6rg"


_TEXT = st.text(st.characters(exclude_characters="\t\n\r\0/\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=12)
_NAME = st.lists(_TEXT.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=3).map("/".join)
_ENTRIES = st.dictionaries(_NAME.filter(str.strip), st.none() | _TEXT.filter(str.strip), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(entries=_ENTRIES, ending=st.sampled_from(["\n", "\r\n"]))
def test_any_names_survive_a_list(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, str | None], ending: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    lines = [name if identity is None else f"{name}\t{identity}" for name, identity in entries.items()]
    photos = find_photos(_list(folder, ending.join(lines)))
    assert [photo.key for photo in photos] == sorted(entries, key=str.encode)
    for photo in photos:
        identity = entries[photo.key]
        assert photo.path == folder / photo.key
        assert photo.identity == ((folder / photo.key).parent.name if identity is None else identity.strip())


def test_links_are_followed_but_not_in_a_loop(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "1.jpg").touch()
    (tmp_path / "ann" / "loop").symlink_to(tmp_path)
    (tmp_path / "bob").symlink_to(tmp_path / "ann")
    assert [photo.key for photo in find_photos(tmp_path)] == ["ann/1.jpg", "bob/1.jpg"]
