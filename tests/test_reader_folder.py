"""Protects folder trees of photos: each photo once, nothing else, and what is passed over is said."""

import io
import os
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from facegm.data import decoding
from facegm.data.decoding import decode_photo
from facegm.data.readers import formats
from facegm.data.readers.photo import Photo
from facegm.data.readers.source import UnreadablePhotoError, find_photos, photo_stamp, read_photo_bytes
from facegm.errors import FacegmError


def _touch(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_tree_gives_photos_by_their_suffix_sorted_by_key(tmp_path: Path) -> None:
    _touch(tmp_path, "Bob/1.JPG", "Ann/b.png", "Ann/2019/summer/a.jpeg", "a.webp", "Ann-Lee/x.tiff", "Zoe/z.gif")
    _touch(tmp_path, "Zoe/y.bmp", "Zoe/x.tif", "Ann/notes.txt", "Ann/README", "Ann/a.jpg.part", ".DS_Store", "Ann/jpg")
    _touch(tmp_path, ".cache/a.jpg", "Ann/.hidden.jpg", "Ann/.thumbs/t.jpg", "Bob/2.jpg/inside.jpg")

    photos = find_photos(tmp_path).photos

    expected = {
        "Ann-Lee/x.tiff": "Ann-Lee",  # "-" sorts before "/": the order is that of the whole key, byte by byte
        "Ann/2019/summer/a.jpeg": "summer",
        "Ann/b.png": "Ann",
        "Bob/1.JPG": "Bob",
        "Bob/2.jpg": "Bob",  # a folder named like a photo: listed, to be recorded as unreadable, and not entered
        "Zoe/x.tif": "Zoe",
        "Zoe/y.bmp": "Zoe",
        "Zoe/z.gif": "Zoe",
        "a.webp": None,
    }
    assert [(photo.key, photo.identity) for photo in photos] == list(expected.items())
    assert [photo.path for photo in photos] == [str(tmp_path / key) for key in expected]


def test_a_tree_is_followed_through_links(tmp_path: Path) -> None:
    _touch(tmp_path, "elsewhere/a.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "Ann").symlink_to(tmp_path / "elsewhere")
    assert [(photo.key, photo.identity) for photo in find_photos(tmp_path / "set").photos] == [("Ann/a.jpg", "Ann")]


def test_odd_names_in_a_tree_lead_back_to_the_file(tmp_path: Path) -> None:
    names = [b"J\xf6rg/caf\xe9.jpg", "Zoë/été\u2028.jpg".encode(), b"two\nlines/a\nb\tc.png", b" / .jpg"]
    names += [b"\xc0/sorts before.jpg", "字/by its bytes.jpg".encode()]
    _touch(tmp_path, *names)
    photos = find_photos(tmp_path).photos
    assert [os.fsencode(photo.key) for photo in photos] == sorted(names)
    assert [os.fsencode(photo.identity or "") for photo in photos] == [name.split(b"/")[0] for name in sorted(names)]
    assert all(os.path.isfile(photo.path) for photo in photos)


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


def test_tar_files_beside_photos_are_the_archives_they_came_from(tmp_path: Path) -> None:
    _touch(tmp_path, "lfw.tgz", "lfw/Ann/1.jpg", "lfw/Bob/1.jpg", "lfw/Bob/more.tar")
    found = find_photos(tmp_path)
    assert [photo.key for photo in found.photos] == ["lfw/Ann/1.jpg", "lfw/Bob/1.jpg"]
    assert "photos are taken, not what is packed in lfw/Bob/more.tar, lfw.tgz; name that to take it" in found.remarks


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "Ann").mkdir()
    os.mkfifo(tmp_path / "Ann" / "pipe.jpg")
    (tmp_path / "Ann" / "zero.jpg").symlink_to("/dev/zero")
    for photo in find_photos(tmp_path).photos:
        with pytest.raises(UnreadablePhotoError, match=r"^not a regular file$"):
            read_photo_bytes(photo)

    for name in ("pipe", "pipe.rec", "pipe.tar"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FacegmError, match=f"{name}: no such folder, list, tar, rec or LMDB file"):
            find_photos(tmp_path / name)
    (tmp_path / "shards").mkdir()
    os.mkfifo(tmp_path / "shards" / "0.tar")
    with pytest.raises(FacegmError, match=r"0\.tar: not a regular file"):
        find_photos(tmp_path / "shards")


def test_links_are_followed_but_not_in_a_loop(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "1.jpg").touch()
    (tmp_path / "ann" / "loop").symlink_to(tmp_path)
    (tmp_path / "bob").symlink_to(tmp_path / "ann")
    assert [photo.key for photo in find_photos(tmp_path).photos] == ["ann/1.jpg", "bob/1.jpg"]


def test_folders_that_link_to_each_other_are_entered_once_each(tmp_path: Path) -> None:
    _touch(tmp_path, "ann/1.jpg", "bob/2.jpg")
    (tmp_path / "ann" / "friend").symlink_to(tmp_path / "bob")
    (tmp_path / "bob" / "friend").symlink_to(tmp_path / "ann")
    keys = [photo.key for photo in find_photos(tmp_path).photos]
    assert keys == ["ann/1.jpg", "ann/friend/2.jpg", "bob/2.jpg", "bob/friend/1.jpg"]


# ------------------------------------------------------------------------------------------------- what is a photo

LINES = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
PICTURES = {
    "a.jfif": "JPEG",
    "a.jpe": "JPEG",
    "no suffix": "JPEG",
    "a.mpo": "MPO",
    "a.jp2": "JPEG2000",
    "a.avif": "AVIF",
    "a.HEIC": "HEIF",
    "a.heif": "HEIF",
    "a.bin": "PNG",
    "a.bmp_old": "BMP",
    "a.ppm": "PPM",
    "a.dat": "WEBP",
    "a.x": "GIF",
    "a.y": "TIFF",
}


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(LINES).save(file, quality=90)
    else:
        LINES.save(file, kind)
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def no_heif_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "find_spec", lambda _: None)
    decoding.register_formats.cache_clear()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])


