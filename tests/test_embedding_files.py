"""Protects verification of anybody's embeddings: three formats, one result; and what is wrong with a file is said."""

import contextlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.errors import FacegmError, UsageError
from facegm.eval.embedding_files import NamedEmbeddings, read_embeddings
from facegm.eval.joining import join
from facegm.eval.pairs import read_pairs
from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA

NAMES = [f"{person}/{person}_{photo:04d}.jpg" for person in ("Ann", "Bob", "Cy", "Di") for photo in range(1, 6)]
VECTORS = np.random.default_rng(0).normal(size=(20, 7)) + np.repeat(np.eye(4, 7) * 3, 5, axis=0)


def npz(folder: Path, names: list[str], vectors: np.ndarray) -> Path:
    np.savez(folder / "e.npz", paths=names, embeddings=vectors)
    return folder / "e.npz"


def npz_of_bytes(folder: Path, names: list[str], vectors: np.ndarray) -> Path:
    np.savez_compressed(folder / "e.npz", names=np.array([name.encode() for name in names]), embeddings=vectors)
    return folder / "e.npz"


def npy(folder: Path, names: list[str], vectors: np.ndarray) -> Path:
    np.save(folder / "e.npy", np.asfortranarray(vectors))
    (folder / "e.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*names, ""]).encode())
    return folder / "e.npy"


def parquet_of(lists: Callable[[pa.DataType, int], pa.DataType]) -> Callable[[Path, list[str], np.ndarray], Path]:
    def write(folder: Path, names: list[str], vectors: np.ndarray) -> Path:
        kind = lists(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
        embeddings = pa.array([list(vector) for vector in vectors], kind)
        table = pa.table({"age": list(range(len(names))), "embedding": embeddings, "path": names})
        pq.write_table(table, folder / "e.parquet", row_group_size=3)
        return folder / "e.parquet"

    return write


def parquet_of_columns(folder: Path, names: list[str], vectors: np.ndarray) -> Path:
    table = {str(number): vectors[:, number] for number in range(vectors.shape[1])} | {"name": names}
    pq.write_table(pa.table(table), folder / "e.parquet")
    return folder / "e.parquet"


def parquet_of_pandas(folder: Path, names: list[str], vectors: np.ndarray) -> Path:
    pd.DataFrame({"path": names, "embedding": list(vectors)}).to_parquet(folder / "e.parquet")
    return folder / "e.parquet"


FORMATS: dict[str, Callable[[Path, list[str], np.ndarray], Path]] = {
    "npz": npz,
    "npz of bytes": npz_of_bytes,
    "npy": npy,
    "Parquet of lists": parquet_of(lambda number, _: pa.list_(number)),
    "Parquet of large lists": parquet_of(lambda number, _: pa.large_list(number)),
    "Parquet of lists of one length": parquet_of(pa.list_),
    "Parquet of columns": parquet_of_columns,
    "Parquet of pandas": parquet_of_pandas,
}


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_read_to_the_last_bit(tmp_path: Path, form: str, dtype: str) -> None:
    found = read_embeddings(FORMATS[form](tmp_path, NAMES, VECTORS.astype(dtype)))
    assert found.names == tuple(NAMES)
    assert found.embeddings.dtype == dtype
    assert np.array_equal(found.embeddings, VECTORS.astype(dtype))


def test_all_formats_give_the_same_figures(tmp_path: Path) -> None:
    """In any order, with another suffix, behind a folder: the pairs find theirs."""
    lines = ["2\t2"]
    for fold in ("Ann", "Bob"), ("Cy", "Di"):
        lines += [f"{name}\t1\t2" for name in fold] + [f"{fold[0]}\t{n}\t{fold[1]}\t{n + 2}" for n in (2, 3)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    pairs = read_pairs(tmp_path / "pairs.txt")
    by_name = dict(zip(NAMES, VECTORS, strict=True))
    a, b = (np.stack([by_name[name] for name in names]) for names in (pairs.names_a, pairs.names_b))
    expected = verify(a, b, pairs.same, pairs.fold, variant=NO_PCA)
    order = np.random.default_rng(1).permutation(len(NAMES))
    names = [f"C:\\lfw\\{NAMES[row]}".replace("/", "\\").replace(".jpg", ".png") for row in order]
    for form in ("npz", "npy", "Parquet of lists", "Parquet of columns"):
        found = read_embeddings(FORMATS[form](tmp_path, names, VECTORS[order]))
        rows = join(pairs.images, found.names)
        a, b = (found.embeddings[[rows[name] for name in side]] for side in (pairs.names_a, pairs.names_b))
        result = verify(a, b, pairs.same, pairs.fold, variant=NO_PCA)
        assert np.array_equal(result.distances, expected.distances), form
        assert result.accuracy == expected.accuracy


def test_other_byte_orders_and_a_list_of_names_elsewhere(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", VECTORS.astype(">f4"))
    (tmp_path / "names.list").write_text("\n".join(NAMES))
    found = read_embeddings(tmp_path / "e.npy", names_file=tmp_path / "names.list")
    assert found.embeddings.dtype == np.float32
    assert np.array_equal(found.embeddings, VECTORS.astype(np.float32))


def changed(row: int, value: float) -> np.ndarray:
    vectors = VECTORS.copy()
    vectors[row, 2] = value
    return vectors


@pytest.mark.parametrize("form", ["npz", "npy", "Parquet of lists", "Parquet of columns"])
@pytest.mark.parametrize(
    ("names", "vectors", "message"),
    [
        (NAMES, changed(3, np.nan), r"NaN or infinity in 1 embeddings, first in row 3, Ann/Ann_0004\.jpg"),
        (NAMES, changed(0, np.inf), "NaN or infinity"),
        ([*NAMES[:19], NAMES[0]], VECTORS, r"Ann/Ann_0001\.jpg comes 2 times"),
        ([*NAMES[:19], NAMES[0].replace("/", "\\")], VECTORS, r"Ann/Ann_0001\.jpg comes 2 times"),
        ([NAMES[0], "", *NAMES[2:]], VECTORS, "row 1 .* has no name"),
    ],
)
def test_what_is_wrong_with_the_numbers_or_names_is_said(
    tmp_path: Path, form: str, names: list[str], vectors: np.ndarray, message: str
) -> None:
    with pytest.raises(FacegmError, match=rf"e\.\w+: .*{message}.*; expected a \.npz"):
        read_embeddings(FORMATS[form](tmp_path, names, vectors))


@pytest.mark.parametrize("name", ["e.npz", "e.npy", "e.parquet"])
@pytest.mark.parametrize("content", [b"", b"hello", None, "cut"])
def test_damaged_and_missing_files_are_named(tmp_path: Path, name: str, content: bytes | str | None) -> None:
    path = FORMATS[{"e.npz": "npz", "e.npy": "npy", "e.parquet": "Parquet of lists"}[name]](tmp_path, NAMES, VECTORS)
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(FacegmError, match=re.escape(str(path))) as caught:
        read_embeddings(path)
    assert "unsafely" not in str(caught.value)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    objects = np.array([*NAMES], dtype=object)
    np.savez(tmp_path / "e.npz", paths=objects, embeddings=VECTORS)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"paths": NAMES}))
    np.save(tmp_path / "o.npy", np.array([1.0, None], dtype=object))
    (tmp_path / "o.txt").write_text("a\nb")
    for name in ("e.npz", "pickle.npz", "o.npy"):
        with pytest.raises(FacegmError, match=rf"{name}: .*expected a \.npz with `paths` \(text, no Python objects\)"):
            read_embeddings(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"paths": NAMES}, "holds paths, of which 0 are called embedding"),
        ({"paths": NAMES, "names": NAMES, "embeddings": VECTORS}, "of which 2 are called path"),
        ({"paths": NAMES, "embeddings": VECTORS[:19]}, "20 names for 19 embeddings"),
        ({"paths": NAMES, "embeddings": VECTORS[0]}, r"embeddings of shape \(7,\)"),
        ({"paths": [], "embeddings": VECTORS[:0]}, r"names of type float64|embeddings of shape \(0, 7\)"),
        ({"paths": NAMES, "embeddings": VECTORS.astype(np.int64)}, "embeddings of int64, no float16"),
        ({"paths": NAMES, "embeddings": VECTORS.astype(np.longdouble)}, "embeddings of float128, no float16"),
        ({"paths": [*range(20)], "embeddings": VECTORS}, "names of type int64"),
    ],
)
def test_arrays_that_are_no_embeddings_are_refused(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    np.savez(tmp_path / "e.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(FacegmError, match=rf"e\.npz: .*{message}"):
        read_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}, "row 1 .* has 2 numbers, row 0 has 1"),
        ({"path": ["a", "b"], "embedding": [[1.0], None]}, "row 1 .* has no numbers, row 0 has 1"),
        ({"path": ["a", "b"], "embedding": [[1.0, 2.0], [None, 2.0]]}, "embeddings of double, 1 of them missing"),
        ({"path": ["a", "b"], "embedding": [[1], [2]]}, "embeddings of int64, 0 of them missing"),
        ({"path": ["a", None], "embedding": [[1.0], [2.0]]}, "row 1 .* has no name"),
        ({"path": ["a", "b"], "0": [1.0, 2.0], "age": [1, 2]}, "neither names nor floating-point numbers: age"),
        ({"path": ["a", "b"]}, "neither names nor floating-point numbers"),
        ({"file": ["a", "b"], "embedding": [[1.0], [2.0]]}, "holds file, embedding, of which 0 are called path"),
    ],
)
def test_tables_that_are_no_embeddings_are_refused(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    with pytest.raises(FacegmError, match=rf"e\.parquet: .*{message}"):
        read_embeddings(tmp_path / "e.parquet")


def test_names_where_none_belong_and_where_they_are_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"list\.txt: .*e\.npz names its rows itself"):
        read_embeddings(npz(tmp_path, NAMES, VECTORS), names_file=tmp_path / "list.txt")
    path = npy(tmp_path, NAMES, VECTORS)
    path.with_suffix(".txt").unlink()
    with pytest.raises(FacegmError, match=r"e\.txt: cannot be read: No such file"):
        read_embeddings(path)
    with pytest.raises(FacegmError, match=r"e\.csv: embeddings in an unknown format; expected a \.npz"):
        read_embeddings(tmp_path / "e.csv")


def test_an_archive_may_hold_other_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", paths=NAMES, embeddings=VECTORS, labels=np.array([None, "x"], dtype=object))
    found = read_embeddings(tmp_path / "e.npz")
    assert isinstance(found, NamedEmbeddings)
    assert np.array_equal(found.embeddings, VECTORS)


@given(data=st.data())
def test_flipped_bits_are_refused_or_give_embeddings(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from([*FORMATS]))
    path = FORMATS[form](tmp_path_factory.mktemp("embeddings"), NAMES, VECTORS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(FacegmError):
        found = read_embeddings(path)
        assert len(found.names) == len(found.embeddings)
        assert np.isfinite(found.embeddings).all()
