"""Protects an alignment against what folders of photos hold in truth: damaged files, odd files, and things of no file.

One run over 150 of them: none stops it, each has a face or a reason, nothing is warned of, and a second run changes
nothing.
"""

import errno
import io
import os
import struct
import zlib
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stores import NamedFaces

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.align.worker import Aligner
from facegm.data.readers.photo import Photo
from facegm.store.format import MANIFEST_FILE

pytestmark = pytest.mark.usefixtures("quick_workers")

ORIENTATION = 0x0112
_image = Image.open(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))
HOPPER = _image.resize((154, 180), Image.Resampling.BOX)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _tiff(pixels: np.ndarray) -> bytes:
    return _encoded(Image.fromarray(pixels), "TIFF")


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", rows) + _png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _with_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = HOPPER.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else HOPPER
    return _encoded(turned, "JPEG", quality=95, exif=exif)


JPEG, PROGRESSIVE = (_encoded(HOPPER, "JPEG", progressive=progressive) for progressive in (False, True))
PNG = _encoded(HOPPER, "PNG")
BLANK = Image.new("RGB", HOPPER.size)
TRANSPARENT = HOPPER.quantize(200)
TRANSPARENT.info["transparency"] = 199
DAMAGED_EXIF = _with_exif(6).replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\xff\xff")

WITH_FACE: dict[str, bytes] = {
    "good/plain.jpg": JPEG,
    "good/progressive.jpg": PROGRESSIVE,
    "good/plain.png": PNG,
    "good/png in truth.jpg": PNG,
    "good/animation.gif": _encoded(HOPPER, "GIF", save_all=True, append_images=[BLANK, BLANK]),
    "good/cmyk.jpg": _encoded(HOPPER.convert("CMYK"), "JPEG", quality=95),
    "good/grey.jpg": _encoded(HOPPER.convert("L"), "JPEG"),
    "good/turned.jpg": _with_exif(6),
    "good/orientation of no meaning.jpg": _with_exif(77),
    "good/transparent palette.png": _encoded(TRANSPARENT, "PNG", transparency=199),
    "good/sixteen bit.png": _encoded(Image.fromarray(np.asarray(HOPPER.convert("L")).astype(np.uint16) * 257), "PNG"),
    "good/line\nbreak.jpg": JPEG,
    'good/tab\tand ,comma".jpg': JPEG,
    os.fsdecode(b"good/\xff\xfe\xe9.jpg"): JPEG,
}
NO_FACE = {
    "bad/one pixel.png": _encoded(Image.new("RGB", (1, 1)), "PNG"),
    "bad/line.png": _png(500, 1, zlib.compress(bytes(501))),
}
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "bad/empty.jpg": (b"", "empty file"),
    "bad/text.jpg": (b"this is no photo", "not an image"),
    "bad/page.png": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "bad/zeros.jpg": (bytes(10_000), "not an image"),
    "bad/huge.png": (_png(60_000, 60_000, zlib.compress(bytes(100))), "more than 89 megapixels"),
    "bad/bomb.png": (_png(12_000, 12_000, zlib.compress(bytes(12_001 * 12_000))), "more than 89 megapixels"),
    "bad/no size.png": (_png(0, 0, b""), ""),
    "bad/float.tif": (_encoded(Image.fromarray(np.full((40, 40), np.nan, np.float32)), "TIFF"), "floating-point image"),
    "bad/thirty-two bit.tif": (
        _encoded(Image.fromarray(np.full((40, 40), -1, np.int32)), "TIFF"),
        "outside 0 to 65535",
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged")
    contents = WITH_FACE | NO_FACE | {key: data for key, (data, _) in UNREADABLE.items()}
    contents["odd/damaged exif.jpg"] = DAMAGED_EXIF
    rng = np.random.default_rng(20)
    whole = {"jpg": JPEG, "progressive.jpg": PROGRESSIVE, "png": PNG}
    for kind, data in whole.items():
        for length in np.linspace(1, 0.95 * len(data), 15).astype(int):
            contents[f"cut/{length:06}.{kind}"] = data[:length]
        for number in range(26):
            flipped = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, len(data), rng.integers(1, 20))
            flipped[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
            contents[f"flipped/{number:03}.{kind}"] = flipped.tobytes()
    for key, data in contents.items():
        (root / key).parent.mkdir(exist_ok=True)
        (root / key).write_bytes(data)
    (root / "bad/folder.jpg").mkdir()
    (root / "bad/dangling.jpg").symlink_to("nowhere")
    (root / "bad/loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(root / "bad/pipe.jpg")
    (root / "bad/device.jpg").symlink_to("/dev/zero")
    return root


@pytest.fixture(scope="module")
def aligned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    store = tmp_path_factory.mktemp("stores") / "store"
    return store, align_photos(photos, store, AlignConfig(workers=2)).store.statuses


def test_every_input_has_a_face_or_a_reason_and_the_counts_add_up(
    photos: Path, aligned: tuple[Path, Counter[str]]
) -> None:
    store, counts = aligned
    records = NamedFaces(store).records
    keys = [path.relative_to(photos).as_posix() for path in photos.rglob("*.*")]
    assert list(records) == sorted(keys, key=os.fsencode)
    assert len(records) > 150
    assert counts["aligned"] + counts["failed"] == len(records)
    assert sum(number for kind, number in counts.items() if kind.startswith("failed: ")) == counts["failed"]
    for key, record in records.items():
        if record.status == "aligned":
            assert NamedFaces(store).face(key).shape == (128, 128, 3)
            assert record.reason is None
        else:
            assert record.status == "failed"
            assert record.reason, key


@pytest.mark.parametrize("key", WITH_FACE)
def test_what_is_merely_unusual_gives_its_face(aligned: tuple[Path, Counter[str]], key: str) -> None:
    record = NamedFaces(aligned[0]).records[key]
    assert (record.status, record.reason) == ("aligned", None)
    plain = NamedFaces(aligned[0]).records["good/plain.png"]
    np.testing.assert_allclose(np.array(record.landmarks), np.array(plain.landmarks), atol=4)


@pytest.mark.parametrize("key", NO_FACE)
def test_what_is_too_small_for_a_face_holds_none(aligned: tuple[Path, Counter[str]], key: str) -> None:
    record = NamedFaces(aligned[0]).records[key]
    assert (record.status, record.reason, record.faces) == ("failed", "no face found", 0)


@pytest.mark.parametrize("key", UNREADABLE)
def test_what_cannot_be_read_says_why(aligned: tuple[Path, Counter[str]], key: str) -> None:
    record = NamedFaces(aligned[0]).records[key]
    assert (record.status, record.faces) == ("failed", None)
    assert UNREADABLE[key][1] in str(record.reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "a folder, not a file"),
        ("dangling", "a link to a missing file"),
        ("loop", "a link to a missing file"),
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
    ],
)
def test_what_is_no_file_is_not_even_opened(aligned: tuple[Path, Counter[str]], name: str, reason: str) -> None:
    assert NamedFaces(aligned[0]).records[f"bad/{name}.jpg"].reason == reason


