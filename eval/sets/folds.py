"""Cross-validation folds for pairs that come without any."""

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FOLDS = 10
_SHARE = 0.5
"""Of an even share of the pairs of each kind, what every fold must have where people are kept apart."""

People = tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]


def assign_folds(same: Bool[np.ndarray, " pairs"], people: People | None) -> tuple[Int[np.ndarray, " pairs"], str]:
    """Assign pairs to ten folds, or where there are fewer pairs of a kind to as many as those; the same way each time.

    The first of these rules that can be followed:

    1. Where ten equal blocks of matched pairs alternate with as large ones of mismatched pairs, as in LFW's file, each
       two are a fold: these are most likely the set's own.
    2. Where people are known, they are kept apart: pairs that share a person, directly or through others, come into one
       fold. It is given up where a fold would have less than half its even share of the pairs of either kind.
    3. Each kind is cut into consecutive blocks of equal size, the folds. In most lists a person's pairs follow each
       other, and so seldom come into two folds.

    Args:
        same: True where a pair shows one person.
        people: number of the person on each side of every pair, where known.

    Returns:
        The fold of every pair, from 0; and in words for readers how it was chosen.
    """
    blocks = _alternating_blocks(same)
    if blocks is not None:
        return blocks, f"{FOLDS} blocks of matched and mismatched pairs as the file lists them, as in LFW's"
    matched = int(np.count_nonzero(same))
    folds = max(min(FOLDS, matched, len(same) - matched), 1)
    apart = None if people is None or folds < 2 else _people_apart(same, people, folds)
    if apart is not None:
        return apart, f"{folds} folds assigned here, nobody in two of them"
    fold = np.empty(len(same), np.int64)
    for kind in (same, ~same):
        count = int(np.count_nonzero(kind))
        fold[kind] = np.arange(count) * folds // max(count, 1)
    return fold, f"{folds} folds assigned here, of consecutive pairs of each kind; people may be in several"


def _alternating_blocks(same: Bool[np.ndarray, " pairs"]) -> Int[np.ndarray, " pairs"] | None:
    """Folds by their layout in the file, if that is LFW's."""
    size, rest = divmod(len(same), 2 * FOLDS)
    if rest or not size:
        return None
    number = np.arange(len(same))
    return number // (2 * size) if np.array_equal(same, number % (2 * size) < size) else None


def _people_apart(same: Bool[np.ndarray, " pairs"], people: People, folds: int) -> Int[np.ndarray, " pairs"] | None:
    """Folds that share nobody, if such can be of even size: groups by falling size, each into the emptiest fold."""
    a, b = people
    persons = int(max(a.max(), b.max())) + 1
    group_of_person = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(persons, persons)))[1]
    group = group_of_person[a]
    sizes = np.stack([np.bincount(group[kind], minlength=group.max() + 1) for kind in (same, ~same)], axis=1)
    shares = sizes / sizes.sum(axis=0)
    filled, fold_of_group = np.zeros((folds, 2)), np.empty(len(shares), np.int64)
    for number in np.argsort(-shares.sum(axis=1), kind="stable"):
        growth = ((filled + shares[number]) ** 2 - filled**2).sum(axis=1)
        fold_of_group[number] = np.argmin(growth)
        filled[fold_of_group[number]] += shares[number]
    return fold_of_group[group] if filled.min() * folds >= _SHARE else None
