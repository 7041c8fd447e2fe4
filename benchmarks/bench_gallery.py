"""Search among 100,000 faces, exact and by FAISS, and among a million of a byte a number, all on one thread.

Faces are generated, and clustered as those of people are: a person is a random direction of 512 numbers, a photo the
same with noise 1.1 times as long, both with a spectrum that falls off as a trained network's does (exp(-i/60) in
dimension i), at unit length; 5 photos a person. Queries are further photos of people who are in the gallery. Seconds
are those that the processor spends on this process, so that others on the machine count little.
"""

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import faiss
import numpy as np
import torch
from interleaved import measure, processor_seconds, write_results
from peak_memory import resident_bytes
from threadpoolctl import threadpool_limits

from facegm.gallery.faiss_index import FaissIndex
from facegm.gallery.index import ExactIndex, Index
from facegm.gallery.recall import exactly_nearest, perturbed, recall_of

DIM, PHOTOS, NOISE = 512, 5, 1.1
SPECTRUM = np.exp(-np.arange(DIM, dtype=np.float32) / 60)
BLOCK = 10_000
"""People who are generated at a time: 100 MB of faces."""
BATCH, SINGLE = 256, 16
"""Queries in a batch, and queries one by one that are timed together."""
RUNS, NEAREST = 5, 10
QUERIES = 1000
"""By which recall is measured."""


def main() -> None:
    torch.set_num_threads(1)
    versions: dict[str, object] = {"numpy": np.__version__, "faiss": version("faiss-cpu")}
    with threadpool_limits(1):
        faiss.omp_set_num_threads(1)
        write_results("gallery_million", [million(people=200_000) | versions])  # first, while memory is as it was
        write_results("gallery", [row | versions for row in hundred_thousand(people=20_000)])


def hundred_thousand(people: int) -> list[dict[str, object]]:
    """Milliseconds a query of each index, in batches and one by one, in turn."""
    indexes: dict[str, Index] = {
        "exact": ExactIndex(DIM),
        "FAISS flat": FaissIndex("flat", DIM),
        "FAISS sq8": FaissIndex("sq8", DIM),
    }
    for ids, vectors in faces(people):
        for index in indexes.values():
            index.add(ids, vectors)
    queries = further_photos(BATCH)
    asked = {"in batches of 256": BATCH, "one by one": SINGLE}
    ways = {
        f"{name}, {how}": searches(index, queries[:count], at_once=count == BATCH)
        for how, count in asked.items()
        for name, index in indexes.items()
    }
    rows: list[dict[str, object]] = []
    for row in measure(ways, runs=RUNS, clock=processor_seconds):
        count = asked[str(row["way"]).partition(", ")[2]]
        milliseconds = round(1000 * float(str(row["median_s"])) / count, 2)
        rows.append({"faces": people * PHOTOS, "dim": DIM, **row, "ms_a_query": milliseconds})
    return rows


def million(people: int) -> dict[str, object]:
    """Memory, time to build, time of a query, and recall of sq8."""
    before, seconds = resident_bytes(), 0.0
    index = FaissIndex("sq8", DIM)
    for ids, vectors in faces(people):
        start = time.process_time()
        index.add(ids, vectors)
        seconds += time.process_time() - start
    del ids, vectors
    held = resident_bytes() - before
    queries = further_photos(QUERIES)
    batch = median_seconds(searches(index, queries[:BATCH], at_once=True)) / BATCH
    single = median_seconds(searches(index, queries[:SINGLE], at_once=False)) / SINGLE
    samples = next(faces(people))[1][:: PHOTOS * BLOCK // QUERIES]
    recall = {}
    for name, asked in {"": queries, "own_": perturbed(samples, np.random.default_rng(0))}.items():
        _, truth = exactly_nearest(asked, faces(people), NEAREST)
        found = recall_of(index, asked, truth)
        recall |= {f"{name}recall_at_1": found.at_1, f"{name}recall_at_10": round(found.at_10, 4)}
    return {
        "faces": people * PHOTOS,
        "dim": DIM,
        "index": "FAISS sq8",
        "index_bytes": index.nbytes(),
        "resident_bytes": held,
        "peak_resident_bytes": resident_bytes("VmHWM"),
        "build_s": round(seconds, 1),
        "ms_a_query_in_batches_of_256": round(1000 * batch, 1),
        "ms_a_query_one_by_one": round(1000 * single, 1),
        "queries": QUERIES,
        **recall,
    }


def faces(people: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and embeddings of all photos of a gallery, `BLOCK` people at a time."""
    for first in range(0, people, BLOCK):
        means = people_from(first)
        photos = photos_of(np.repeat(means, PHOTOS, axis=0), seed=first + 1)
        yield np.arange(first * PHOTOS, (first + BLOCK) * PHOTOS), photos


def further_photos(count: int) -> np.ndarray:
    """One photo of each of the first people, which is not in the gallery."""
    return photos_of(people_from(0)[:count], seed=2)


def people_from(first: int) -> np.ndarray:
    return np.random.default_rng(first).standard_normal((BLOCK, DIM), np.float32)


def photos_of(means: np.ndarray, seed: int) -> np.ndarray:
    photos = np.random.default_rng(seed).standard_normal(means.shape, np.float32)
    photos *= NOISE
    photos += means
    photos *= SPECTRUM
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    return photos


def searches(index: Index, queries: np.ndarray, *, at_once: bool) -> Callable[[], object]:
    """The search of all queries at once, or one by one."""
    if at_once:
        return lambda: index.search(queries, NEAREST)
    return lambda: [index.search(query[None], NEAREST) for query in queries]


def median_seconds(way: Callable[[], object]) -> float:
    return float(np.median([processor_seconds(way) for _ in range(RUNS)]))


if __name__ == "__main__":
    main()
