"""Ready embeddings of any model, as people save them: `.npz`, `.npy` with a list of names, or Parquet."""

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float

from facegm.embedding.face_table import DESCRIPTION
from facegm.errors import FacegmError, UsageError

_NAMES = ("path", "paths", "name", "names")
_EMBEDDINGS = ("embedding", "embeddings")
_EXPECTED = (
    "expected a .npz with `paths` (text, no Python objects) and `embeddings` [images, dim], a .npy [images, dim] with "
    "the names in a .txt file beside it, or a Parquet file with columns `path` and `embedding`"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedEmbeddings:
    """Embeddings of images, by name; `facegm.eval.sets.joining.join` finds those of pairs."""

    names: tuple[str, ...]
    """As the file spells them, each once; backslashes are slashes."""
    embeddings: Float[np.ndarray, "images dim"]
    """One row a name, finite, in the file's own precision."""


def read_embeddings(path: Path, *, names_file: Path | None = None) -> NamedEmbeddings:
    """Read embeddings in the format that the file's suffix names.

    - `.npz`: arrays `embeddings` [images, dim] and `paths` (or `names`), which is an array of text.
    - `.npy`: an array [images, dim]; names lie in a text file, one a line.
    - `.parquet`: a column `path` (or `name`) of text, and a column `embedding` of lists, or nothing else but columns of
      numbers, one for each dimension in its order.

    Of a file that `facegm embed` made, those of each photo's subject are read, not of other faces beside it.

    Numbers are float16, float32 or float64. No pickled object is loaded.

    Args:
        path: the file.
        names_file: for `.npy`, the file of names; None for the one beside it with `.txt` in place of `.npy`.

    Raises:
        UsageError: names for a file that has its own.
        FacegmError: the file cannot be read or holds something else, NaN or infinity, or a name twice.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy", ".parquet"):
        raise FacegmError(f"{path}: embeddings in an unknown format; {_EXPECTED}")
    if names_file is not None and suffix != ".npy":
        raise UsageError(f"{names_file}: {path} names its rows itself; a file of names belongs to a .npy file alone")
    if not path.is_file():
        raise FacegmError(f"{path}: no such file; {_EXPECTED}")
    try:
        if suffix == ".npz":
            names, embeddings = _of_npz(path)
        elif suffix == ".npy":
            names, embeddings = _lines(names_file or path.with_suffix(".txt")), _of_npy(path)
        else:
            names, embeddings = _of_parquet(path)
        _check(names, embeddings)
    except OSError as error:
        raise FacegmError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # of damaged files zipfile, NumPy and pyarrow raise anything
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise FacegmError(f"{path}: {reason}; {_EXPECTED}") from error
    return NamedEmbeddings(names=tuple(names), embeddings=embeddings.astype(embeddings.dtype.newbyteorder("=")))


def _of_npz(path: Path) -> tuple[list[str], np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = [name.removesuffix(".npy") for name in archive.namelist()]
        wanted = [_only(_NAMES, members), _only(_EMBEDDINGS, members), *(["face"] if DESCRIPTION in members else [])]
        arrays = []
        for member in wanted:
            with archive.open(f"{member}.npy") as file:
                arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    names, embeddings = arrays[:2]
    if DESCRIPTION in members:
        names, embeddings = names[arrays[2] == 0], embeddings[arrays[2] == 0]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise ValueError(f"names of type {names.dtype} and shape {names.shape}")
    texts = [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
    return [text.replace("\\", "/") for text in texts], embeddings


def _of_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _lines(path: Path) -> list[str]:
    """The names that a text file lists."""
    lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    return [line.replace("\\", "/") for line in lines]


def _of_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    file = pq.ParquetFile(path)
    columns = file.schema_arrow.names
    name = _only(_NAMES, columns)
    vectors = [column for column in columns if column in _EMBEDDINGS] or [
        column for column in columns if column != name
    ]
    if DESCRIPTION.encode() in (file.schema_arrow.metadata or {}):
        table = file.read([name, *vectors, "face"])
        table = table.filter(pc.equal(table["face"], 0))
    else:
        table = file.read([name, *vectors])
    names = table[name].cast(pa.string()).to_pylist()
    if None in names:
        raise ValueError(f"row {names.index(None)} (counted from 0) has no name")
    if len(vectors) == 1 and _is_list(table[vectors[0]].type):
        return [text.replace("\\", "/") for text in names], _of_lists(table[vectors[0]].combine_chunks())
    others = [column for column in vectors if not pa.types.is_floating(table[column].type)]
    if others or not vectors:
        raise ValueError(f"columns that are neither names nor floating-point numbers: {', '.join(others[:5])}")
    numbers = [table[column].to_numpy() for column in vectors]
    return [text.replace("\\", "/") for text in names], np.stack(numbers, axis=1)


def _is_list(kind: pa.DataType) -> bool:
    return any(is_one(kind) for is_one in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _of_lists(lists: pa.Array) -> np.ndarray:
    """Embeddings of a column of lists, which all have to be of one length."""
    lengths = pc.list_value_length(lists).to_pylist()
    odd = next((row for row, length in enumerate(lengths) if length is None or length != lengths[0]), None)
    if odd is not None:
        raise ValueError(f"row {odd} (counted from 0) has {lengths[odd] or 'no'} numbers, row 0 has {lengths[0]}")
    values = lists.flatten()
    if not pa.types.is_floating(values.type) or values.null_count:
        raise ValueError(f"embeddings of {values.type}, {values.null_count} of them missing")
    return np.asarray(values).reshape(len(lists), -1)


def _only(wanted: Sequence[str], names: Sequence[str]) -> str:
    """The one of the wanted names that is there."""
    found = [name for name in names if name in wanted]
    if len(found) != 1:
        raise ValueError(f"holds {', '.join(names[:8]) or 'nothing'}, of which {len(found)} are called {wanted[0]}")
    return found[0]


def _check(names: Sequence[str], embeddings: np.ndarray) -> None:
    """Raise ValueError unless there is one finite vector of one precision for each name, and each name once."""
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(f"embeddings of shape {embeddings.shape}")
    if embeddings.dtype.kind != "f" or embeddings.dtype.itemsize > 8:
        raise ValueError(f"embeddings of {embeddings.dtype}, no float16, float32 or float64")
    if len(names) != len(embeddings):
        raise ValueError(f"{len(names):,} names for {len(embeddings):,} embeddings")
    if "" in names:
        raise ValueError(f"row {names.index('')} (counted from 0) has no name")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{name} comes {count} times")
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise ValueError(f"NaN or infinity in {len(broken):,} embeddings, first in row {broken[0]}, {names[broken[0]]}")
