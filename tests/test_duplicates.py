"""Protects the search for duplicates: groups equal those of a slow comparison of all pairs, and labels are checked."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.align import duplicates
from facegm.align.duplicates import (
    NEAR_DUPLICATE_BITS,
    Group,
    crosses_identities,
    exact_duplicates,
    near_duplicates,
)
from facegm.data.store import FaceRecord


def _record(key: str, identity: str, *, digest: str | None = None, bits: int | None = None) -> FaceRecord:
    perceptual_hash = None if bits is None else f"{bits:064x}"
    return FaceRecord(key=key, identity=identity, status="aligned", digest=digest, perceptual_hash=perceptual_hash)


def _flipped(bits: int, count: int, rng: np.random.Generator) -> int:
    for position in rng.choice(256, count, replace=False).tolist():
        bits ^= 1 << position
    return bits


def _random_bits(rng: np.random.Generator) -> int:
    return int.from_bytes(rng.bytes(32), "big")


def _keys(groups: list[Group]) -> list[list[str]]:
    return [[record.key for record in group] for group in groups]


def _joined(names: list[str], pairs: list[tuple[str, str]]) -> set[frozenset[str]]:
    """Groups of two or more names that the pairs join, by merging sets until nothing changes."""
    groups = [{name} for name in names]
    for a, b in pairs:
        touched = [group for group in groups if a in group or b in group]
        groups = [group for group in groups if group not in touched] + [set().union(*touched)]
    return {frozenset(group) for group in groups if len(group) > 1}


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), photos=st.integers(0, 40), block=st.integers(1, 50))
def test_near_groups_are_those_of_all_pairs_compared_one_by_one(seed: int, photos: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    originals = [_random_bits(rng) for _ in range(4)]
    records = [
        _record(
            f"{number}.jpg",
            f"identity {rng.integers(3)}",
            bits=_flipped(originals[rng.integers(4)], int(rng.integers(NEAR_DUPLICATE_BITS)), rng),
        )
        for number in range(photos)
    ]
    pairs = [
        (a.key, b.key)
        for a, b in combinations(records, 2)
        if a.identity == b.identity
        and (int(a.perceptual_hash or "", 16) ^ int(b.perceptual_hash or "", 16)).bit_count() <= NEAR_DUPLICATE_BITS
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", block)
        found = _keys(near_duplicates(records))
    assert {frozenset(group) for group in found} == _joined([record.key for record in records], pairs)
    assert len(found) == len({frozenset(group) for group in found})
    for group in found:
        assert group == sorted(group, key=lambda key: int(key.split(".")[0])), "in the order of the manifest"


@pytest.mark.parametrize(("differing", "near"), [(NEAR_DUPLICATE_BITS, True), (NEAR_DUPLICATE_BITS + 1, False)])
def test_the_threshold_itself_is_near(differing: int, near: bool) -> None:
    rng = np.random.default_rng(0)
    bits = _random_bits(rng)
    records = [_record("a", "Ann", bits=bits), _record("b", "Ann", bits=_flipped(bits, differing, rng))]
    assert bool(near_duplicates(records)) is near


def test_near_photos_of_two_identities_are_no_group() -> None:
    assert near_duplicates([_record("a", "Ann", bits=1), _record("b", "Bob", bits=1)]) == []


def test_of_exact_duplicates_the_first_stands_for_all_among_the_near() -> None:
    records = [
        _record("a", "Ann", digest="1", bits=0),
        _record("b", "Ann", digest="1", bits=0),
        _record("c", "Ann", digest="2", bits=1),
        _record("d", "Bob", digest="3", bits=5),
        _record("e", "Bob", digest="3", bits=5),
    ]
    assert _keys(near_duplicates(records)) == [["a", "c"]]
    assert _keys(exact_duplicates(records)) == [["a", "b"], ["d", "e"]]


def test_exact_duplicates_are_found_across_identities_and_the_largest_group_comes_first() -> None:
    records = [
        _record("a", "Ann", digest="1"),
        _record("b", "Ann", digest="1"),
        _record("c", "Ann", digest="2"),
        _record("d", "Bob", digest="2"),
        _record("e", "Bob", digest="2"),
        _record("f", "Bob", digest="3"),
    ]
    groups = exact_duplicates(records)
    assert _keys(groups) == [["c", "d", "e"], ["a", "b"]]
    assert [crosses_identities(group) for group in groups] == [True, False]


def test_records_without_digest_or_hash_are_no_duplicates_of_each_other() -> None:
    records = [_record("a", "Ann"), _record("b", "Ann")]
    assert exact_duplicates(records) == near_duplicates(records) == []
