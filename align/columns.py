"""Columns of a manifest as numpy arrays, without a Python object a row."""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, UInt64

UNKNOWN = -1
"""The code of null."""

HASH_WORDS = 4
"""64-bit words of a digest or a perceptual hash."""


def codes(column: pa.ChunkedArray) -> tuple[Int64[np.ndarray, " rows"], pa.Array]:
    """Number the different values of a column in the order in which they first occur.

    Returns:
        The number of each row's value, `UNKNOWN` for null; and the values.
    """
    encoded = column.dictionary_encode().unify_dictionaries()
    if encoded.num_chunks == 0:
        return np.empty(0, np.int64), pa.array([], encoded.type.value_type)
    numbers = [chunk.indices.fill_null(UNKNOWN).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return np.concatenate(numbers, dtype=np.int64), encoded.chunk(0).dictionary


def known(column: pa.ChunkedArray) -> Bool[np.ndarray, " rows"]:
    """Which rows are not null."""
    return np.asarray(column.is_valid().to_numpy(), np.bool_)


def words(column: pa.ChunkedArray) -> UInt64[np.ndarray, "4 rows"]:
    """A column of 32 bytes a row, as 64-bit words; those of a null row mean nothing."""
    found = np.zeros((HASH_WORDS, len(column)), np.uint64)
    start = 0
    for chunk in column.chunks:
        values = chunk.buffers()[1]
        if values is not None:
            rows = np.frombuffer(values, np.uint64).reshape(-1, HASH_WORDS)[chunk.offset :][: len(chunk)]
            found[:, start : start + len(chunk)] = rows.T
        start += len(chunk)
    return found
