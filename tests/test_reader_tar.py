"""Protects the reading of tar shards: members come back bit by bit, under safe names and the right identities."""

import contextlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegm.data.readers.source import Photo, UnreadablePhotoError, find_photos, read_photo_bytes
from facegm.errors import FacegmError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def _info(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def _pack(
    path: Path,
    members: Mapping[str, bytes] | Sequence[tuple[str, bytes]],
    *others: tarfile.TarInfo,
    layout: int = tarfile.PAX_FORMAT,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=layout, encoding="utf-8") as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            tar.addfile(_info(name, size=len(data)), io.BytesIO(data))
        for info in others:
            tar.addfile(info)
    return path


def _identities(source: Path) -> dict[str, str | None]:
    return {photo.key: photo.identity for photo in find_photos(source).photos}


def _read(photos: Sequence[Photo]) -> dict[str, bytes]:
    return {photo.key: read_photo_bytes(photo) for photo in photos}


# ------------------------------------------------------------------------------------------------- content and names


@pytest.mark.parametrize("layout", FORMATS)
def test_members_come_back_bit_by_bit_sorted_by_key(tmp_path: Path, layout: str) -> None:
    deep = "/".join(["long" * 20] * 3)  # beyond 100 characters, which each format has its own way to hold
    if layout == "ustar":
        deep = "/".join(["long" * 9] * 3)
    members = {
        "Bob/2.JPG": b"two",
        "Ann/1.png": bytes(range(256)) * 5,
        f"{deep}/3.webp": b"x" * 512,
        "Ann/notes.txt": b"no photo",
        "Zoë/été.jpg": b"y" * 513,
    }
    photos = find_photos(_pack(tmp_path / "set.tar", members, layout=FORMATS[layout])).photos
    expected = {f"set/{name}": data for name, data in members.items() if not name.endswith("txt")}
    assert _read(photos) == expected
    assert [photo.key for photo in photos] == sorted(expected, key=str.encode)


_NAME = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20)
_MEMBERS = st.dictionaries(
    st.lists(_NAME.filter(lambda part: not part.startswith(".")), min_size=1, max_size=3)
    .map(lambda parts: "/".join(parts) + ".jpg")
    .filter(lambda name: not name.rpartition("/")[2].startswith(".")),
    st.binary(min_size=1, max_size=1100),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(members=_MEMBERS, layout=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_any_names_and_contents_come_back(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], layout: int
) -> None:
    path = _pack(tmp_path_factory.getbasetemp() / "any.tar", members, layout=layout)
    assert _read(find_photos(path).photos) == {f"any/{name}": data for name, data in members.items()}


def test_names_that_are_no_utf8_keep_their_bytes(tmp_path: Path) -> None:
    name = b"J\xf6rg/caf\xe9.jpg".decode("utf-8", "surrogateescape")
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        tar.addfile(_info(name, size=1), io.BytesIO(b"x"))
    (photo,) = find_photos(path).photos
    assert (photo.key, photo.identity) == (f"set/{name}", name.split("/")[0])
    assert read_photo_bytes(photo) == b"x"


def test_no_name_leads_out_of_the_shards_folder(tmp_path: Path) -> None:
    names = [
        "/etc/a.jpg",
        "../../b.jpg",
        "./Ann/c.jpg",
        "Ann/../../Bob/d.jpg",
        "//net/e.jpg",
        "Ann//f.jpg",
        "Ann/./g.jpg",
    ]
    photos = find_photos(_pack(tmp_path / "set.tar", {name: name.encode() for name in names})).photos
    assert _read(photos) == {
        "set/Ann/c.jpg": b"./Ann/c.jpg",
        "set/Ann/f.jpg": b"Ann//f.jpg",
        "set/Ann/g.jpg": b"Ann/./g.jpg",
        "set/Bob/d.jpg": b"Ann/../../Bob/d.jpg",
        "set/b.jpg": b"../../b.jpg",
        "set/etc/a.jpg": b"/etc/a.jpg",
        "set/net/e.jpg": b"//net/e.jpg",
    }


def test_hidden_members_and_folders_are_passed_over(tmp_path: Path) -> None:
    names = ["Ann/1.jpg", "Ann/._1.jpg", ".thumbs/2.jpg", "._Ann/3.jpg", "Ann/.x/4.jpg"]
    folder = _info("Ann/folder.jpg", type=tarfile.DIRTYPE)
    path = _pack(tmp_path / "set.tar", dict.fromkeys(names, b"x"), folder)
    assert _identities(path) == {"set/Ann/1.jpg": "Ann"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_are_listed_and_unreadable(tmp_path: Path, kind: bytes) -> None:
    other = _info("Ann/2.jpg", type=kind, linkname="/etc/passwd" if kind == tarfile.SYMTYPE else "Ann/1.jpg")
    one, two = find_photos(_pack(tmp_path / "set.tar", {"Ann/1.jpg": b"x", "Ann/0.png": b""}, other)).photos[-2:]
    assert read_photo_bytes(one) == b"x"
    with pytest.raises(UnreadablePhotoError, match=r"^empty, or not a regular file$"):
        read_photo_bytes(two)


def test_empty_and_sparse_members_are_unreadable_and_the_next_is_read(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "Ann/2.jpg"}
    sparse |= {"GNU.sparse.size": "9000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "8192,808"}
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_info("Ann/1.jpg"))
        tar.addfile(_info("Ann/2.jpg", size=808, pax_headers=sparse), io.BytesIO(b"s" * 808))
        tar.addfile(_info("Ann/3.jpg", size=5), io.BytesIO(b"three"))
    with tarfile.open(path) as tar:
        assert tar.getmember("Ann/2.jpg").issparse()
    empty, sparse_photo, last = find_photos(path).photos
    for photo in (empty, sparse_photo):
        with pytest.raises(UnreadablePhotoError, match="empty, or not a regular file"):
            read_photo_bytes(photo)
    assert read_photo_bytes(last) == b"three"


# ------------------------------------------------------------------------------------------------- identities


def test_what_lies_beside_a_photo_up_to_the_first_dot_tells_its_identity(tmp_path: Path) -> None:
    members = {
        "000001.jpg": b"x",
        "000001.cls": b" 17\n",
        "000002.left.jpg": b"x",  # one sample by WebDataset's rule: its name ends at the first dot
        "000002.right.png": b"x",
        "000002.json": b'{"identity": "Ann Lee", "label": 3}',
        "000003.jpg": b"x",
        "000003.json": b'{"label": 3}',
        "000004.jpg": b"x",
        "000004.json": b'{"width": 3}',
        "000005.jpg": b"x",
        "000005.json": b"[1]",
        "000006.jpg": b"x",
        "000006.json": b'{"label": 0}',
        "000006.cls": b"9",
        "a.b/000001.jpg": b"x",  # the dot of a folder ends no name
        "a.b/000001.cls": "Zoë".encode(),
        "a.b/000002.jpg": b"x",
    }
    assert _identities(_pack(tmp_path / "set.tar", members)) == {
        "set/000001.jpg": "17",
        "set/000002.left.jpg": "Ann Lee",
        "set/000002.right.png": "Ann Lee",
        "set/000003.jpg": "3",
        "set/000004.jpg": "set",
        "set/000005.jpg": "set",
        "set/000006.jpg": "9",
        "set/a.b/000001.jpg": "Zoë",
        "set/a.b/000002.jpg": "a.b",
    }


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("cls", b""),
        ("cls", b" \n"),
        ("cls", b"\xff"),
        ("json", b""),
        ("json", b"{"),
        ("json", b'{"label": 1.5}'),
        ("json", b'{"label": true}'),
        ("json", b'{"identity": ["Ann"]}'),
        ("json", b'{"identity": ""}'),
    ],
)
def test_what_tells_no_identity_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = _pack(tmp_path / "set.tar", {"a/1.jpg": b"x", f"a/1.{suffix}": content})
    with pytest.raises(FacegmError, match=rf"set\.tar, a/1\.{suffix}: tells no identity: ."):
        find_photos(path)