def test_no_cut_photo_gives_a_face(aligned: tuple[Path, Counter[str]]) -> None:
    cut = [record for key, record in NamedFaces(aligned[0]).records.items() if key.startswith("cut/")]
    assert len(cut) == 45
    assert {record.status for record in cut} == {"failed"}


def test_damaged_exif_does_not_spoil_a_photo(aligned: tuple[Path, Counter[str]]) -> None:
    assert _with_exif(6) != DAMAGED_EXIF
    # The orientation is lost, so that the face lies on its side: found or not, the photo was read.
    assert NamedFaces(aligned[0]).records["odd/damaged exif.jpg"].faces is not None


def test_a_second_run_changes_nothing(photos: Path, aligned: tuple[Path, Counter[str]]) -> None:
    def contents() -> dict[str, tuple[int, bytes]]:
        found = (path for path in aligned[0].rglob("*") if path.is_file())
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found if path.name != MANIFEST_FILE}

    before, manifest = contents(), (aligned[0] / MANIFEST_FILE).read_bytes()
    assert align_photos(photos, aligned[0], AlignConfig(workers=1)).store.statuses == aligned[1]
    assert contents() == before
    assert (aligned[0] / MANIFEST_FILE).read_bytes() == manifest


def test_a_photo_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(path: Path) -> bytes:  # because the tests may run as root, who may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "photo.jpg").write_bytes(JPEG)
    monkeypatch.setattr(Path, "read_bytes", forbid)
    photo = Photo(path=str(tmp_path / "photo.jpg"), key="photo.jpg", identity="x")
    [[result]] = Aligner(AlignConfig(), "cpu").process([[photo]])
    assert (result.record.status, result.record.reason) == ("failed", "Permission denied")
