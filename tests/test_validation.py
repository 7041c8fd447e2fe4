"""Protects validation while training: it scores the pairs as the protocol does, and leaves the network as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch

from facegm.data.preprocessing import Preprocessing
from facegm.data.store import FaceStore
from facegm.embedding.network import embed_faces
from facegm.errors import FacegmError
from facegm.eval.pairs import read_pairs
from facegm.eval.protocol import NO_PCA, verify
from facegm.eval.validation import PairsValidation
from facegm.models.face_resnet import FaceResNet27, FaceResNetConfig

SMALL = Preprocessing(face_size=56, crop_size=48)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two folds of three pairs of one person, and three of two."""
    lines = ["2\t3"]
    for fold in range(2):
        lines += [f"person_{k}\t{1 + fold}\t{5 + fold}" for k in range(3 * fold, 3 * fold + 3)]
        lines += [f"person_{k}\t{3 + fold}\tperson_{(k + 1) % 6}\t{7 + fold}" for k in range(3 * fold, 3 * fold + 3)]
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("training", [True, False])
def test_the_pairs_are_scored_as_by_the_protocol(small_store: Path, pairs: Path, training: bool) -> None:
    torch.manual_seed(0)
    network = FaceResNet27(FaceResNetConfig(width=0.1, embedding_dim=16, dropout=0.5), 48).train(training)
    found = PairsValidation(small_store, pairs)(network, SMALL)
    assert network.training is training

    store, read = FaceStore(small_store), read_pairs(pairs)
    left, right = (
        np.concatenate([embed_faces(network.eval(), SMALL, store.read_face(name)[None]) for name in names])
        for names in (read.names_a, read.names_b)
    )
    expected = verify(left, right, read.same, read.fold, variant=NO_PCA)
    assert found == {
        "validation_accuracy": pytest.approx(expected.accuracy),
        "validation_standard_error": pytest.approx(expected.standard_error),
    }


def test_a_pair_without_a_face_is_refused_before_training(small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\nperson_0\t1\t99\nperson_0\t1\tperson_1\t1\n")
    with pytest.raises(FacegmError, match=r"person_0/person_0_0099\.jpg: not in the store"):
        PairsValidation(small_store, tmp_path / "pairs.txt")
