"""What a mean over pairs owes to the people who happen to be in them."""

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.sparse import csr_array

from facegm.eval.sets.folds import People


class PeopleSampling:
    """Means over pairs, and their variance where the people of the pairs are a sample of many.

    Pairs that share a person vary together; those that share none are independent. The variance is the dyadic
    cluster-robust one (Aronow, Samii and Assenova, 2015): the products of the deviations of all two pairs that share a
    person, summed. It is what a bootstrap over people comes to, without the noise of its resamples.

    Args:
        fold: fold of every pair; a mean is that over the folds of the folds' means.
        people: number of the person on each side of every pair; None where they are not known, and pairs are taken for
            independent.
    """

    def __init__(self, fold: Int[np.ndarray, " pairs"], people: People | None) -> None:
        _, fold_number, size = np.unique(fold, return_inverse=True, return_counts=True)
        self.weights: Float64[np.ndarray, " pairs"] = 1 / (len(size) * size[fold_number])
        self._people = None if people is None else _Incidence(*people)
        self.units: int = len(fold) if self._people is None else self._people.of_person.shape[0]
        """People of the pairs; pairs, where people are not known."""

    def means(self, values: Float[np.ndarray, "rows pairs"]) -> Float64[np.ndarray, " rows"]:
        """The mean of each row over the pairs."""
        return np.asarray(values @ self.weights, np.float64)

    def variances(self, values: Float[np.ndarray, "rows pairs"]) -> Float64[np.ndarray, "rows units"]:
        """The variance of each row's mean over samples of as many people, as what each person adds to it.

        The sum over the people is the variance; it can come out slightly negative.
        """
        deviations = ((values - self.means(values)[:, None]) * self.weights).T
        if self._people is None:
            added = np.square(deviations)
        else:
            added = np.square(self._people.of_person @ deviations)
            added -= self._people.halves @ np.square(self._people.of_couple @ deviations)
        return np.asarray(added.T * self.units / (self.units - 1), np.float64)


class _Incidence:
    """Which pairs a person is in, and which are of the same two people, whom the sum over people counts twice."""

    def __init__(self, a: Int[np.ndarray, " pairs"], b: Int[np.ndarray, " pairs"]) -> None:
        pair, differ = np.arange(len(a)), a != b
        numbers, person = np.unique(np.stack([a, b]), return_inverse=True)
        left, right = person.reshape(2, -1)
        both = np.stack([np.minimum(left, right), np.maximum(left, right)], axis=1)[differ]
        couples, couple = np.unique(both, axis=0, return_inverse=True)
        self.of_person = _ones(
            np.concatenate([left, right[differ]]), np.concatenate([pair, pair[differ]]), (len(numbers), len(a))
        )
        self.of_couple = _ones(couple.reshape(-1), pair[differ], (len(couples), len(a)))
        self.halves = 0.5 * _ones(couples.T.ravel(), np.tile(np.arange(len(couples)), 2), (len(numbers), len(couples)))


def _ones(rows: Int[np.ndarray, " ones"], columns: Int[np.ndarray, " ones"], shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
