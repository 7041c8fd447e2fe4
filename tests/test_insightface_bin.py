"""Protects sets as insightface packs them: read as written by any Python, and no pickle runs anything.

Files are written here by pickle itself, as insightface's `lfw2pack.py` writes them, or operation by operation.
"""

import contextlib
import copyreg
import io
import os
import pickle
import re
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import KFold

from facegm.errors import FacegmError
from facegm.eval.sets.insightface_bin import PackedSet


def jpeg(shade: int, side: int = 112, form: str = "JPEG") -> bytes:
    """A face that is red to its left and dark to its right."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, : side // 2, 0] = 128 + shade
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, quality=95)
    return file.getvalue()


IMAGES = [jpeg(shade) for shade in range(0, 88, 2)]
SAME = [bool(number % 3) for number in range(22)]
assert len({*IMAGES}) == 44


def write(folder: Path, content: object, protocol: int = 4) -> Path:
    path = folder / "lfw.bin"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def python_2(images: Sequence[bytes], same: Sequence[bool]) -> bytes:
    """As Python 2's pickle writes it by protocol 2: strings without memory of what they are."""
    strings = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in images)
    return b"\x80\x02](" + strings + b"e](" + b"".join(b"\x88" if one else b"\x89" for one in same) + b"e\x86."


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "labels",
    [
        list,
        lambda same: [np.bool_(one) for one in same],
        lambda same: [int(one) for one in same],
        np.array,
    ],
    ids=["bool", "numpy's bool", "int", "array"],
)
def test_what_any_python_and_numpy_wrote_is_read(
    tmp_path: Path, protocol: int, labels: Callable[[list[bool]], Any]
) -> None:
    found = PackedSet(write(tmp_path, (IMAGES, labels(SAME)), protocol))
    assert found.pairs.same.tolist() == SAME
    assert found.keys == tuple(f"{number:07}.jpg" for number in range(44))
    assert found.pairs.names_a == found.keys[::2]
    assert found.pairs.names_b == found.keys[1::2]


def test_python_2_and_arrays_of_bytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(python_2(IMAGES, SAME))
    arrays = write(tmp_path / "..", ([np.frombuffer(image, np.uint8) for image in IMAGES], SAME))
    for found in (PackedSet(path), PackedSet(arrays)):
        assert found.pairs.same.tolist() == SAME
        assert found.read_face(3)[64, 20, 0] == pytest.approx(134, abs=3)


@pytest.mark.parametrize("pairs", [10, 22, 25, 600])
def test_folds_are_those_of_insightface(tmp_path: Path, pairs: int) -> None:
    images = [IMAGES[number % len(IMAGES)] for number in range(2 * pairs)]
    found = PackedSet(write(tmp_path, (images, [number % 2 == 0 for number in range(pairs)])))
    for number, (_, test) in enumerate(KFold(n_splits=10, shuffle=False).split(range(pairs))):
        assert np.flatnonzero(found.pairs.fold == number).tolist() == test.tolist()


def test_faces_are_rgb_of_the_packages_size(tmp_path: Path) -> None:
    found = PackedSet(write(tmp_path, (IMAGES, SAME)))
    face = found.read_face(5)
    assert face.shape == (128, 128, 3)
    assert face.dtype == np.uint8
    np.testing.assert_allclose(face[40:80, 4:56].reshape(-1, 3).mean(axis=0), [138, 0, 0], atol=3)
    assert face[:, 72:].max() < 20


def test_an_image_that_occurs_again_is_named_as_before(tmp_path: Path) -> None:
    """LFW's 12,000 images are 7,701 photos: each is embedded once."""
    found = PackedSet(write(tmp_path, ([IMAGES[0], IMAGES[1], IMAGES[2], IMAGES[0]], [True, False])))
    assert found.pairs.names_a == ("0000000.jpg", "0000002.jpg")
    assert found.pairs.names_b == ("0000001.jpg", "0000000.jpg")
    assert found.keys == found.pairs.images == ("0000000.jpg", "0000001.jpg", "0000002.jpg")


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES[:43], SAME), "43 images for 22 pairs, expected 44"),
        ((IMAGES, SAME[:21]), "44 images for 21 pairs, expected 42"),
        (([], []), "0 images for 0 pairs"),
        (([*IMAGES[:9], b"", *IMAGES[10:]], SAME), "1 of 44 images are unusable; number 9 is empty"),
        (([*IMAGES[:42], b"GIF", b"text"], SAME), "2 of 44 images are unusable; number 42 is no picture.*'GIF'"),
        (([*IMAGES[:43], "text"], SAME), "a str as image 43; expected a pickle of"),
        (([*IMAGES[:43], np.zeros(9, np.float32)], SAME), "an array of other numbers than uint8"),
        ((IMAGES, [*SAME[:21], 2]), "a int in the list of booleans"),
        ((IMAGES, [*SAME[:21], np.int64(1)]), "an array of other numbers than bool"),
        ((IMAGES, [*SAME[:21], 1 << 99_999]), "a int in the list of booleans"),
        ((IMAGES, [*SAME[:21], None]), "a NoneType in the list of booleans"),
        ((IMAGES, "yes"), "a str in place of the list of booleans"),
        ({"images": IMAGES}, "a pickled dict"),
        ((IMAGES, SAME, 1), "a pickled tuple"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_files_that_hold_no_set_are_refused(tmp_path: Path, content: object, message: str, protocol: int) -> None:
    with pytest.raises(FacegmError, match=rf"lfw\.bin: .*{message}"):
        PackedSet(write(tmp_path, content, protocol))


def test_a_cut_off_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path, (IMAGES[:4], SAME[:2]))
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FacegmError, match=r"lfw\.bin: a damaged pickle.*expected a pickle of"):
            PackedSet(path)


