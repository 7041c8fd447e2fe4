"""Protects what a store is made of: names, columns, settings and pictures come back exactly; damage is named."""

import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from facegm.data.names import escaped, unescaped
from facegm.errors import FacegmError
from facegm.store.format import (
    FORMAT,
    MANIFEST_FILE,
    SCHEMA,
    SETTINGS_FILE,
    StoreFormat,
    begin_store,
    count_statuses,
    decode_face,
    encode_face,
    is_store,
    manifest_writer,
    read_settings,
    to_table,
)
from facegm.store.reader import FaceStore

_NAMES = st.binary(min_size=1, max_size=20).map(os.fsdecode)  # every file name there is: surrogates, newlines, quotes


def _face(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- names


@settings(max_examples=300, deadline=None)
@given(
    names=st.lists(
        st.lists(st.sampled_from([b"\\", b"x", b"5c", b"\\x", b"e9", b"\xe9", "é".encode(), b"a", b"\n"]), max_size=6)
        .map(b"".join)
        .map(os.fsdecode)
        | _NAMES,
        max_size=4,
        unique=True,
    )
)
def test_names_are_valid_unicode_differ_where_they_differed_and_come_back(names: list[str]) -> None:
    shown = [escaped(name) for name in names]
    for name in shown:
        name.encode()  # raises for what is no valid Unicode
    assert len({*shown}) == len(names)
    assert [unescaped(name) for name in shown] == names


def test_ordinary_names_stay_as_they_are_and_bytes_are_shown_in_hexadecimal() -> None:
    for name in ("Ann/0001.jpg", "Zoë 漢字/a b.jpg", "back\\slash", 'quote"', "tab\t"):
        assert escaped(name) == name
    assert escaped(os.fsdecode(b"Zo\xeb/\xff.jpg")) == "Zo\\xeb/\\xff.jpg"
    assert escaped("a\\xeb") == "a\\x5cxeb"


@pytest.mark.parametrize("name", ["\ud83d", "a\udfffb", "\udce9\ud800"])
def test_half_of_a_surrogate_pair_as_json_labels_can_hold_is_no_error(name: str) -> None:
    """Protects a run of days from an emoji that was cut in two, which no bytes stand for."""
    assert escaped(name).isascii()
    assert escaped(unescaped(escaped(name))) == escaped(name)
    assert to_table([{"key": "a", "identity": name, "status": "aligned"}])["identity"].to_pylist() == [escaped(name)]


# ------------------------------------------------------------------------------------------------- manifest


_NUMBERS = st.floats(-1e4, 1e4).map(lambda value: round(value, 3))
_HASHES = st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex)
_ROWS = st.fixed_dictionaries(
    {"key": _NAMES, "status": st.sampled_from(["aligned", "center-crop", "failed"])},
    optional={
        "identity": st.none() | _NAMES,
        "reason": st.none() | _NAMES,
        "faces": st.none() | st.integers(0, 99),
        "box": st.none() | st.lists(_NUMBERS, min_size=4, max_size=4),
        "landmarks": st.none() | st.lists(st.lists(_NUMBERS, min_size=2, max_size=2), min_size=5, max_size=5),
        **dict.fromkeys(("probability", "residual", "profile", "sharpness", "contrast"), st.none() | _NUMBERS),
        "digest": _HASHES,
        "perceptual_hash": _HASHES,
        "photo_bytes": st.none() | st.integers(0, 2**40),
        "photo_modified_ns": st.none() | st.integers(-(2**62), 2**62),
        "part": st.none() | st.just("00000"),
        "offset": st.none() | st.integers(0, 2**45),
        "length": st.none() | st.integers(0, 2**30),
        "checksum": st.none() | st.integers(0, 2**32 - 1),
    },
)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table as the fields that it was made of."""
    names = {name: unescaped(row[name]) for name in ("key", "identity", "status", "reason", "part") if row[name]}
    hashes = {name: row[name].hex() for name in ("digest", "perceptual_hash") if row[name]}
    points = row["landmarks"] and np.reshape(row["landmarks"], (5, 2)).tolist()
    return row | names | hashes | {"landmarks": points}


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(_ROWS, max_size=5))
def test_rows_come_back_exactly_from_the_manifest_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    store = tmp_path_factory.getbasetemp() / "rows"
    store.mkdir(exist_ok=True)
    (store / SETTINGS_FILE).write_text(f'{{"format": {FORMAT}, "size": 16}}')
    with manifest_writer(store) as manifest:
        for row in rows:  # in as many row groups
            manifest.write_table(to_table([row]))
    table = FaceStore(store).table()
    assert table.column_names == SCHEMA.names
    nothing = dict.fromkeys(SCHEMA.names)
    assert [_plain(row) for row in table.to_pylist()] == [nothing | row for row in rows]


@pytest.mark.parametrize(
    "field", [{"faces": "two"}, {"box": [1, 2, 3]}, {"digest": "ab"}, {"digest": 3}, {"landmarks": 1}, {"key": 3}]
)
def test_a_field_that_is_not_what_the_schema_says_is_an_error(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        to_table([{"key": "a", "status": "aligned"} | field])


def _write_manifest(store: Path) -> list[dict[str, Any]]:
    store.mkdir(exist_ok=True)
    (store / SETTINGS_FILE).write_text(f'{{"format": {FORMAT}, "size": 16}}')
    rows: list[dict[str, Any]] = [
        {"key": f"Ann/{n}.jpg", "identity": "Ann", "status": "aligned", "box": [1.0, 2.0, 3.0, n], "length": n}
        for n in range(20)
    ]
    rows.append({"key": os.fsdecode(b"\xff.jpg"), "status": "failed", "reason": "empty file"})
    with manifest_writer(store) as manifest:
        manifest.write_table(to_table(rows))
    return rows


def test_pandas_polars_and_duckdb_read_the_manifest_in_a_line(tmp_path: Path) -> None:
    rows = _write_manifest(tmp_path)
    path = str(tmp_path / MANIFEST_FILE)
    keys = [escaped(row["key"]) for row in rows]
    frame = pd.read_parquet(path)
    assert frame["key"].tolist() == keys
    assert frame["box"][3].tolist() == [1, 2, 3, 3]
    assert pl.read_parquet(path)["key"].to_list() == keys
    assert pl.read_parquet(path)["box"][3].to_list() == [1, 2, 3, 3]
    query = f"select status, identity, count(*) from '{path}' group by all order by all"
    assert duckdb.execute(query).fetchall() == [("aligned", "Ann", 20), ("failed", None, 1)]


def test_a_flipped_byte_of_the_manifest_is_named_or_changes_nothing(tmp_path: Path) -> None:
    """Protects records from a bad disk: whatever byte it changes, wrong rows are never read."""
    _write_manifest(tmp_path)
    path, expected = tmp_path / MANIFEST_FILE, FaceStore(tmp_path).table().to_pylist()
    whole, refused = path.read_bytes(), 0
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(4, pages, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            assert FaceStore(tmp_path).table().to_pylist() == expected, f"byte {place} was changed"
        except FacegmError as error:
            refused += f"{path}: damaged" in str(error)
    assert refused > 0.6 * pages / 7


@pytest.mark.parametrize("size", [0, 3, 100, -20, -1])
def test_a_manifest_that_is_cut_off_is_named_and_a_missing_one_too(tmp_path: Path, size: int) -> None:
    _write_manifest(tmp_path)
    path = tmp_path / MANIFEST_FILE
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(FacegmError, match=r"manifest\.parquet: damaged"):
        FaceStore(tmp_path).table(["key"])
    path.unlink()
    with pytest.raises(FacegmError, match=r"manifest\.parquet: missing; run `facegm align` again"):
        FaceStore(tmp_path).table(["key"])


def test_statuses_and_reasons_are_counted() -> None:
    rows = [("aligned", None), ("failed", "empty"), ("failed", "dark"), ("failed", "empty"), ("center-crop", "no face")]
    table = to_table([{"key": "k", "status": status, "reason": reason} for status, reason in rows])
    expected = {"aligned": 1, "failed": 3, "center-crop": 1, "failed: empty": 2, "failed: dark": 1}
    assert count_statuses(table) == Counter(expected)
    encoded = pa.table({name: table[name].dictionary_encode() for name in ("status", "reason")})  # as it is read
    assert count_statuses(encoded) == Counter(expected)


# ------------------------------------------------------------------------------------------------- pictures


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 130), smooth=st.booleans())
def test_png_keeps_the_pixels_exactly_as_an_ordinary_rgb_picture(seed: int, size: int, smooth: bool) -> None:
    face = np.add.outer(np.arange(size), np.arange(3 * size)).reshape(size, size, 3).astype(np.uint8)
    face = face if smooth else _face(seed, size)
    data = encode_face(face)
    np.testing.assert_array_equal(decode_face(data, "png"), face)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(image), face)


def test_jpeg_is_of_quality_95_without_colour_subsampling_and_nearly_right() -> None:
    face = cv2.resize(_face(0, 5), (128, 128), interpolation=cv2.INTER_CUBIC)
    data, pillows = encode_face(face, "jpeg"), io.BytesIO()
    Image.fromarray(face).save(pillows, "JPEG", quality=95, subsampling="4:4:4")
    with Image.open(io.BytesIO(data)) as image, Image.open(pillows) as expected:
        assert isinstance(image, JpegImageFile)
        assert isinstance(expected, JpegImageFile)
        assert image.quantization == expected.quantization
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    again = decode_face(data, "jpeg")
    assert again is not None
    assert 0 < np.abs(again.astype(int) - face).mean() < 1.5  # swapped channels would be off by dozens
    assert len(data) < len(encode_face(face)) / 2


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_a_picture_that_is_cut_off_anywhere_is_none(encoding: Any) -> None:
    data = encode_face(_face(0), encoding)
    for size in range(0, len(data), 13):
        assert decode_face(data[:size], encoding) is None


# ------------------------------------------------------------------------------------------------- settings


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    assert not is_store(tmp_path)
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FacegmError, match="not a store of aligned faces; make one by `facegm align"):
            FaceStore(folder)


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text('{"format": 3, "size": 16}')
    assert is_store(tmp_path)
    with pytest.raises(FacegmError, match=r"store\.json: store format 3, this facegm reads 1 and 2"):
        FaceStore(tmp_path)


_UNKNOWN = [
    b'{"format": 2, "encoding": "webp"}',
    b'{"format": 2, "container": "zip"}',
    b'{"format": 2, "encoding": []}',
]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"null", b'"format"', b"{}", b"\xff", *_UNKNOWN])
def test_damaged_settings_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(FacegmError, match=r"store\.json: damaged"):
        read_settings(tmp_path)


def test_settings_come_back_and_the_oldest_stores_hold_png_files(tmp_path: Path) -> None:
    content: dict[str, Any] = {"format": FORMAT, "size": 16, "color": "RGB", "template": [[1.5, 2.5]]}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(content))
    assert FaceStore(tmp_path).settings == content | {"encoding": "png", "container": "folder"}
    assert FaceStore(tmp_path).size == 16
    with pytest.raises(ValueError, match="encoding: 'gif', must be one of png, jpeg"):
        StoreFormat(encoding="gif")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="container: 'zip', must be one of folder, tar"):
        StoreFormat(container="zip")  # type: ignore[arg-type]


_SETTINGS = {"size": 16, "encoding": "png", "container": "tar", "on_missing": "skip"}


def test_a_store_is_begun_once_and_gone_on_with_in_the_same_way_alone(tmp_path: Path) -> None:
    store = tmp_path / "new" / "store"
    begin_store(store, _SETTINGS)
    assert json.loads((store / SETTINGS_FILE).read_text()) == {"format": FORMAT, **_SETTINGS}
    begin_store(store, _SETTINGS)
    assert [path.name for path in store.iterdir()] == [SETTINGS_FILE]
    changed = _SETTINGS | {"container": "folder", "minimum_face": 20}
    expected = r"made otherwise \(container: tar, now folder, minimum_face: None, now 20\); do as then, or give another"
    with pytest.raises(FacegmError, match=expected):
        begin_store(store, changed)


@pytest.mark.parametrize("other", ["photo.jpg", "faces", MANIFEST_FILE])
def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path, other: str) -> None:
    (tmp_path / other).write_bytes(b"mine")
    for folder in (tmp_path, tmp_path / other):
        with pytest.raises(
            FacegmError, match="exists and is not a store of aligned faces; give an empty or new folder"
        ):
            begin_store(folder, _SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == [other]


def test_what_a_job_killed_at_its_beginning_has_left_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / f".{SETTINGS_FILE}.00001.partial").write_bytes(b"{")
    begin_store(tmp_path, _SETTINGS)
    assert read_settings(tmp_path)["on_missing"] == "skip"
