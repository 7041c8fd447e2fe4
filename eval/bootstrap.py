"""Bootstrap of people, who are in several pairs each, or of pairs where nobody knows who is on them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from scipy.stats import rankdata

from facegm.errors import FacegmError

RESAMPLES = 1000
_BLOCK = 1 << 20
"""Weights that are looked at together, of 8 bytes."""


class Bootstrap(ABC):
    """Draws pairs again.

    Args:
        same: True where a pair shows one person.
        units: number of what is drawn, with replacement, as many as there are.
        resamples: how many.
        seed: the resamples follow from it.

    Raises:
        FacegmError: there are no pairs of one person, or none of different people.
    """

    unit: str
    """What is drawn, as plural."""

    def __init__(self, same: Bool[np.ndarray, " pairs"], units: int, *, resamples: int, seed: int) -> None:
        if same.all() or not same.any():
            raise FacegmError(
                f"pairs: all {len(same)} show {'one person' if same.any() else 'different people'}; "
                "error rates need pairs of both kinds"
            )
        self.same, self.resamples = same, resamples
        self._units, self._seed = units, seed

    def weights(self) -> Iterator[Int64[np.ndarray, "block pairs"]]:
        """Yield how often each pair is in each resample, some resamples at a time; the same ones each time.

        A resample that lacks pairs of one kind says nothing and is drawn again.
        """
        rng = np.random.default_rng(self._seed)
        wanted = self.resamples
        while wanted:
            block = min(wanted, max(1, _BLOCK // max(len(self.same), self._units)))
            drawn = rng.integers(0, self._units, (block, self._units)) + np.arange(block)[:, None] * self._units
            times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
            weights = self._weights(times)
            has_both_kinds = weights[:, self.same].any(axis=1) & weights[:, ~self.same].any(axis=1)
            wanted -= int(np.count_nonzero(has_both_kinds))
            yield weights[has_both_kinds]

    def damping(self, distances: Float[np.ndarray, " pairs"]) -> float:  # noqa: ARG002 - whatever they are
        """By what to multiply the deviations of rates of different pairs, so that their variance is right; at most 1.

        Args:
            distances: of every pair; their ranks among the different pairs are what is looked at.
        """
        return 1.0

    @abstractmethod
    def _weights(self, times: Int64[np.ndarray, "block units"]) -> Int64[np.ndarray, "block pairs"]:
        """How often each pair is there where the units are there so often."""


class IdentityBootstrap(Bootstrap):
    """Draws people, and with them the pairs of those who were drawn.

    The pairs that show one person are there as often as the person was drawn; a pair of two people is there as often as
    the product says, as if each copy of the one were compared with each copy of the other. This is the bootstrap of
    subjects of the biometric literature (the subsets of Bolle, Ratha & Pankanti 2004, the vertices of Fogliato, Patil &
    Perona 2024), and the pigeonhole bootstrap of Owen 2007. It keeps what the pairs of a person have in common.

    It has a known excess: the product's variance is 3 where that of a pair drawn by itself is 1, so that intervals were
    up to 1.7 times too wide where people are in few pairs each, as they are in LFW. `damping` takes that back.

    Args:
        people_a: number of the person on each pair's left image.
        people_b: number of the person on its right one, the same number for the same person.
        resamples: how many.
        seed: the resamples follow from it.

    Raises:
        FacegmError: there are no pairs of one person, or none of different people.
    """

    unit = "people"

    def __init__(
        self,
        people_a: Int[np.ndarray, " pairs"],
        people_b: Int[np.ndarray, " pairs"],
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        people, number = np.unique(np.concatenate([people_a, people_b]), return_inverse=True)
        super().__init__(people_a == people_b, len(people), resamples=resamples, seed=seed)
        self._a, self._b = np.split(number, 2)

    def _weights(self, times: Int64[np.ndarray, "block people"]) -> Int64[np.ndarray, "block pairs"]:
        weights = times[:, self._a]
        weights[:, ~self.same] *= times[:, self._b[~self.same]]
        return weights

    def damping(self, distances: Float[np.ndarray, " pairs"]) -> float:
        """Square root of the variance of a mean that is robust to dyads over the one that the product gives.

        Residuals of pairs that share a person, or both, go into the robust variance by their products (Aronow, Samii &
        Assenova 2015), and into that of the bootstrap by once, or thrice, their products. The ratio is 1 / 3 at least,
        which it is where no person matters. Residuals are of ranks, so that one factor serves all thresholds.
        """
        a, b = self._a[~self.same], self._b[~self.same]
        residual = rankdata(distances[~self.same])
        residual -= residual.mean()
        _, both = np.unique(np.minimum(a, b) * self._units + np.maximum(a, b), return_inverse=True)
        of_people = np.bincount(np.concatenate([a, b]), np.tile(residual, 2))
        of_two, of_both = np.square(of_people).sum(), np.square(np.bincount(both, residual)).sum()
        return float(np.sqrt(max((of_two - of_both) / (of_two + of_both), 1 / 3))) if of_both else 1.0


class PairBootstrap(Bootstrap):
    """Draws pairs, as if they were independent: for sets that do not say who is on the images.

    Its intervals are too narrow where people are in many pairs; what shows them says that pairs were drawn.

    Args:
        same: True where a pair shows one person.
        resamples: how many.
        seed: the resamples follow from it.

    Raises:
        FacegmError: there are no pairs of one person, or none of different people.
    """

    unit = "pairs"

    def __init__(self, same: Bool[np.ndarray, " pairs"], *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        super().__init__(same, len(same), resamples=resamples, seed=seed)

    def _weights(self, times: Int64[np.ndarray, "block pairs"]) -> Int64[np.ndarray, "block pairs"]:
        return times
