"""Protects the reading of photos and of the folders and lists that name them.

Every kind of picture people have becomes the right upright RGB pixels, every broken one a reason; folders and lists
name each photo exactly once, with the right identity.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegm.data.find_photos import find_photos
from facegm.data.photos import UnreadablePhotoError, read_photo
from facegm.errors import FacegmError


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


NOISE = _noise(24, 40, 3)

# ------------------------------------------------------------------------------------------------- pixels


# What EXIF 2.3 says of each orientation, as numpy operations that bring the stored pixels upright.
UPRIGHT: dict[int, Any] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
def test_exif_orientation_is_undone(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = NOISE if suffix != "jpg" else NOISE[::8, ::8].repeat(16, axis=0).repeat(16, axis=1)  # JPEG keeps blocks
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(stored).save(path, exif=exif, **_lossless(suffix))

    photo = read_photo(path)

    expected = UPRIGHT[orientation](stored)
    assert photo.shape == expected.shape
    assert photo.dtype == np.uint8
    assert np.abs(photo.astype(int) - expected).max() <= (6 if suffix == "jpg" else 0)


def _lossless(suffix: str) -> dict[str, Any]:
    if suffix == "webp":
        return {"lossless": True}
    return {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}


def _exif_block(*entries: bytes) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


ROTATED = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
WIDTH_AS_TEXT = struct.pack("<HHI4s", 0x0100, 2, 4, b"AAAA")
BEYOND_THE_END = struct.pack("<HHII", 0x011A, 5, 1, 0xFFFFF)


@pytest.mark.parametrize(
    ("suffix", "exif", "rotated"),
    [
        ("webp", b"Exif\0\0MM", False),
        ("jpg", b"Exif\0\0neither II nor MM", False),
        ("jpg", _exif_block(WIDTH_AS_TEXT, ROTATED), True),
        ("jpg", _exif_block(ROTATED, BEYOND_THE_END), True),
    ],
)
def test_damaged_metadata_does_not_lose_a_good_photo(tmp_path: Path, suffix: str, exif: bytes, rotated: bool) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(NOISE).save(path, exif=exif)
    assert read_photo(path).shape == ((40, 24, 3) if rotated else (24, 40, 3))


def test_grey_black_and_white_and_palette_pictures(tmp_path: Path) -> None:
    grey = NOISE[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))

    bits = grey > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "bits.png"), np.stack([bits * 255] * 3, axis=-1))

    colours = _noise(4, 3)
    indices = _noise(9, 7) % 4
    _palette(indices, colours).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "palette.png"), colours[indices])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_palette_entry_becomes_white(tmp_path: Path, suffix: str) -> None:
    colours = np.array([(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200)], np.uint8)
    indices = _noise(9, 7) % 4
    _palette(indices, colours).save(tmp_path / f"photo.{suffix}", transparency=2)
    colours[2] = 255
    np.testing.assert_array_equal(read_photo(tmp_path / f"photo.{suffix}"), colours[indices])


def _palette(indices: np.ndarray, colours: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices).convert("L")
    image.putpalette(colours.tobytes())
    return image


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_laid_over_white(tmp_path: Path, suffix: str) -> None:
    rgba = _noise(16, 16, 4)
    rgba[:4, :, 3], rgba[4:8, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / f"photo.{suffix}", **_lossless(suffix), **_exact(suffix))

    alpha = rgba[:, :, 3:] / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(read_photo(tmp_path / f"photo.{suffix}") - expected).max() <= 1


def _exact(suffix: str) -> dict[str, Any]:
    return {"exact": True} if suffix == "webp" else {}  # WebP otherwise drops the colour under full transparency


def test_grey_with_alpha_is_laid_over_white(tmp_path: Path) -> None:
    grey, alpha = _noise(2, 16, 16)
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    expected = grey * (alpha / 255) + 255 - alpha.astype(float)
    assert np.abs(read_photo(tmp_path / "la.png") - expected[..., None]).max() <= 1


@pytest.mark.parametrize(("suffix", "tolerance"), [("tif", 1), ("jpg", 6)])
def test_cmyk(tmp_path: Path, suffix: str, tolerance: int) -> None:
    ink = _noise(3, 5, 4).repeat(16, axis=0).repeat(16, axis=1)
    Image.frombytes("CMYK", (80, 48), ink.tobytes()).save(tmp_path / f"photo.{suffix}", **_lossless(suffix))
    expected = (255 - ink[:, :, :3].astype(float)) * (255 - ink[:, :, 3:].astype(float)) / 255
    assert np.abs(read_photo(tmp_path / f"photo.{suffix}") - expected).max() <= tolerance


SIXTEEN_BIT = np.array([[0, 200, 256, 257, 514], [4660, 32768, 65278, 65534, 65535]], np.uint16)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _tiff(values: np.ndarray, order: str) -> bytes:
    height, width = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def _sixteen_bit_files() -> dict[str, bytes]:
    # Each PNG row begins with its filter, 0 for none; PNG is big-endian.
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SIXTEEN_BIT)
    return {
        "grey.png": _png(5, 2, 16, 0, rows),
        "intel.tif": _tiff(SIXTEEN_BIT, "<"),
        "motorola.tif": _tiff(SIXTEEN_BIT, ">"),
    }


@pytest.mark.parametrize("name", _sixteen_bit_files())
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(_sixteen_bit_files()[name])
    photo = read_photo(tmp_path / name)
    np.testing.assert_array_equal(photo[0, :, 0], [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(photo[1, :, 2], [18, 127, 254, 254, 255])
    assert (photo == photo[:, :, :1]).all()


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("#c02010", "#1020c0", "#10c020")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 3
    np.testing.assert_array_equal(read_photo(path), np.broadcast_to([0xC0, 0x20, 0x10], (8, 12, 3)))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    suffix=st.sampled_from(["png", "bmp", "tif", "webp", "tiff"]),
    seed=st.integers(0, 99),
)
def test_lossless_files_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, suffix: str, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = tmp_path_factory.getbasetemp() / f"lossless.{suffix}"
    Image.fromarray(pixels).save(path, **_lossless(suffix))
    np.testing.assert_array_equal(read_photo(path), pixels)


# ------------------------------------------------------------------------------------------------- failures


def _encoded(tmp_path: Path, suffix: str) -> bytes:
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(NOISE).save(path)
    return path.read_bytes()


def _reason(path: Path) -> str:
    with pytest.raises(UnreadablePhotoError) as caught:
        read_photo(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"Dear sir, here is my photo.", "not an image"), (b"\xff\xd8\xff", "not an image")],
)
def test_empty_files_and_text_are_named_as_such(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert _reason(path) == reason


@pytest.mark.parametrize("share", [0.4, 0.9])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_truncated_files_fail_instead_of_giving_half_a_picture(tmp_path: Path, suffix: str, share: float) -> None:
    content = _encoded(tmp_path, suffix)
    path = tmp_path / f"photo.{suffix}"
    path.write_bytes(content[: int(share * len(content))])
    reason = _reason(path)
    assert reason
    assert str(tmp_path) not in reason
    if suffix in {"jpg", "png"}:
        assert "truncated" in reason.lower()


def test_damaged_pixels_fail(tmp_path: Path) -> None:
    content = bytearray(_encoded(tmp_path, "png"))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "photo.png").write_bytes(content)
    assert _reason(tmp_path / "photo.png")


def test_pictures_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5, np.nan], [7, 1]], np.float32)).save(tmp_path / "float.tif")
    assert "floating-point" in _reason(tmp_path / "float.tif")
    for value in (-1, 65536):
        Image.fromarray(np.array([[0, value]], np.int32)).save(tmp_path / "wide.tif")
        assert "outside 0 to 65535" in _reason(tmp_path / "wide.tif")


@pytest.mark.parametrize("side", [10_000, 30_000])  # Pillow warns of the first and refuses the second
def test_decompression_bomb(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(_png(side, side, 8, 0, bytes(1000)))
    reason = _reason(tmp_path / "bomb.png")
    assert "bomb" in reason
    assert str(side**2) in reason


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    assert _reason(tmp_path / "folder.jpg") == "a folder, not a file"
    assert _reason(tmp_path / "dangling.jpg") == "a link to a missing file"
    assert _reason(tmp_path / "missing.jpg") == "No such file or directory"
    assert _reason(tmp_path / ("x" * 300 + ".jpg")) == "File name too long"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(_encoded(tmp_path, "png"))
    (tmp_path / "secret.png").chmod(0)
    assert _reason(tmp_path / "secret.png") == "Permission denied"


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
    with pytest.raises(FacegmError, match=r"line \d+: not text"):
        find_photos(_list(tmp_path, _encoded(tmp_path, "jpg")))


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
