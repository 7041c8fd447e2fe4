"""Pairs of which an image is missing, and what is left of a set without them."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from facegm.eval.sets.pairs import Pairs

_SHOWN = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class DroppedPairs:
    """What is left of a set, and what was dropped: results on it are not those of the set."""

    pairs: Pairs
    """Those whose images are both there; the folds' numbers stay."""
    missing: tuple[str, ...]
    """Images that are not there, sorted."""
    matched: Int[np.ndarray, " folds"]
    """Dropped pairs of one person, by fold."""
    mismatched: Int[np.ndarray, " folds"]
    """Dropped pairs of two people, by fold."""

    @property
    def count(self) -> int:
        """Number of dropped pairs."""
        return int(self.matched.sum() + self.mismatched.sum())

    def describe(self) -> str:
        """One line for readers: how many pairs of which kind and fold are dropped, if any, and for want of what."""
        folds = [
            f"{matched} + {mismatched} of fold {fold}"
            for fold, (matched, mismatched) in enumerate(zip(self.matched, self.mismatched, strict=True))
            if matched or mismatched
        ]
        return (
            f"{self.count:,} of {self.count + len(self.pairs):,} pairs dropped ({self.matched.sum():,} matched + "
            f"{self.mismatched.sum():,} mismatched: {', '.join(folds)}), as {len(self.missing):,} images are missing: "
            f"{', '.join(self.missing[:_SHOWN])}{', ...' * (len(self.missing) > _SHOWN)}"
        )

    def numbers(self) -> dict[str, object]:
        """The same for `report.json`."""
        return {
            "dropped": self.count,
            "matched_by_fold": self.matched.tolist(),
            "mismatched_by_fold": self.mismatched.tolist(),
            "missing_images": list(self.missing),
        }


def drop_missing(pairs: Pairs, present: Collection[str]) -> DroppedPairs:
    """Leave out the pairs of which an image is missing, which are most often hard ones, so that results look better.

    Not for LFW (`Pairs.is_lfw`), whose protocol scores all pairs.

    Args:
        pairs: all of them.
        present: images that are there, such as the keys of what `facegm.eval.sets.joining.join` finds.
    """
    there = {*present}
    kept = np.array([a in there and b in there for a, b in zip(pairs.names_a, pairs.names_b, strict=True)], bool)
    matched, mismatched = (
        np.bincount(pairs.fold[~kept & kind], minlength=int(pairs.fold.max()) + 1) for kind in (pairs.same, ~pairs.same)
    )
    left = np.flatnonzero(kept).tolist()
    return DroppedPairs(
        pairs=replace(
            pairs,
            names_a=tuple(pairs.names_a[row] for row in left),
            names_b=tuple(pairs.names_b[row] for row in left),
            same=pairs.same[kept],
            fold=pairs.fold[kept],
        ),
        missing=tuple(image for image in pairs.images if image not in there),
        matched=matched,
        mismatched=mismatched,
    )
