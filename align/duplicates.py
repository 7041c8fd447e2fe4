"""Photos that a store holds more than once: the same file, or the same picture encoded anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from facegm.align.columns import codes, known, words
from facegm.align.near_hashes import join_near

NEAR_DUPLICATE_BITS = 42
"""Most bits of 256 in which the perceptual hashes of near-duplicates differ.

Measured on the aligned faces of LFW and 291 identities of CelebA. Of 79,973 pairs of photos of one identity 107 are as
near; of these 100 were looked at, and all show one picture or one moment. From 44 bits on there are pairs that do not.
Of 95 million pairs of photos of two identities 13 are as near, at 26 bits at most, and no other nearer than 56.
Faces that are encoded anew, scaled by 0.8, brightened or moved by a pixel stay as near in 99 %. Photos that are changed
before MTCNN aligns them again, which moves the landmarks, do in 87 % as JPEG of quality 60, in 77 % at 0.8 of the size
and in 55 % at half of it.
"""

Group = Int64[np.ndarray, " photos"]
"""Two or more photos of the same content: rows of the manifest, in its order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups(Sequence[Group]):
    """Groups of duplicates, the largest first, and among equals that of the first photo."""

    rows: Int64[np.ndarray, " photos"]
    """The photos of all groups, one group after the other."""
    starts: Int64[np.ndarray, " groups"]
    """Where each group begins in `rows`."""
    crossing: Bool[np.ndarray, " groups"]
    """Whether the photos go by several known identities: at least one of the labels is wrong."""

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | Sequence[Group]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        stop = self.starts[number + 1] if number + 1 < len(self) else len(self.rows)
        return self.rows[self.starts[number] : stop]


def exact_duplicates(table: pa.Table) -> Groups:
    """Group the photos whose files have the same bytes, anywhere in the store.

    Args:
        table: the columns `identity` and `digest` of a manifest.
    """
    contents, _ = codes(table["digest"])
    identities, _ = codes(table["identity"])
    rows = np.flatnonzero(contents >= 0)
    return _group(rows, contents[rows], identities)


def near_duplicates(table: pa.Table) -> Groups:
    """Group the photos of one identity whose faces look the same.

    Two photos are near when their hashes differ in at most `NEAR_DUPLICATE_BITS`, and a group is what a chain of near
    ones joins. Of exact duplicates the first stands for all. Photos of no known identity are compared with each other.
    Of very large identities a few pairs may be missed, see `facegm.align.near_hashes.ORDERS`.

    Args:
        table: the columns `identity`, `digest` and `perceptual_hash` of a manifest.
    """
    identities, _ = codes(table["identity"])
    contents, _ = codes(table["digest"])
    rows = np.flatnonzero(known(table["perceptual_hash"]))
    rows = rows[_first_of_equals(identities[rows], contents[rows])]
    chains = join_near(words(table["perceptual_hash"])[:, rows], identities[rows] + 1, NEAR_DUPLICATE_BITS)
    return _group(rows, chains, identities)


def _first_of_equals(
    identities: Int64[np.ndarray, " photos"], contents: Int64[np.ndarray, " photos"]
) -> Bool[np.ndarray, " photos"]:
    """Whether a photo is the first with its bytes in its identity; one of unknown bytes is."""
    order = np.lexsort((contents, identities))
    repeated = np.zeros(len(order), np.bool_)
    before, after = order[:-1], order[1:]
    repeated[after] = (
        (contents[after] >= 0) & (contents[after] == contents[before]) & (identities[after] == identities[before])
    )
    return ~repeated


def _group(
    rows: Int64[np.ndarray, " photos"],
    labels: Int64[np.ndarray, " photos"],
    identities: Int64[np.ndarray, " manifest"],
) -> Groups:
    """Put rows of equal label, from 0, together; those that stand alone are left out."""
    several = np.bincount(labels)[labels] > 1 if len(labels) else np.empty(0, np.bool_)
    rows, labels = rows[several], labels[several]
    _, first, group, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    ranking = np.lexsort((first, -sizes))
    rows = rows[np.argsort(np.argsort(ranking)[group], kind="stable")]
    starts = np.cumsum(sizes[ranking]) - sizes[ranking]
    return Groups(rows=rows, starts=starts, crossing=_crossing(identities[rows], starts))


def _crossing(
    identities: Int64[np.ndarray, " photos"], starts: Int64[np.ndarray, " groups"]
) -> Bool[np.ndarray, " groups"]:
    if len(starts) == 0:
        return np.empty(0, np.bool_)
    least = np.minimum.reduceat(np.where(identities < 0, np.iinfo(np.int64).max, identities), starts)
    return np.asarray(least < np.maximum.reduceat(identities, starts))
