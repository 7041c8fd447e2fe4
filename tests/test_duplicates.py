"""Protects the search for duplicates: groups equal those of a slow comparison of all pairs, and labels are checked."""

from collections import Counter
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import Row, manifest_table

from facegm.align import near_hashes
from facegm.align.duplicates import NEAR_DUPLICATE_BITS, Groups, exact_duplicates, near_duplicates
from facegm.align.near_hashes import EXHAUSTIVE_SIZE, join_near


def _row(identity: str | None, *, digest: int | None = None, bits: int | None = None) -> Row:
    row: dict[str, object] = {"key": "photo.jpg", "identity": identity, "status": "aligned"}
    if digest is not None:
        row["digest"] = digest.to_bytes(32, "big")
    if bits is not None:
        row["perceptual_hash"] = bits.to_bytes(32, "big")
    return row


def _flipped(bits: int, count: int, rng: np.random.Generator) -> int:
    for position in rng.choice(256, count, replace=False).tolist():
        bits ^= 1 << position
    return bits


def _random_bits(rng: np.random.Generator) -> int:
    return int.from_bytes(rng.bytes(32), "big")


def _distance(one: Row, other: Row) -> int:
    a, b = (int.from_bytes(row["perceptual_hash"], "big") for row in (one, other))
    return (a ^ b).bit_count()


def _listed(groups: Groups) -> list[list[int]]:
    return [group.tolist() for group in groups]


