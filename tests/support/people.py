"""Simulated people: embeddings drawn as two-covariance PLDA assumes, and pairs of them in folds that share nobody."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PeoplePairs:
    """Pairs of images, each image in several of them."""

    embeddings: np.ndarray
    """Of the images, [images, dim]."""
    person: np.ndarray
    """Of each image."""
    row_a: np.ndarray
    """The left image of each pair."""
    row_b: np.ndarray
    fold: np.ndarray

    @property
    def a(self) -> np.ndarray:
        return np.asarray(self.embeddings[self.row_a])

    @property
    def b(self) -> np.ndarray:
        return np.asarray(self.embeddings[self.row_b])

    @property
    def people_a(self) -> np.ndarray:
        return np.asarray(self.person[self.row_a])

    @property
    def people_b(self) -> np.ndarray:
        return np.asarray(self.person[self.row_b])

    @property
    def same(self) -> np.ndarray:
        return np.asarray(self.people_a == self.people_b)


def people_pairs(
    *, folds: int = 4, people: int = 12, most_images: int = 5, pairs: int = 40, dim: int = 8, seed: int = 0
) -> PeoplePairs:
    """Draw people with 2 to `most_images` images, and as many same as different pairs a fold."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, most_images + 1, folds * people)
    person = np.repeat(np.arange(len(counts)), counts)
    mean = rng.normal(size=(len(counts), dim)) * np.linspace(2, 0.3, dim) + 3
    embeddings = mean[person] + rng.normal(size=(len(person), dim)) @ rng.normal(size=(dim, dim)) * 0.35
    row_a, row_b = [], []
    for k in range(folds):
        images = np.flatnonzero(person // people == k)
        kinds = [0, 0]
        while min(kinds) < pairs // 2:
            a, b = rng.choice(images, 2, replace=False)
            same = int(person[a] == person[b])
            if kinds[same] < pairs // 2:
                kinds[same] += 1
                row_a.append(a)
                row_b.append(b)
    return PeoplePairs(embeddings, person, np.array(row_a), np.array(row_b), np.repeat(np.arange(folds), pairs))