def test_shards_in_folders_are_one_set(tmp_path: Path) -> None:
    _pack(tmp_path / "train/001.tar", {"lfw/Ann/a.jpg": b"1"})
    _pack(tmp_path / "train/000.tar", {"lfw/Bob/b.jpg": b"2", "lfw/Ann/c.jpg": b"3"})
    _pack(tmp_path / "more/000.TAR", {"lfw/Ann/b.jpg": b"4"})
    _pack(tmp_path / ".hidden/000.tar", {"lfw/Cy/b.jpg": b"5"})
    _pack(tmp_path / "._000.tar", {"lfw/Cy/b.jpg": b"6"})
    photos = find_photos(tmp_path).photos
    assert [(photo.key, photo.identity, read_photo_bytes(photo)) for photo in photos] == [
        ("more/000/lfw/Ann/b.jpg", "Ann", b"4"),
        ("train/000/lfw/Ann/c.jpg", "Ann", b"3"),
        ("train/000/lfw/Bob/b.jpg", "Bob", b"2"),
        ("train/001/lfw/Ann/a.jpg", "Ann", b"1"),
    ]


def test_photos_in_no_folder_are_told_apart_by_their_shard_even_where_shards_share_a_name(tmp_path: Path) -> None:
    for name in ("Ann.tar", "Bob.tar", "old/Bob.tar"):
        _pack(tmp_path / name, {"1.jpg": b"x"})
    assert _identities(tmp_path) == {"Ann/1.jpg": "Ann", "Bob/1.jpg": "Bob", "old/Bob/1.jpg": "old/Bob"}
    assert _identities(tmp_path / "old/Bob.tar") == {"Bob/1.jpg": "Bob"}
    assert find_photos(tmp_path).remarks == ()


