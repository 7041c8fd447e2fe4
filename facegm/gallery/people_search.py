"""The search for people: an index that is in step with a gallery's file, and the nearest samples' names."""

import logging

import numpy as np
from jaxtyping import Float32

from facegm.data.progress import Progress
from facegm.gallery.file import Extent, GalleryFile
from facegm.gallery.index import Index
from facegm.gallery.recall import QUERIES, Recall, measured_recall
from facegm.gallery.rules import Match

logger = logging.getLogger(__name__)


class PeopleSearch:
    """Finds the people of a gallery's file by an index of their samples.

    Attributes:
        recall: what an approximate index finds of what an exact one would, measured when it was first asked; None of
            one that is exact.
    """

    def __init__(self, file: GalleryFile, index: Index) -> None:
        self._file, self._index = file, index
        self._extent = Extent(last_id=0, removals=0)
        self.recall: Recall | None = None

    def catch_up(self) -> None:
        """Bring the index into step with the file, whoever has changed that."""
        extent, before = self._file.extent(), self._extent
        if extent == before:
            return
        if extent.removals != before.removals:
            gone = np.setdiff1d(self._index.ids(), self._file.ids())
            if len(gone):
                self._index.remove(gone)
        new = self._file.embeddings_between(before.last_id, extent.last_id)
        with Progress(
            "open the gallery", extent.last_id - before.last_id, "samples", is_shown=not before.last_id
        ) as progress:
            for ids, embeddings in new:
                self._index.add(ids, embeddings)
                progress.update(int(ids[-1]) - self._extent.last_id)
                self._extent = Extent(last_id=int(ids[-1]), removals=extent.removals)  # should the next be unreadable
        self._extent = extent
        if self.recall is None and not self._index.is_exact:
            self._measure()

    def nearest(self, vectors: Float32[np.ndarray, "queries dim"], k: int) -> list[list[Match]]:
        """The nearest people of each vector, as the file has them now.

        Where the samples of a few people are all around a vector, the index is asked for more of them.

        Args:
            vectors: of unit length.
            k: how many people, at least 1.

        Returns:
            For each vector the people, nearest first; fewer where there are fewer.
        """
        self.catch_up()
        k = self._file.num_people(at_most=k)
        found: list[list[Match]] = [[] for _ in vectors]
        asked, open_queries = 4 * k, np.arange(len(vectors) if k else 0)
        while len(open_queries):
            distances, ids = self._index.search(vectors[open_queries], asked)
            names = self._file.names_of(np.unique(ids).tolist())
            for query, *row in zip(open_queries.tolist(), ids.tolist(), distances.tolist(), strict=True):
                people: dict[str, Match] = {}
                for sample_id, distance in zip(*row, strict=True):
                    if sample_id in names and names[sample_id] not in people:
                        people[names[sample_id]] = Match(name=names[sample_id], sample_id=sample_id, distance=distance)
                found[query] = [*people.values()][:k]
            if ids.shape[1] < asked:
                break
            open_queries = np.array([query for query in open_queries if len(found[query]) < k], np.int64)
            asked *= 4
        return found

    def _measure(self) -> None:
        """Measure what is not found, and say so, once."""
        ids = self._index.ids()
        drawn = np.random.default_rng(0).choice(ids, min(QUERIES, len(ids)), replace=False).tolist()
        samples = [vectors for each in drawn for _, vectors in self._file.embeddings_between(each - 1, each)]
        everything = self._file.embeddings_between(0, int(ids.max()))
        self.recall = measured_recall(self._index, np.concatenate(samples), everything)
        logger.info(f"the gallery's index is approximate: {self.recall}")