def _joined(rows: list[int], pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Groups of two or more rows that the pairs join, by merging sets until nothing changes; the largest first."""
    groups = [{row} for row in rows]
    for a, b in pairs:
        touched = [group for group in groups if a in group or b in group]
        groups = [group for group in groups if group not in touched] + [set().union(*touched)]
    return sorted((sorted(group) for group in groups if len(group) > 1), key=lambda group: (-len(group), group[0]))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    photos=st.integers(0, 40),
    block=st.integers(1, 50),
    exhaustive=st.sampled_from([1, 10, 1000]),
)
def test_groups_are_those_of_all_pairs_compared_one_by_one(seed: int, photos: int, block: int, exhaustive: int) -> None:
    rng = np.random.default_rng(seed)
    originals = [_random_bits(rng) for _ in range(4)]
    rows = [
        _row(
            ["Ann", "Bob", None][rng.integers(3)],
            digest=int(rng.integers(60)) if rng.random() < 0.8 else None,
            bits=_flipped(originals[rng.integers(4)], int(rng.integers(NEAR_DUPLICATE_BITS)), rng)
            if rng.random() < 0.9
            else None,
        )
        for _ in range(photos)
    ]
    table = manifest_table(rows, cuts=rng.integers(0, photos + 1, 2).tolist())
    equal = [
        (a, b)
        for a, b in combinations(range(photos), 2)
        if rows[a].get("digest") is not None and rows[a].get("digest") == rows[b].get("digest")
    ]
    assert _listed(exact_duplicates(table)) == _joined(list(range(photos)), equal)

    hashed = [row for row in range(photos) if "perceptual_hash" in rows[row]]
    copies = {b for a, b in equal if rows[a]["identity"] == rows[b]["identity"] and {a, b} <= set(hashed)}
    near = [
        (a, b)
        for a, b in combinations(sorted(set(hashed) - copies), 2)
        if rows[a]["identity"] == rows[b]["identity"] and _distance(rows[a], rows[b]) <= NEAR_DUPLICATE_BITS
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_hashes, "BLOCK", block)
        # So few photos are all neighbours of each other: the search in sorted orders misses none.
        patch.setattr(near_hashes, "EXHAUSTIVE_SIZE", exhaustive)
        patch.setattr(near_hashes, "ORDERS", 2)
        found = near_duplicates(table)
    assert _listed(found) == _joined(hashed, near)
    assert not found.crossing.any()


@pytest.mark.parametrize("exhaustive", [1, 1000])
@pytest.mark.parametrize(("differing", "near"), [(NEAR_DUPLICATE_BITS, True), (NEAR_DUPLICATE_BITS + 1, False)])
def test_the_threshold_itself_is_near(
    differing: int, near: bool, exhaustive: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_hashes, "EXHAUSTIVE_SIZE", exhaustive)
    rng = np.random.default_rng(0)
    bits = _random_bits(rng)
    table = manifest_table([_row("Ann", bits=bits), _row("Ann", bits=_flipped(bits, differing, rng))])
    assert _listed(near_duplicates(table)) == ([[0, 1]] if near else [])


@pytest.mark.parametrize("first", [0, 60, 107, 256 - NEAR_DUPLICATE_BITS])
def test_it_does_not_matter_which_bits_differ(first: int) -> None:
    bits = _random_bits(np.random.default_rng(1))
    other = bits ^ ((1 << NEAR_DUPLICATE_BITS) - 1) << first
    assert _listed(near_duplicates(manifest_table([_row("Ann", bits=bits), _row("Ann", bits=other)]))) == [[0, 1]]


def test_a_hash_and_its_complement_are_furthest_apart() -> None:
    assert _listed(near_duplicates(manifest_table([_row("Ann", bits=0), _row("Ann", bits=2**256 - 1)]))) == []


def test_near_photos_of_two_identities_are_no_group_but_strangers_are_compared() -> None:
    table = manifest_table([_row("Ann", bits=1), _row("Bob", bits=1), _row(None, bits=1), _row(None, bits=3)])
    assert _listed(near_duplicates(table)) == [[2, 3]]


def test_of_exact_duplicates_the_first_stands_for_all_among_the_near() -> None:
    table = manifest_table(
        [
            _row("Ann", digest=1, bits=0),
            _row("Ann", digest=1, bits=0),
            _row("Ann", digest=2, bits=1),
            _row("Bob", digest=3, bits=5),
            _row("Bob", digest=3, bits=5),
        ]
    )
    assert _listed(near_duplicates(table)) == [[0, 2]]
    assert _listed(exact_duplicates(table)) == [[0, 1], [3, 4]]


def test_exact_duplicates_are_found_across_identities_and_the_largest_group_comes_first() -> None:
    labels = [("Ann", 1), ("Ann", 1), ("Ann", 2), ("Bob", 2), ("Bob", 2), ("Bob", 3), ("Bob", 4), (None, 4)]
    groups = exact_duplicates(manifest_table([_row(identity, digest=digest) for identity, digest in labels]))
    assert _listed(groups) == [[2, 3, 4], [0, 1], [6, 7]]
    assert groups.crossing.tolist() == [True, False, False], "a stranger's photo contradicts no label"


def test_rows_without_digest_or_hash_are_no_duplicates_of_each_other() -> None:
    table = manifest_table([_row("Ann"), _row("Ann")])
    assert len(exact_duplicates(table)) == len(near_duplicates(table)) == 0


def test_groups_are_a_sequence() -> None:
    groups = exact_duplicates(manifest_table([_row("Ann", digest=number // 2) for number in range(6)]))
    assert [group.tolist() for group in groups[1:]] == [[2, 3], [4, 5]]
    assert groups[-1].tolist() == [4, 5]
    with pytest.raises(IndexError):
        groups[3]


# ------------------------------------------------------------------------------- identities of many thousand photos


def _large_table(hashes: np.ndarray) -> pa.Table:
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(hashes), [None, pa.py_buffer(hashes.tobytes())])
    nothing = pa.nulls(len(hashes), pa.binary(32))
    return pa.table({"identity": pa.array(["Ann"] * len(hashes)), "digest": nothing, "perceptual_hash": column})


def _planted(photos: int, pairs: int, differing: int) -> np.ndarray:
    """Random hashes; of the first `2 * pairs` each second one differs from that before it in some bits."""
    rng = np.random.default_rng(differing)
    bits = rng.integers(0, 2, (photos, 256), dtype=np.uint8)
    for pair in range(pairs):
        bits[2 * pair + 1] = bits[2 * pair]
        bits[2 * pair + 1, rng.choice(256, differing, replace=False)] ^= 1
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize(("differing", "least"), [(42, 0.99), (30, 1.0), (1, 1.0)])
def test_of_pairs_planted_in_a_large_identity_nearly_all_are_found_and_nothing_else(
    differing: int, least: float
) -> None:
    photos, pairs = EXHAUSTIVE_SIZE + 10_000, 500
    groups = _listed(near_duplicates(_large_table(_planted(photos, pairs, differing))))
    assert all(group[0] % 2 == 0 and group == [group[0], group[0] + 1] for group in groups)
    assert all(group[1] < 2 * pairs for group in groups)
    assert len(groups) >= least * pairs


def test_the_same_store_gives_the_same_groups_and_pairs_further_apart_are_none() -> None:
    table = _large_table(_planted(EXHAUSTIVE_SIZE + 1000, 500, 42))
    assert _listed(near_duplicates(table)) == _listed(near_duplicates(table))
    assert len(near_duplicates(_large_table(_planted(EXHAUSTIVE_SIZE + 1000, 500, 43)))) == 0


def test_equal_hashes_by_the_thousand_are_one_group_and_hide_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = _planted(EXHAUSTIVE_SIZE + 1000, 50, 20)
    hashes[1000:] = hashes[1000]
    compared: Counter[str] = Counter()
    search = near_hashes._near_neighbours

    def count(hashes: np.ndarray, reach: np.ndarray, bits: int) -> object:
        compared["hashes"] += len(reach)
        return search(hashes, reach, bits)

    monkeypatch.setattr(near_hashes, "_near_neighbours", count)
    groups = _listed(near_duplicates(_large_table(hashes)))
    assert groups[0] == list(range(1000, len(hashes)))
    assert groups[1:] == [[2 * pair, 2 * pair + 1] for pair in range(50)]
    assert compared["hashes"] == near_hashes.ORDERS * 1001


def test_large_and_small_groups_are_searched_beside_each_other() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (4, 2 * EXHAUSTIVE_SIZE), dtype=np.uint64)
    groups = rng.permutation(np.arange(hashes.shape[1]) % 3 % 2 * (1 + np.arange(hashes.shape[1]) % 7))
    large = np.flatnonzero(groups == 0)
    assert len(large) > EXHAUSTIVE_SIZE
    small = np.flatnonzero(groups == 2)
    hashes[:, large[5]] = hashes[:, large[500]] = hashes[:, small[3]] = hashes[:, small[4]]
    chains = join_near(hashes, groups, NEAR_DUPLICATE_BITS)
    numbers, members = np.unique(chains, return_counts=True)
    assert sorted(members)[-3:] == [1, 2, 2]
    together = {tuple(np.flatnonzero(chains == number)) for number in numbers[members == 2]}
    assert together == {(large[5], large[500]), (small[3], small[4])}