def test_two_photos_of_one_name_are_an_error(tmp_path: Path) -> None:
    _pack(tmp_path / "a.tar", {"b/1.jpg": b"x"})
    _pack(tmp_path / "a/b.tar", {"1.jpg": b"x"})
    with pytest.raises(
        FacegmError, match=r"a\.tar and .*b\.tar both hold a/b/1\.jpg|b\.tar and .*a\.tar both hold a/b"
    ):
        find_photos(tmp_path)


@pytest.mark.parametrize("again", ["Ann/1.jpg", "./Ann/1.jpg", "/Ann/1.jpg"])
def test_a_member_twice_is_an_error(tmp_path: Path, again: str) -> None:
    with pytest.raises(FacegmError, match=r"set\.tar: holds Ann/1\.jpg twice"):
        find_photos(_pack(tmp_path / "set.tar", [("Ann/1.jpg", b"old"), (again, b"new")]))


def test_the_folder_in_the_tar_file_is_the_identity_at_the_level_that_is_asked_for(tmp_path: Path) -> None:
    path = _pack(tmp_path / "set.tar", dict.fromkeys(["Ann/2019/1.jpg", "Bob/2019/2.jpg", "3.jpg"], b"x"))
    found = find_photos(path)
    assert [photo.identity for photo in found.photos] == ["set", "2019", "2019"]
    assert [remark for remark in found.remarks if "Ann/2019 and Bob/2019" in remark]
    assert [photo.identity for photo in find_photos(path, identity_level=2).photos] == ["set", "Ann", "Bob"]


