"""The nearest of many embeddings by FAISS (the extra `facegm[faiss]`): exact, or with a byte for each number."""

import logging
from importlib.util import find_spec
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from facegm.errors import FacegmError

FaissKind = Literal["flat", "sq8"]

TRAINED_ON = 2**15
"""Vectors from which sq8 takes the range of each dimension, and up to which it compares exactly."""
MARGIN = 0.1
"""Share of that range that is added on either side of it, for vectors to come."""


class FaissIndex:
    """See `facegm.gallery.index.Index`; compares with every vector, on all threads that OpenMP has.

    Distances come from squares in float32, and are off by 1e-3 where they are next to 0.

    Args:
        kind: `flat` holds vectors as they are, in 4 bytes a number; `sq8` holds each number as one of 256 steps (a
            scalar quantizer, FAISS' `QT_8bit`), and so is approximate.
        dim: length of a vector.

    Raises:
        FacegmError: FAISS is not installed.
    """

    def __init__(self, kind: FaissKind, dim: int) -> None:
        if find_spec("faiss") is None:
            raise FacegmError('index: FAISS is not installed; pip install "facegm[faiss]", or take the exact index')
        logging.getLogger("faiss").setLevel(logging.WARNING)  # it says which of its builds it loads
        import faiss

        self.kind: FaissKind = kind
        self._dim = dim
        self._index = faiss.IndexIDMap(faiss.IndexFlatL2(dim))
        self.is_exact = True

    def ids(self) -> Int64[np.ndarray, " vectors"]:
        """The ids of all vectors that are held."""
        import faiss

        return np.asarray(faiss.vector_to_array(self._index.id_map), np.int64)

    def nbytes(self) -> int:
        """Bytes of the vectors and their ids."""
        return int(self._index.ntotal * (self._index.index.sa_code_size() + 8))

    def add(self, ids: Int64[np.ndarray, " vectors"], vectors: Float32[np.ndarray, "vectors dim"]) -> None:
        """Hold more vectors; none of the ids is held yet."""
        if self.kind == "sq8" and self.is_exact and self._index.ntotal + len(ids) >= TRAINED_ON:
            self._quantize(vectors[:TRAINED_ON])
        self._index.add_with_ids(np.ascontiguousarray(vectors), np.ascontiguousarray(ids))

    def remove(self, ids: Int64[np.ndarray, " vectors"]) -> None:
        """Hold some vectors no longer; all of the ids are held."""
        import faiss

        self._index.remove_ids(faiss.IDSelectorBatch(np.ascontiguousarray(ids)))

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int
    ) -> tuple[Float64[np.ndarray, "queries found"], Int64[np.ndarray, "queries found"]]:
        """Find the `k` nearest vectors of each query; all of them where fewer are held.

        Returns:
            L2 distances (not squared), ascending, and the vectors' ids.
        """
        found = min(k, self._index.ntotal)
        if not found:
            return np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
        squares, ids = self._index.search(np.ascontiguousarray(queries), found)
        return np.sqrt(np.maximum(squares, 0, dtype=np.float64)), ids

    def _quantize(self, coming: Float32[np.ndarray, "vectors dim"]) -> None:
        """Hold by bytes what is held; the steps are those of what is held and what is coming."""
        import faiss

        ids, held = self.ids(), self._index.index.reconstruct_n(0, self._index.ntotal)
        quantizer = faiss.IndexScalarQuantizer(self._dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)
        quantizer.sq.rangestat_arg = MARGIN
        quantizer.train(np.concatenate([held, coming]))
        self._index = faiss.IndexIDMap(quantizer)
        self._index.add_with_ids(held, ids)
        self.is_exact = False
