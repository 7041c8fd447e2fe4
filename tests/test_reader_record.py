"""Protects the reading of RecordIO files: every image comes back bit by bit, and damage is named or costs one photo.

The files are written here from the format's description (dmlc/recordio.h, mxnet.recordio.pack, insightface's
face2rec2.py), with nothing of what reads them.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.data.readers import record
from facegm.data.readers.source import Photo, UnreadablePhotoError, find_photos, read_photo_bytes
from facegm.errors import FacegmError

MAGIC = 0xCED7230A
MAGIC_BYTES = bytes([0x0A, 0x23, 0xD7, 0xCE])


class Image(NamedTuple):
    """A record's number, its label or labels, and what it holds."""

    key: int
    label: float | Sequence[float]
    data: bytes


def _split(content: bytes) -> list[bytes]:
    """What lies between the magic numbers at multiples of 4 bytes."""
    parts, start = [], 0
    for position in range(0, len(content) - 3, 4):
        if content[position : position + 4] == MAGIC_BYTES:
            parts.append(content[start:position])
            start = position + 4
    return [*parts, content[start:]]


def _record(content: bytes) -> bytes:
    parts = _split(content)
    last = len(parts) - 1
    record = b""
    for number, part in enumerate(parts):
        kind = 0 if last == 0 else 1 if number == 0 else 3 if number == last else 2
        record += struct.pack("<II", MAGIC, kind << 29 | len(part)) + part + bytes((4 - len(part)) % 4)
    return record


def _content(image: Image) -> bytes:
    if isinstance(image.label, float | int):
        return struct.pack("<IfQQ", 0, image.label, image.key, 0) + image.data
    labels = struct.pack(f"<{len(image.label)}f", *image.label)
    return struct.pack("<IfQQ", len(image.label), 0, image.key, 0) + labels + image.data


def _write(folder: Path, images: Sequence[Image]) -> tuple[Path, dict[int, int]]:
    """Write `x.rec` and `x.idx`; also gives the byte at which each record begins."""
    content, offsets = b"", {}
    for image in images:
        offsets[image.key] = len(content)
        content += _record(_content(image))
    (folder / "x.rec").write_bytes(content)
    (folder / "x.idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in offsets.items()))
    return folder / "x.rec", offsets


def _insightface(images: Sequence[Image]) -> list[Image]:
    """Records as insightface packs them: 0 tells where the images end, after which identities tell theirs."""
    labels = list(dict.fromkeys(image.label for image in images))
    after = len(images) + 1
    identities = []
    for number, label in enumerate(labels):
        keys = [image.key for image in images if image.label == label]
        identities.append(Image(after + number, (min(keys), max(keys) + 1), b""))
    return [Image(0, (after, after + len(identities)), b""), *images, *identities]


JPEGS = [b"\xff\xd8 one", b"\xff\xd8 two, longer", b"\xff\xd8 3", b"\xff\xd8 four"]
IMAGES = [Image(1, 0.0, JPEGS[0]), Image(2, 0.0, JPEGS[1]), Image(3, 7.0, JPEGS[2]), Image(4, 12.0, JPEGS[3])]


def _listed(photos: Sequence[Photo]) -> list[tuple[str, str | None, bytes]]:
    return [(photo.key, photo.identity, read_photo_bytes(photo)) for photo in photos]


# ------------------------------------------------------------------------------------------------- what is read


def test_of_insightfaces_files_the_images_alone_are_photos(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, _insightface(IMAGES))
    assert _listed(find_photos(path).photos) == [
        ("0000000/000000001.jpg", "0000000", JPEGS[0]),
        ("0000000/000000002.jpg", "0000000", JPEGS[1]),
        ("0000007/000000003.jpg", "0000007", JPEGS[2]),
        ("0000012/000000004.jpg", "0000012", JPEGS[3]),
    ]


def test_a_folder_that_holds_a_record_file_and_no_photos_is_that_file(tmp_path: Path) -> None:
    """Protects the folder of a set as insightface packs it: with test sets and a property file beside the records."""
    path, _ = _write(tmp_path, [Image(0, (5,), b"one"), Image(1, (5,), b"two")])
    for name in ("property", "lfw.bin"):
        (tmp_path / name).write_bytes(b"2,112,112")
    assert find_photos(tmp_path).photos == find_photos(path).photos
    path.with_name("._x.rec").write_bytes(b"what macOS leaves")
    assert find_photos(tmp_path).photos == find_photos(path).photos
    path.with_name("other.rec").write_bytes(path.read_bytes())
    with pytest.raises(FacegmError, match=r"holds 2 packed files; name one of other\.rec, x\.rec"):
        find_photos(tmp_path)


def test_of_a_folder_with_photos_these_are_taken_and_it_is_said(tmp_path: Path) -> None:
    _write(tmp_path, [Image(0, 5, b"one")])
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "1.jpg").write_bytes(b"photo")
    found = find_photos(tmp_path)
    assert [photo.key for photo in found.photos] == ["ann/1.jpg"]
    assert found.remarks == ("photos are taken, not what is packed in x.rec; name that to take it",)