def test_members_are_pictures_by_their_first_bytes_and_others_are_counted(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "jpeg")
    members = {"Ann/1.jfif": picture.getvalue(), "Ann/2": picture.getvalue(), "Ann/2.cls": b"Bea", "Ann/3.npy": b"x"}
    found = find_photos(_pack(tmp_path / "set.tar", {**members, "Ann/4.npy": b"", "Ann/notes": b"P.S."}))
    assert [(photo.key, photo.identity) for photo in found.photos] == [("set/Ann/1.jfif", "Ann"), ("set/Ann/2", "Bea")]
    assert _read(found.photos)["set/Ann/1.jfif"] == picture.getvalue()
    assert found.remarks == ("3 files that are no photos are passed over: 2 .npy, 1 without suffix",)


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("name", ["set.tar", "set.tar.{}"])
def test_a_compressed_file_is_refused_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name.format(kind)
    with tarfile.open(path, f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.addfile(_info("Ann/1.jpg", size=1), io.BytesIO(b"x"))
    with pytest.raises(FacegmError, match=rf"{path.name}: compressed.* decompress it"):
        find_photos(path)
    with pytest.raises(FacegmError, match=rf"{path.name}: compressed"):
        find_photos(tmp_path)


def test_a_file_cut_off_anywhere_is_an_error(tmp_path: Path) -> None:
    members = {"Ann/1.jpg": b"x" * 700, "Ann/" + "n" * 150 + ".jpg": b"y" * 512}
    path = _pack(tmp_path / "set.tar", members)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 2
        end = tar.offset
    for length in {*range(0, end, 256), 1, 511, 513, end - 1, end, end + 511}:
        path.write_bytes(whole[:length])
        with pytest.raises(FacegmError, match=r"set\.tar: .*(damaged|cut off)"):
            find_photos(path)
    path.write_bytes(whole[: end + 512])  # one block of zeros is an end
    assert len(find_photos(path).photos) == 2


def test_a_damaged_header_is_an_error_not_an_early_end(tmp_path: Path) -> None:
    path = _pack(tmp_path / "set.tar", dict.fromkeys(["Ann/1.jpg", "Ann/2.jpg", "Ann/3.jpg"], b"x"))
    content = bytearray(path.read_bytes())
    content[1024] ^= 1
    path.write_bytes(content)
    with pytest.raises(FacegmError, match=r"set\.tar: damaged or cut off at byte 1024"):
        find_photos(path)


def _with_size(header: bytes, size: bytes) -> bytes:
    header = header[:124] + size + header[136:]
    checksum = sum(header[:148]) + sum(b" " * 8) + sum(header[156:])
    return header[:148] + b"%06o\0 " % checksum + header[156:]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize(
    "size",
    [
        b"77777777777\0",
        b"\x80" + (2**62).to_bytes(11, "big"),
        b"\x80" + b"\x7f" * 11,
        b"\xff" + (-512).to_bytes(11, "big", signed=True),  # leads back to its own header
        b"\xff" + (-1024).to_bytes(11, "big", signed=True),
        b"\xff" + b"\x80" * 11,
    ],
)
def test_a_damaged_size_is_an_error(tmp_path: Path, kind: bytes, size: bytes) -> None:
    path = _pack(tmp_path / "set.tar", {"Ann/1.jpg": b"x"})
    whole = path.read_bytes()
    header = _with_size(_info(".hidden.jpg", type=kind).tobuf(tarfile.GNU_FORMAT), size)
    path.write_bytes(whole[:1024] + header + whole)
    with pytest.raises(FacegmError, match=r"set\.tar: "):
        find_photos(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_anywhere_gives_an_error_or_photos_that_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    content = bytearray(_pack(path, {"Ann/é.jpg": b"x" * 600, "Ann/é.cls": json.dumps(3).encode()}).read_bytes()[:6144])
    block = 512 * data.draw(st.integers(0, len(content) // 512 - 1))
    for _ in range(data.draw(st.integers(1, 3))):
        content[block + data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    header = bytes(content[block : block + 512])
    if data.draw(st.booleans()):  # so that a damaged header is believed
        content[block : block + 512] = _with_size(header, header[124:136])
    path.write_bytes(content)
    try:
        photos = find_photos(path).photos
    except FacegmError:
        return
    for photo in photos:
        with contextlib.suppress(UnreadablePhotoError):
            assert len(read_photo_bytes(photo)) == photo.length


def test_a_shard_that_became_shorter_costs_the_photos_it_lacks(tmp_path: Path) -> None:
    path = _pack(tmp_path / "set.tar", {"Ann/1.jpg": b"one", "Ann/2.jpg": b"two"})
    one, two = find_photos(path).photos
    path.write_bytes(path.read_bytes()[:1500])
    assert read_photo_bytes(one) == b"one"
    with pytest.raises(UnreadablePhotoError, match=r"^cut off: set\.tar has become shorter$"):
        read_photo_bytes(two)


def test_a_tar_file_without_photos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match=r"set\.tar: no photo found"):
        find_photos(_pack(tmp_path / "set.tar", {"notes.txt": b"x"}))
