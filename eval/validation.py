"""Verification of a network while it is trained, on the pairs of a store of aligned faces."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from facegm.data.preprocessing import Preprocessing
from facegm.data.samples import Batch, DrawnSamples, EvaluatedImages
from facegm.eval.evaluation import rows_of_pairs
from facegm.eval.found_faces import rows_of_images
from facegm.eval.pairs import read_pairs
from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA
from facegm.store.reader import FaceStore


class PairsValidation(EvaluatedImages):
    """The faces of some pairs, and their score, without PCA; for the choice of settings, not on the evaluation set.

    Args:
        store: aligned faces of the pairs.
        pairs: the protocol file, see `facegm.eval.pairs.read_pairs`, of two folds at least.
        preprocessing: of the network that is to be validated.

    Raises:
        FacegmError: store or pairs are missing or unusable.
    """

    def __init__(self, store: Path, pairs: Path, preprocessing: Preprocessing) -> None:
        self._pairs, self._preprocessing = read_pairs(pairs), preprocessing
        self._pairs.require_folds(f"validation.pairs: {pairs}")
        faces = FaceStore(store)
        rows = rows_of_images(faces, self._pairs.images)
        self.keys = tuple(rows)
        self.labels = np.zeros(len(self.keys), np.int64)
        self._faces = [faces.read_face(row) for row in rows.values()]
        self._left, self._right = rows_of_pairs(self._pairs, list(rows), len(self._faces))

    @property
    def image_bytes(self) -> int:
        """Bytes of a face in a batch."""
        return self._preprocessing.crop_size**2 * 3

    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        crops = self._preprocessing.middle_crops(self._faces[number] for number in drawn.numbers)
        return Batch(torch.from_numpy(crops), torch.from_numpy(self.labels[drawn.numbers]))

    def score(self, embeddings: Float[np.ndarray, "faces dim"]) -> dict[str, float]:
        """Accuracy and its standard error, as shares of 1, of embeddings in the order of `keys`."""
        left, right = embeddings[self._left], embeddings[self._right]
        result = verify(left, right, self._pairs.same, self._pairs.fold, variant=NO_PCA)
        return {"accuracy": result.accuracy, "standard_error": result.standard_error}
