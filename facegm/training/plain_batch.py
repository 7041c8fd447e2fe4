"""The same few training faces again and again, as they are: for a sanity run, or to watch how they are embedded."""

import numpy as np
import torch
from jaxtyping import Int64

from facegm.data.batch import Batch
from facegm.data.draws import Draws
from facegm.data.faces import LabelledFaces
from facegm.data.preprocessing import Preprocessing


def few_faces(labels: Int64[np.ndarray, " faces"], *, identities: int, each: int) -> Int64[np.ndarray, " few"]:
    """Numbers of the first faces of each of some identities: of those first that have so many.

    Args:
        labels: identity of each face of a data set.
        identities: how many at most.
        each: faces of each at most.
    """
    counts = np.minimum(np.bincount(labels), each)
    chosen = np.argsort(-counts, kind="stable")[:identities]
    return np.concatenate([np.flatnonzero(labels == identity)[:each] for identity in chosen])


def plain_batch(faces: LabelledFaces, numbers: Int64[np.ndarray, " batch"], preprocessing: Preprocessing) -> Batch:
    """Faces in the middle crop, not mirrored or changed, with their identities numbered from 0."""
    size, margin = len(numbers), preprocessing.slack // 2
    corner, ones = np.full(size, margin), np.ones(size, np.float32)
    batch = faces[Draws(numbers, corner, corner, np.zeros(size, np.bool_), ones, 0 * ones)]
    return batch._replace(label=torch.unique(batch.label, return_inverse=True)[1])
