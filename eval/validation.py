"""Verification of a network while it is trained, on the pairs of a store of aligned faces."""

from pathlib import Path

from facegm.data.preprocessing import Preprocessing
from facegm.data.store import FaceStore
from facegm.embedding.embedder import FaceEmbedder
from facegm.eval.lfw import rows_of_pairs
from facegm.eval.pairs import read_pairs
from facegm.eval.protocol import NO_PCA, verify
from facegm.eval.verify_lfw import records_of_pairs
from facegm.models.face_resnet import FaceResNet27


class PairsValidation:
    """Scores networks on the same pairs, without PCA; for the choice of settings, so never on the evaluation set.

    Args:
        store: aligned faces of the pairs.
        pairs: the protocol file, in LFW's format.

    Raises:
        FacegmError: store or pairs are missing or unusable.
    """

    def __init__(self, store: Path, pairs: Path) -> None:
        self._pairs = read_pairs(pairs)
        faces = FaceStore(store)
        records = records_of_pairs(faces, self._pairs)
        self._faces = [faces.read_face(record.key) for record in records.values()]
        self._left, self._right = rows_of_pairs(self._pairs, list(records), len(self._faces))

    def __call__(self, network: FaceResNet27, preprocessing: Preprocessing) -> dict[str, float]:
        """Accuracy and its standard error, as shares of 1; the network is left in the mode it was in."""
        was_training = network.training
        network.eval()
        embeddings = FaceEmbedder(network, preprocessing).embed_aligned(self._faces)
        network.train(was_training)
        left, right = embeddings[self._left], embeddings[self._right]
        result = verify(left, right, self._pairs.same, self._pairs.fold, variant=NO_PCA)
        return {"validation_accuracy": result.accuracy, "validation_standard_error": result.standard_error}