@pytest.mark.parametrize("name", PICTURES)
def test_what_pillow_reads_is_read_whatever_its_suffix(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "Ann" / name, _picture(PICTURES[name]))
    found = find_photos(tmp_path)
    assert [(photo.key, photo.identity) for photo in found.photos] == [(f"Ann/{name}", "Ann")]
    assert found.remarks == ()
    decoded = decode_photo(read_photo_bytes(found.photos[0]))
    assert decoded.shape == (30, 40, 3)
    assert np.abs(decoded.astype(int) - np.asarray(LINES)).max() < 20


TEXTS = [
    b"BM is what a bitmap begins with",
    b"P4is a port",
    b"P.S. more",
    b"RIFF....WAVE",
    b"GIF",
    b"",
    b"\xff\xd8",
    b"II",
]
FILMS = [b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", b"\0\0\0\x14ftypqt  \0\0\0\0qt  "]


@pytest.mark.parametrize("content", [*TEXTS, *FILMS])
def test_what_only_looks_like_a_picture_is_passed_over(tmp_path: Path, content: bytes) -> None:
    _write(tmp_path / "Ann" / "1.jpg", b"x")
    _write(tmp_path / "Ann" / "notes.TXT", content)
    found = find_photos(tmp_path)
    assert [photo.key for photo in found.photos] == ["Ann/1.jpg"]
    assert found.remarks == ("1 file that is no photo is passed over: 1 .txt",)


def test_cameras_raw_files_are_no_thumbnails(tmp_path: Path) -> None:
    _write(tmp_path / "Ann" / "1.jpg", b"x")
    _write(tmp_path / "Ann" / "2.NEF", _picture("TIFF"))
    found = find_photos(tmp_path)
    assert len(found.photos) == 1
    assert "1 .nef; convert cameras' raw files to JPEG" in found.remarks[0]


def test_what_is_passed_over_is_counted_by_suffix_most_frequent_first(tmp_path: Path) -> None:
    _touch(
        tmp_path, "Ann/1.jpg", *(f"Ann/{number}.mov" for number in range(3)), *(f"Ann/{number}.ZIP" for number in "ab")
    )
    _touch(tmp_path, "Ann/README", ".hidden.mov", "Ann/.x/1.mov", "Ann/x.tar.gz.part")
    assert find_photos(tmp_path).remarks == (
        "7 files that are no photos are passed over: 3 .mov, 2 .zip, 1 without suffix, 1 .part; "
        "unpack the archives if photos are in them",
    )


def test_of_many_suffixes_the_rest_is_counted(tmp_path: Path) -> None:
    _touch(tmp_path, "Ann/1.jpg", *(f"Ann/1.x{number:02}" for number in range(11)))
    assert find_photos(tmp_path).remarks[0].endswith("1 .x07, 3 suffixes more")


@pytest.mark.usefixtures("no_heif_plugin")
def test_without_its_plugin_heic_is_named_with_what_to_install(tmp_path: Path) -> None:
    for number in range(4):
        _write(tmp_path / "Ann" / f"{number}.HEIC", _picture("HEIF"))
    with pytest.raises(
        FacegmError, match=r'no photo found.*4 \.heic; to have HEIC photos read: pip install "facegm\[heic\]"'
    ):
        find_photos(tmp_path)
    _touch(tmp_path, "Bob/1.jpg")
    found = find_photos(tmp_path)
    assert [photo.key for photo in found.photos] == ["Bob/1.jpg"]
    assert found.remarks[0].startswith("4 files that are no photos are passed over: 4 .heic; to have HEIC")
    with pytest.raises(UnreadablePhotoError, match="not an image"):
        decode_photo(_picture("HEIF"))


@pytest.mark.usefixtures("no_heif_plugin")
def test_avif_and_heif_are_told_apart_by_all_that_they_say_they_are(tmp_path: Path) -> None:
    """Of the container that both share, the first name may be neither's."""
    _write(tmp_path / "Ann" / "1.avif", _picture("AVIF"))
    _write(tmp_path / "Ann" / "2.avif", b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif")
    _write(tmp_path / "Ann" / "3.avif", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heicavif")  # beyond the box's end
    assert [photo.key for photo in find_photos(tmp_path).photos] == ["Ann/1.avif", "Ann/2.avif"]


def test_three_people_with_photos_of_many_kinds_are_three(tmp_path: Path) -> None:
    for person, name in (("Ann", "1.HEIC"), ("Bob", "1.jfif"), ("Cy", "1.jpg")):
        kind = "HEIF" if name.endswith("HEIC") else "JPEG"
        _write(tmp_path / person / name, _picture(kind))
    found = find_photos(tmp_path)
    assert {photo.identity for photo in found.photos} == {"Ann", "Bob", "Cy"}
    assert found.remarks == ()


def test_pipes_without_a_photos_suffix_are_not_opened(tmp_path: Path) -> None:
    _touch(tmp_path, "Ann/1.jpg")
    os.mkfifo(tmp_path / "Ann" / "pipe")
    assert find_photos(tmp_path).remarks == ("1 file that is no photo is passed over: 1 without suffix",)


def test_names_of_photos_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the time that it takes to list ten million photos."""
    _touch(tmp_path, "Ann/1.jpg", "Ann/2.PNG")

    def fail(*_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(formats, "is_picture", fail)
    assert len(find_photos(tmp_path).photos) == 2


def test_several_kinds_of_packed_files_are_not_mixed(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tar", "b.rec", "c/data.mdb", "c/lock.mdb")
    with pytest.raises(FacegmError, match=r"holds 3 packed files; name one of a\.tar, b\.rec, c"):
        find_photos(tmp_path)


# ------------------------------------------------------------------------------------------------- stamps


def test_a_stamp_is_size_and_time_and_tells_changes(tmp_path: Path) -> None:
    path = tmp_path / "Ann" / "1.jpg"
    _write(path, b"four")
    (photo,) = find_photos(tmp_path).photos
    os.utime(path, ns=(5, 7_000_000_001))
    assert photo_stamp(photo) == (4, 7_000_000_001)
    _write(path, b"five!")
    assert (photo_stamp(photo) or (0,))[0] == 5
    path.unlink()
    assert photo_stamp(photo) is None


def test_a_containers_stamp_is_taken_once_a_pass(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(b"x" * 10)
    one, other = (Photo(path=str(path), key=key, identity="x", offset=0, length=1) for key in "ab")
    seen: dict[str, tuple[int, int] | None] = {}
    first = photo_stamp(one, seen)
    path.write_bytes(b"longer than before")
    assert photo_stamp(other, seen) == first == next(iter(seen.values()))
    assert (photo_stamp(other) or (0,))[0] == (photo_stamp(other, {}) or (0,))[0] == 18
