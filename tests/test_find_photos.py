"""Protects the listing of photos: folders and lists name each photo exactly once, with the right identity."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegm.data.find_photos import find_photos
from facegm.data.photo_files import UnreadablePhotoError, read_photo_bytes
from facegm.data.photo_names import identities_by_folder
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


@pytest.mark.parametrize("leading", ["lfw/lfw-deepfunneled", "CASIA-WebFace/train/images", ""])
def test_folders_that_all_photos_share_are_passed_over(tmp_path: Path, leading: str) -> None:
    names = ["Ann/1.jpg", "Ann/2.jpg", "Bob/old/1.jpg"]
    _touch(tmp_path, *(f"{leading}/{name}".lstrip("/") for name in names), f"{leading}/README.txt".lstrip("/"))
    photos = find_photos(tmp_path)
    assert [photo.key for photo in photos] == [f"{leading}/{name}".lstrip("/") for name in names]
    assert [photo.identity for photo in photos] == ["Ann", "Ann", "Bob"]


@pytest.mark.parametrize(
    ("names", "identities"),
    [
        (["Ann/1.jpg", "Ann/2.jpg"], ["Ann", "Ann"]),  # one identity keeps its name
        (["set/Ann/1.jpg"], ["Ann"]),
        (["lfw/Ann/1.jpg", "lfw/stray.jpg"], ["lfw", "lfw"]),  # no folder that every photo has below `lfw`
        (["lfw/Ann/1.jpg", "stray.jpg"], ["lfw", None]),
        (["lfw/Ann/1.jpg", "more/Bob/1.jpg"], ["lfw", "more"]),
        (["set/Ann/1.jpg", "set/Anna/1.jpg"], ["Ann", "Anna"]),  # shared are folders, not beginnings of names
    ],
)
def test_the_identity_is_the_first_folder_that_tells_photos_apart(
    tmp_path: Path, names: list[str], identities: list[str | None]
) -> None:
    _touch(tmp_path, *names)
    assert [photo.identity for photo in find_photos(tmp_path)] == [name or tmp_path.name for name in identities]


_FOLDER = st.sampled_from(["a", "b", "ab", "c"])


@given(
    leading=st.lists(_FOLDER, max_size=3),
    photos=st.lists(st.tuples(st.sampled_from(["x", "y"]), st.lists(_FOLDER, max_size=2)), min_size=1, max_size=6),
)
def test_leading_folders_do_not_change_identities(leading: list[str], photos: list[tuple[str, list[str]]]) -> None:
    below = ["/".join([identity, *folders, "1.jpg"]) for identity, folders in photos]
    within = ["/".join([*leading, name]) for name in below]
    assert identities_by_folder(within) == identities_by_folder(below)
    if len({identity for identity, _ in photos}) == 2:
        assert identities_by_folder(within) == [identity for identity, _ in photos]


def test_tar_files_beside_photos_are_the_archives_they_came_from(tmp_path: Path) -> None:
    _touch(tmp_path, "lfw.tgz", "lfw/Ann/1.jpg", "lfw/Bob/1.jpg", "lfw/Bob/more.tar")
    assert [photo.key for photo in find_photos(tmp_path)] == ["lfw/Ann/1.jpg", "lfw/Bob/1.jpg"]


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "Ann").mkdir()
    os.mkfifo(tmp_path / "Ann" / "pipe.jpg")
    (tmp_path / "Ann" / "zero.jpg").symlink_to("/dev/zero")
    for photo in find_photos(tmp_path):
        with pytest.raises(UnreadablePhotoError, match=r"^not a regular file$"):
            read_photo_bytes(photo)

    for name in ("pipe", "pipe.rec", "pipe.tar"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FacegmError, match=f"{name}: no such folder, list, tar or rec file"):
            find_photos(tmp_path / name)
    (tmp_path / "shards").mkdir()
    os.mkfifo(tmp_path / "shards" / "0.tar")
    with pytest.raises(FacegmError, match=r"0\.tar: not a regular file"):
        find_photos(tmp_path / "shards")


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


def test_a_number_behind_a_photos_name_is_its_identity(tmp_path: Path) -> None:
    expected = {
        "0000045/001.jpg": "0",
        "0000099/my photo 2.JPG": "10575",
        "Ann/3.png": "7",
        "Ann/4.png 8": "tab",  # a tab is the other way to say it
        "Ann/5 6": "Ann",  # `Ann/5` is no photo's name
        "Ann/6.jpg x7": "Ann",
        "Ann/7.jpg -1": "Ann",
        "Ann/8 .jpg": "Ann",
        "Ann/9.jpg 9.jpg": "Ann",
    }
    lines = [
        "0000045/001.jpg 0",
        "0000099/my photo 2.JPG 10575",
        "Ann/3.png   7",
        "Ann/4.png 8\ttab",
        *list(expected)[4:],
    ]
    for ending in ("\n", "\r\n"):
        photos = find_photos(_list(tmp_path, ending.join(lines)))
        assert {photo.key: photo.identity for photo in photos} == expected
        assert [photo.path for photo in photos] == [tmp_path / key for key in expected]


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


def test_folders_that_link_to_each_other_are_entered_once_each(tmp_path: Path) -> None:
    _touch(tmp_path, "ann/1.jpg", "bob/2.jpg")
    (tmp_path / "ann" / "friend").symlink_to(tmp_path / "bob")
    (tmp_path / "bob" / "friend").symlink_to(tmp_path / "ann")
    keys = [photo.key for photo in find_photos(tmp_path)]
    assert keys == ["ann/1.jpg", "ann/friend/2.jpg", "bob/2.jpg", "bob/friend/1.jpg"]