def test_what_is_no_file_or_no_pickle_is_named(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match=r"none\.bin: cannot be read: No such file"):
        PackedSet(tmp_path / "none.bin")
    (tmp_path / "photo.bin").write_bytes(IMAGES[0])
    with pytest.raises(FacegmError, match=r"photo\.bin: a damaged pickle"):
        PackedSet(tmp_path / "photo.bin")


@pytest.mark.parametrize(
    ("image", "reason"),
    [(IMAGES[0][:900], "truncated"), (jpeg(0)[:40], "OSError|Error"), (b"\xff\xd8\xff" + bytes(99), "")],
)
def test_an_image_that_does_not_decode_is_named(tmp_path: Path, image: bytes, reason: str) -> None:
    found = PackedSet(write(tmp_path, ([image, *IMAGES[1:]], SAME)))
    with pytest.raises(FacegmError, match=rf"lfw\.bin: image 0000000\.jpg: .*({reason}).*copy or make the file again"):
        found.read_face(0)
    found.read_face(1)


@given(data=st.data())
def test_flipped_bits_are_refused_or_give_pairs(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = (IMAGES[:2], data.draw(st.sampled_from([[True], np.array([True]), [np.bool_(False)]])))
    value = bytearray(pickle.dumps(content, protocol=data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("bin") / "lfw.bin"
    path.write_bytes(value)
    with contextlib.suppress(FacegmError):
        assert len(PackedSet(path).pairs) == 1


# ------------------------------------------------------------------------------------------------- malice


class _Call:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _in_a_set(value: bytes) -> bytes:
    """A set of one pair, whose labels are a value made by some operations."""
    images = b"](" + b"".join(b"B" + struct.pack("<I", len(image)) + image for image in IMAGES[:2]) + b"e"
    return b"\x80\x04" + images + value + b"\x86."


def _dumped(*call: Any, protocol: int) -> bytes:
    return pickle.dumps((IMAGES[:2], [_Call(*call)]), protocol=protocol)


def _doubled_lists() -> bytes:
    """A dtype that is named by a list of 2**60 letters, of which each level holds the one below twice."""
    name: object = "a"
    for _ in range(60):
        name = [name, name]
    return b"cnumpy\ndtype\n" + pickle.dumps(name, protocol=2)[2:-1] + b"\x85R"


def _object_array(command: str) -> bytes:
    return pickle.dumps((IMAGES[:2], np.array([_Call(os.system, command)], dtype=object)), protocol=2)


Malice = tuple[Callable[[str], bytes], str]
MALICE: dict[str, Malice] = {
    "os.system, protocol 0": (lambda c: _dumped(os.system, c, protocol=0), "posix.system"),
    "os.system, protocol 2": (lambda c: _dumped(os.system, c, protocol=2), "posix.system"),
    "os.system, protocol 5": (lambda c: _dumped(os.system, c, protocol=5), "posix.system"),
    "os.system by its other name": (lambda c: _in_a_set(b"cos\nsystem\n" + _text(c) + b"\x85R"), "os.system"),
    "subprocess": (lambda c: _dumped(subprocess.check_output, c.split(), protocol=4), "subprocess.check_output"),
    "eval": (lambda c: _dumped(eval, f"__import__('os').system({c!r})", protocol=4), "builtins.eval"),
    "exec": (lambda c: _dumped(exec, f"import os; os.system({c!r})", protocol=4), "builtins.exec"),
    "eval of Python 2": (
        lambda c: _in_a_set(b"c__builtin__\neval\n" + _text(f"__import__('os').system({c!r})") + b"\x85R"),
        "__builtin__.eval",
    ),
    "import": (lambda _: _dumped(__import__, "antigravity", protocol=4), "builtins.__import__"),
    "getattr": (
        lambda c: _in_a_set(b"cbuiltins\ngetattr\ncos\n__dict__\n" + _text("system") + b"\x86R" + _text(c) + b"\x85R"),
        "builtins.getattr",
    ),
    "copyreg": (
        lambda _: _in_a_set(b"ccopy_reg\n_reconstructor\ncsubprocess\nPopen\nc__builtin__\nobject\nN\x87R"),
        "copy_reg._reconstructor",
    ),
    "an object array": (_object_array, "posix.system"),
    "an attribute of a known module": (
        lambda c: _in_a_set(b"\x8c\x05numpy\x8c\x0ef2py.os.system\x93" + _text(c) + b"\x85R"),
        "numpy.f2py.os.system",
    ),
    "a type's attribute": (
        lambda _: _in_a_set(b"\x8c\x05numpy\x8c\x13dtype.__class__.mro\x93)R"),
        "numpy.dtype.__class__.mro",
    ),
    "INST": (lambda c: _in_a_set(b"(" + _text(c) + b"ios\nsystem\n"), "os.system"),
    "OBJ": (lambda c: _in_a_set(b"(cos\nsystem\n" + _text(c) + b"o"), "os.system"),
    "NEWOBJ": (lambda c: _in_a_set(b"csubprocess\nPopen\n" + _text(c) + b"\x85\x81"), "subprocess.Popen"),
    "NEWOBJ_EX": (lambda _: _in_a_set(b"csubprocess\nPopen\n)}\x92"), "subprocess.Popen"),
    "BUILD": (lambda c: _in_a_set(b"cos\n_wrap_close\n)\x81}" + _text("a") + _text(c) + b"sb"), "os._wrap_close"),
    "BUILD on what stands for numpy": (
        lambda c: _in_a_set(b"cnumpy\nndarray\n}" + _text("__init__") + _text(c) + b"sb"),
        "damaged pickle",
    ),
    "EXT, registered": (lambda c: _in_a_set(b"\x82\xf0" + _text(c) + b"\x85R"), "os.system"),
    "EXT, unknown": (lambda _: _in_a_set(b"\x82\xf1"), "unregistered extension code 241"),
    "a persistent id": (lambda c: _in_a_set(b"P" + c.encode() + b"\n"), "persistent"),
    "a binary persistent id": (lambda c: _in_a_set(_text(c) + b"Q"), "persistent"),
    "loads of another pickle": (
        lambda _: _in_a_set(b"c_pickle\nloads\nB" + struct.pack("<I", 9) + b"cos\nexit\n\x85R"),
        "_pickle.loads",
    ),
    "torch's loader": (
        lambda _: _in_a_set(b"ctorch.storage\n_load_from_bytes\nB" + bytes(4) + b"\x85R"),
        "torch.storage._load_from_bytes",
    ),
    "memory by a number to remember by": (lambda _: _in_a_set(b"Nr\xff\xff\xff\x7f"), "remembers more than it holds"),
    "memory by a length": (lambda _: _in_a_set(b"\x8e" + struct.pack("<Q", 1 << 62)), "damaged pickle"),
    "memory by a frame": (lambda _: _in_a_set(b"\x95" + struct.pack("<Q", 1 << 62) + b"N"), "damaged pickle"),
    "memory by a number": (lambda _: _in_a_set(b"\x8b" + struct.pack("<i", (1 << 31) - 1)), "damaged pickle"),
    "memory by one text encoded often": (
        lambda _: _in_a_set(
            b"](c_codecs\nencode\nq\x000" + _text("a" * 1_000_000) + _text("latin1") + b"\x86q\x010"
            b"" + b"h\x00h\x01R" * 9_999 + b"e"
        ),
        "makes more bytes than it holds",
    ),
    "memory by a list that is told as text": (lambda _: _in_a_set(_doubled_lists()), "a name that is a list"),
    "depth": (lambda _: _in_a_set(b"}N" + b"\x85" * 1_000_000 + b"Ns"), "tuples, which may be too deep"),
}


@pytest.mark.parametrize("name", MALICE)
def test_a_malicious_pickle_runs_nothing_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, named = MALICE[name]
    monkeypatch.setitem(copyreg._inverted_registry, 0xF0, ("os", "system"))  # type: ignore[attr-defined]
    path, sentinel = tmp_path / "lfw.bin", tmp_path / "was-run"
    path.write_bytes(make(f"touch {sentinel}"))
    with pytest.raises(FacegmError, match=rf"lfw\.bin: .*{re.escape(named)}"):
        PackedSet(path)
    assert not sentinel.exists()


def test_a_pickle_within_an_image_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match="number 1 is no picture"):
        PackedSet(write(tmp_path, ([IMAGES[0], _dumped(os.system, "false", protocol=4)], [True])))


def test_the_variants_would_run_where_nothing_is_restricted(tmp_path: Path) -> None:
    """Protects the test itself: that pickle's own loader does as these files say."""
    for number, name in enumerate(["os.system, protocol 0", "eval", "INST", "subprocess", "an object array"]):
        sentinel = tmp_path / f"was-run-{number}"
        pickle.loads(MALICE[name][0](f"touch {sentinel}"))
        assert sentinel.exists(), name
