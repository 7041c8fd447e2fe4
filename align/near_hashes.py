"""Hashes that differ in few bits, found within groups of any size, and joined to chains."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Int64, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from facegm.align.columns import HASH_WORDS
from facegm.align.face import HASH_BITS

EXHAUSTIVE_SIZE = 8_192
"""Hashes of a group up to which all pairs are compared: until then it is no slower than the search in sorted orders."""

ORDERS, NEIGHBOURS = 64, 128
"""In how many orders a larger group is sorted, and with how many next ones each hash is then compared.

Each order sorts by 64 bits drawn at random, so that two hashes that agree in the first ones stand near each other
(Manku, Jain and Das Sarma 2007). No pair is reported that is further apart, but a pair is found by chance, the more
likely the nearer it is. Of 2,000 pairs planted at each of 24, 30, 36 and 42 bits among up to 500,000 hashes of one
group none is missed (`benchmarks/bench_inspect.py`); among 2 million, 1 of 3,000 at 36 bits and 22 of 3,000 at 42.
Half of the orders would miss 2 % at 42 bits among 500,000, and 8 % among 2 million.

The others lie as the hashes of real faces do, of which one bit predicts others, so that they crowd: two differ in 120
bits on average with a standard deviation of 9.5, as two of LFW do; independent bits would give 128 and 8.
"""

SEED = 0
"""The same hashes give the same pairs."""

BLOCK = 8192
"""Hashes compared at a time; they stay in the processor's cache."""


def join_near(
    hashes: UInt64[np.ndarray, "4 photos"], groups: Int64[np.ndarray, " photos"], bits: int
) -> Int64[np.ndarray, " photos"]:
    """Number the chains of near hashes.

    Args:
        hashes: as 64-bit words.
        groups: a number from 0 for each hash; only hashes of one group are compared.
        bits: most that differ between near hashes.

    Returns:
        For each hash a number, the same for those that a chain of near ones of their group joins.
    """
    sizes = np.bincount(groups)[groups]
    order = np.lexsort((groups, -sizes))  # large groups first
    large = int((sizes > EXHAUSTIVE_SIZE).sum())
    chains = _Chains(len(groups))
    bounds = np.flatnonzero(np.diff(groups[order[:large]], prepend=-1, append=-1))
    for start, stop in pairwise(bounds.tolist()):
        for a, b in _pairs_of_large(hashes, order[start:stop], bits):
            chains.join(a, b)
    small = order[large:]
    for a, b in _near_neighbours(hashes[:, small], sizes[small] - 1, bits):
        a, b = small[a], small[b]
        same = groups[a] == groups[b]
        chains.join(a[same], b[same])
    return chains.numbers()


def _pairs_of_large(
    hashes: UInt64[np.ndarray, "4 photos"], members: Int64[np.ndarray, " members"], bits: int
) -> Iterator[tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]]:
    """Pairs of near hashes of a group, by their places among all hashes; some are missed, see `ORDERS`."""
    # Of equal hashes one is searched with: thousands of them would fill the neighbourhoods of others.
    members = members[np.lexsort(hashes[:, members])]
    equal = (hashes[:, members[1:]] == hashes[:, members[:-1]]).all(axis=0)
    yield members[:-1][equal], members[1:][equal]
    members = members[np.concatenate([[True], ~equal])]
    reach = np.broadcast_to(np.int64(NEIGHBOURS), len(members))
    rng = np.random.default_rng(SEED)
    for _ in range(ORDERS):
        drawn = rng.permutation(HASH_BITS)[:64]
        ordered = members[np.argsort(_drawn_bits(hashes, members, drawn))]
        for a, b in _near_neighbours(hashes[:, ordered], reach, bits):
            yield ordered[a], ordered[b]


def _drawn_bits(
    hashes: UInt64[np.ndarray, "4 photos"], members: Int64[np.ndarray, " members"], drawn: Int64[np.ndarray, "64"]
) -> UInt64[np.ndarray, " members"]:
    """One word of the drawn bits of each hash."""
    key = np.zeros(len(members), np.uint64)
    for word in range(HASH_WORDS):
        column = hashes[word, members]
        for place in np.flatnonzero(drawn // 64 == word):
            bit = column >> np.uint64(drawn[place] % 64)
            bit &= np.uint64(1)
            bit <<= np.uint64(place)
            key |= bit
    return key


def _near_neighbours(
    hashes: UInt64[np.ndarray, "4 photos"], reach: Int64[np.ndarray, " photos"], bits: int
) -> Iterator[tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]]:
    """Compare each hash with those up to `reach` places behind it, and some with more; `reach` may not increase.

    Yields:
        Pairs of places whose hashes differ in at most `bits` bits.
    """
    half = HASH_WORDS // 2
    differing, counts = np.empty((half, BLOCK), np.uint64), np.empty((half, BLOCK), np.uint8)
    photos = len(reach)
    for start in range(0, photos, BLOCK):
        for step in range(1, min(int(reach[start]), photos - 1 - start) + 1):
            stop = min(start + BLOCK, photos - step)
            part = np.s_[:, : stop - start]
            np.bitwise_xor(hashes[:half, start:stop], hashes[:half, start + step : stop + step], out=differing[part])
            np.bitwise_count(differing[part], out=counts[part])
            # The first half decides for nearly all; it counts at most 128, which a byte holds.
            near = start + np.flatnonzero(np.add(*counts[part]) <= bits)
            if len(near):
                distances = np.bitwise_count(hashes[:, near] ^ hashes[:, near + step]).sum(axis=0)
                near = near[distances <= bits]
                yield near, near + step


class _Chains:
    """Joins pairs to chains; keeps no more than a number of pairs like that of the members.

    Args:
        members: how many there are, numbered from 0.
    """

    def __init__(self, members: int) -> None:
        self._numbers = np.arange(members)
        self._pairs: list[tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]] = []
        self._waiting = 0

    def join(self, a: Int64[np.ndarray, " pairs"], b: Int64[np.ndarray, " pairs"]) -> None:
        """Take a pair of members, or several, into one chain each."""
        a, b = self._numbers[a], self._numbers[b]
        apart = a != b
        if apart.any():
            self._pairs.append((a[apart], b[apart]))
            self._waiting += int(apart.sum())
        if self._waiting > len(self._numbers) + BLOCK:
            self._merge()

    def numbers(self) -> Int64[np.ndarray, " members"]:
        """The number of each member's chain."""
        self._merge()
        return self._numbers

    def _merge(self) -> None:
        if not self._pairs:
            return
        a, b = (np.concatenate(ends) for ends in zip(*self._pairs, strict=True))
        members = len(self._numbers)
        _, chain = connected_components(coo_array((np.ones(len(a), np.bool_), (a, b)), (members, members)), False)
        self._numbers = chain.astype(np.int64)[self._numbers]
        self._pairs, self._waiting = [], 0
