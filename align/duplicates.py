"""Photos that a store holds more than once: the same file, or the same picture encoded anew."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from facegm.align.face import HASH_BITS
from facegm.data.store import FaceRecord

NEAR_DUPLICATE_BITS = 42
"""Most bits of 256 in which the perceptual hashes of near-duplicates differ.

Measured on the aligned faces of LFW and 291 identities of CelebA. Of 79,973 pairs of photos of one identity 107 are as
near; of these 100 were looked at, and all show one picture or one moment. From 44 bits on there are pairs that do not.
Faces that are encoded anew, scaled by 0.8, brightened or moved by a pixel stay as near in 99 %. Photos that are changed
before MTCNN aligns them again, which moves the landmarks, do in 87 % as JPEG of quality 60, in 77 % at 0.8 of the size
and in 55 % at half of it.
"""

BLOCK = 1024
"""Photos of one identity that are compared with the others at a time."""

Group = tuple[FaceRecord, ...]
"""Two or more photos of the same content, in the order of the manifest."""


def exact_duplicates(records: Iterable[FaceRecord]) -> list[Group]:
    """Group the photos whose files have the same bytes, anywhere in the store; largest groups first."""
    same: dict[str, list[FaceRecord]] = defaultdict(list)
    for record in records:
        if record.digest is not None:
            same[record.digest].append(record)
    return _largest_first(tuple(group) for group in same.values() if len(group) > 1)


def crosses_identities(group: Group) -> bool:
    """Whether one picture goes by several identities: at least one of the labels is wrong."""
    return len({record.identity for record in group}) > 1


def near_duplicates(records: Iterable[FaceRecord]) -> list[Group]:
    """Group the photos of one identity whose faces look the same; largest groups first.

    Two photos are near when their hashes differ in at most `NEAR_DUPLICATE_BITS`, and a group is what a chain of near
    ones joins. Of exact duplicates the first stands for all.
    """
    identities: dict[str, dict[str, FaceRecord]] = defaultdict(dict)
    for record in records:
        if record.perceptual_hash is not None:
            identities[record.identity].setdefault(record.digest or record.key, record)
    return _largest_first(group for photos in identities.values() for group in _near(tuple(photos.values())))


def _near(photos: Sequence[FaceRecord]) -> Iterator[Group]:
    signs = _signs(photos)
    pairs = []
    for start in range(0, len(photos), BLOCK):
        # The product of two hashes of +1 and -1 is the number of equal bits less that of different ones.
        product = signs[start : start + BLOCK] @ signs[start:].T
        pairs.append(start + np.argwhere(product >= HASH_BITS - 2 * NEAR_DUPLICATE_BITS))
    a, b = np.concatenate(pairs).T
    if len(a) == len(photos):  # each is near itself alone, as in most identities
        return
    graph = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(len(photos), len(photos)))
    _, component = connected_components(graph, directed=False)
    order = np.argsort(component, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(component[order])) + 1):
        if len(members) > 1:
            yield tuple(photos[member] for member in members)


def _signs(photos: Sequence[FaceRecord]) -> Float32[np.ndarray, "photos 256"]:
    packed = np.frombuffer(bytes.fromhex("".join(photo.perceptual_hash or "" for photo in photos)), np.uint8)
    return np.unpackbits(packed).reshape(-1, HASH_BITS).astype(np.float32) * 2 - 1


def _largest_first(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=len, reverse=True)