def test_of_plain_im2rec_files_every_record_is_a_photo_from_number_0_on(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, [Image(number, image.label, image.data) for number, image in enumerate(IMAGES)])
    photos = find_photos(path).photos
    assert [photo.key[8:] for photo in photos] == [f"{number:09}.jpg" for number in range(4)]
    assert [read_photo_bytes(photo) for photo in photos] == JPEGS


def test_the_first_of_several_labels_is_the_identity(tmp_path: Path) -> None:
    # The first has two labels, as insightface's record 0 has, and yet it holds an image.
    path, _ = _write(
        tmp_path, [Image(0, (5, 3), JPEGS[0]), Image(1, (6,), JPEGS[1]), Image(2, (4.0, 0.5, 9), JPEGS[2])]
    )
    assert [(identity, data) for _, identity, data in _listed(find_photos(path).photos)] == [
        ("0000004", JPEGS[2]),
        ("0000005", JPEGS[0]),
        ("0000006", JPEGS[1]),
    ]


def test_photos_are_in_the_order_of_labels_then_keys_and_not_of_the_file(tmp_path: Path) -> None:
    images = [Image(10, 10, b"a"), Image(9, 10, b"b"), Image(100, 9, b"c"), Image(3, 100, b"d")]
    path, _ = _write(tmp_path, images)
    assert [read_photo_bytes(photo) for photo in find_photos(path).photos] == [b"c", b"b", b"a", b"d"]


@pytest.mark.parametrize(
    "data",
    [
        MAGIC_BYTES,
        MAGIC_BYTES * 3,
        b"four" + MAGIC_BYTES + b"after",
        MAGIC_BYTES + b"x" + MAGIC_BYTES,  # the second at no multiple of 4: not split there
        b"four" + MAGIC_BYTES + b"eightbytes..",
    ],
)
def test_images_that_hold_the_magic_number_come_back(tmp_path: Path, data: bytes) -> None:
    path, _ = _write(tmp_path, [Image(1, 0, data), Image(2, 0, b"next")])
    assert [read_photo_bytes(photo) for photo in find_photos(path).photos] == [data, b"next"]


_DATA = st.lists(st.binary(max_size=9) | st.just(MAGIC_BYTES), max_size=6).map(b"".join).filter(bool)
_LABEL = st.integers(0, 2**24)
_LABELS = _LABEL | st.lists(_LABEL, min_size=1, max_size=3)
_IMAGES = st.dictionaries(
    st.integers(1, 10**10),
    st.tuples(_LABELS, _DATA),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(images=_IMAGES, has_record_0=st.booleans())
def test_any_images_come_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory,
    images: dict[int, tuple[int | list[int], bytes]],
    has_record_0: bool,
) -> None:
    records = [Image(key, label, data) for key, (label, data) in images.items()]
    if has_record_0:
        records = [record._replace(key=number) for number, record in enumerate(records, start=1)]
    expected = {}
    for key, label, data in records:
        number = int(label[0] if isinstance(label, Sequence) else label)
        expected[f"{number:07}/{key:09}.jpg"] = (f"{number:07}", data)
    if has_record_0:
        records = [Image(0, (len(records) + 1, len(records) + 2), b""), *records, Image(len(records) + 1, (1, 2), b"")]
    path, _ = _write(tmp_path_factory.getbasetemp(), records)
    assert _listed(find_photos(path).photos) == [(key, *expected[key]) for key in sorted(expected)]


@pytest.mark.parametrize("number", [1, 5, 2**24 - 1, 2**24, 2**24 + 1, 17_091_657, 2**25, 2**25 + 3, 42_474_558])
def test_the_ends_that_a_label_may_have_been_rounded_from_are_all_looked_at(number: int) -> None:
    """The header of record 0 is a float32: of 17,091,657 images it cannot tell the number."""
    (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    around = range(max(1, number - 70), number + 70)
    expected = [other for other in around if struct.unpack("<f", struct.pack("<f", other)) == (rounded,)]
    assert list(record._possible_ends(int(rounded))) == expected
    assert number in expected


@pytest.mark.parametrize("said", [3, 4, 5, 6, 7])
def test_beyond_what_a_float32_holds_the_images_end_where_identities_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    """Protects sets such as WebFace42M: no image is lost, no identity's record becomes one, whatever was rounded."""
    monkeypatch.setattr(record, "_possible_ends", lambda end: range(end - 2, end + 3))
    path, _ = _write(tmp_path, [Image(0, (said, 9), b""), *_insightface(IMAGES)[1:]])
    assert [data for _, _, data in _listed(find_photos(path).photos)] == JPEGS


def test_beyond_what_a_float32_holds_missing_identities_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_possible_ends", lambda end: range(end - 2, end + 3))
    path, _ = _write(tmp_path, [Image(0, (5, 9), b""), *IMAGES])
    assert "record 0 at byte 0: says that the images end near 3, but what should follow" in _message(path)


# ------------------------------------------------------------------------------------------------- damage


def _patched(path: Path, position: int, new: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[position : position + len(new)] = new
    path.write_bytes(content)


def _message(path: Path) -> str:
    with pytest.raises(FacegmError) as caught:
        find_photos(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FLAG, LABEL = 8, 12
"""Bytes of a record at which these begin."""


@pytest.mark.parametrize(
    ("position", "new", "reason"),
    [
        (0, b"\0", "its magic number is missing"),
        (4, struct.pack("<I", 0 << 29 | 4000), r"4000 bytes long, but the file ends at byte \d+"),
        (4, struct.pack("<I", 0 << 29 | 20), "too short for an image's header"),
        (4, struct.pack("<I", 2 << 29 | 28), "parts do not follow"),
        (4, struct.pack("<I", 3 << 29 | 28), "parts do not follow"),
        (4, struct.pack("<I", 7 << 29 | 28), "parts do not follow"),
        (4, struct.pack("<I", 1 << 29 | 28), "parts do not follow"),  # a first part, followed by a whole record
        (LABEL, struct.pack("<f", 7.5), r"label 7\.5 is no whole number"),
        (LABEL, struct.pack("<f", -1), "label -1 is no whole number"),
        (LABEL, struct.pack("<f", float("nan")), "label nan is no whole number"),
        (LABEL, struct.pack("<f", float("inf")), "label inf is no whole number"),
    ],
)
def test_a_damaged_record_is_named_with_its_file_number_and_byte(
    tmp_path: Path, position: int, new: bytes, reason: str
) -> None:
    path, offsets = _write(tmp_path, _insightface(IMAGES))
    _patched(path, offsets[3] + position, new)
    with pytest.raises(FacegmError, match=rf"x\.rec, record 3 at byte {offsets[3]}: .*{reason}.*; copy or make"):
        find_photos(path)


def test_a_label_of_several_that_is_no_whole_number_is_named(tmp_path: Path) -> None:
    path, offsets = _write(tmp_path, [Image(1, (1, 2), b"a"), Image(2, (0.25, 2), b"b")])
    assert f"record 2 at byte {offsets[2]}: label 0.25" in _message(path)


def test_a_record_too_short_for_its_labels_is_named(tmp_path: Path) -> None:
    path, offsets = _write(tmp_path, [Image(1, 1, b"a"), Image(2, 2, b"")])
    _patched(path, offsets[2] + FLAG, struct.pack("<I", 3))
    assert f"record 2 at byte {offsets[2]}: too short for its 3 labels" in _message(path)


@pytest.mark.parametrize("offset", [10_000, 10**17])
def test_an_offset_outside_the_file_is_named(tmp_path: Path, offset: int) -> None:
    path, _ = _write(tmp_path, IMAGES)
    with path.with_suffix(".idx").open("a") as index:
        index.write(f"5\t{offset}\n")
    assert f"x.rec, record 5 at byte {offset}: the file ends before, at byte {path.stat().st_size}" in _message(path)


@pytest.mark.parametrize("line", ["5", "5 4", "a\t4", "5\t-4", "", "5\t4\t3", "5\t4.0", "5\t" + "9" * 5000, "\xb2\t4"])
def test_a_damaged_line_of_the_index_is_named(tmp_path: Path, line: str) -> None:
    path, _ = _write(tmp_path, IMAGES)
    index = path.with_suffix(".idx")
    index.write_text(index.read_text() + line + "\n")
    assert f"{index}, line 5: damaged" in _message(path)


def test_a_record_that_the_index_has_twice_is_named(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, IMAGES)
    index = path.with_suffix(".idx")
    index.write_bytes(index.read_bytes().replace(b"\n", b"\r\n") + b"2\t0\r\n")
    assert f"{index}, line 5: record 2 is listed twice" in _message(path)


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, IMAGES)
    path.with_suffix(".idx").unlink()
    assert f"{path.with_suffix('.idx')}: missing" in _message(path)


def test_an_image_that_record_0_counts_but_the_index_lacks_is_named(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, [record for record in _insightface(IMAGES) if record.key != 2])
    assert "x.rec, record 0 at byte 0: says that the images end before 5, but the index lacks 2" in _message(path)


def test_an_empty_file_is_an_error_with_and_without_records_in_the_index(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, [])
    assert f"{path}: no photo found" in _message(path)
    path.with_suffix(".idx").write_text("0\t0\n")
    assert f"{path}, record 0 at byte 0: the file ends before, at byte 0" in _message(path)


def test_a_record_without_an_image_is_unreadable(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, [Image(1, 0, b""), Image(2, 0, b"x")])
    empty, other = find_photos(path).photos
    with pytest.raises(UnreadablePhotoError, match=r"^empty record$"):
        read_photo_bytes(empty)
    assert read_photo_bytes(other) == b"x"


MULTIPART = Image(3, 7.0, b"four" + MAGIC_BYTES + b"more" + MAGIC_BYTES + b"and on")


@pytest.mark.parametrize("flipped", [0x41, 0x20, 0x04])  # so that lengths grow and shrink, and parts change their kind
@pytest.mark.parametrize("third", [IMAGES[2], MULTIPART])
def test_damage_after_the_listing_costs_one_photo(tmp_path: Path, third: Image, flipped: int) -> None:
    path, offsets = _write(tmp_path, [*IMAGES[:2], third, IMAGES[3]])
    whole = path.read_bytes()
    photos = find_photos(path).photos
    framing = [
        position for position in range(offsets[3], offsets[4], 4) if whole[position : position + 4] == MAGIC_BYTES
    ]
    assert len(framing) == len(_split(third.data))
    for begin in framing:
        for position in range(begin, begin + 8):
            path.write_bytes(whole)
            _patched(path, position, bytes([whole[position] ^ flipped]))
            with pytest.raises(UnreadablePhotoError, match=r"^damaged record: "):
                read_photo_bytes(photos[2])
            assert [read_photo_bytes(photos[number]) for number in (0, 1, 3)] == [JPEGS[0], JPEGS[1], JPEGS[3]]


def test_labels_that_become_more_than_the_record_holds_cost_one_photo(tmp_path: Path) -> None:
    path, offsets = _write(tmp_path, IMAGES)
    photos = find_photos(path).photos
    _patched(path, offsets[2] + FLAG, struct.pack("<I", 2**32 - 1))
    with pytest.raises(UnreadablePhotoError, match="damaged record: too short for its 4294967295 labels"):
        read_photo_bytes(photos[1])
    assert read_photo_bytes(photos[2]) == JPEGS[2]


def test_a_file_that_became_shorter_or_vanished_costs_the_photos_it_lacks(tmp_path: Path) -> None:
    path, offsets = _write(tmp_path, IMAGES)
    photos = find_photos(path).photos
    path.write_bytes(path.read_bytes()[: offsets[4] + 10])
    assert read_photo_bytes(photos[2]) == JPEGS[2]
    with pytest.raises(UnreadablePhotoError, match=r"^cut off: x\.rec has become shorter$"):
        read_photo_bytes(photos[3])
    path.unlink()
    with pytest.raises(UnreadablePhotoError, match=r"^No such file or directory$"):
        read_photo_bytes(photos[0])
