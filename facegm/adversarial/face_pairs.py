"""The pairs of a verification set that are attacked: their faces, their embeddings, and the decision on them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from facegm.adversarial.face_objectives import Goal
from facegm.adversarial.verifier import Verifier, first_of_each_fold, fit_verifier, judged_right
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.evaluation import rows_of_pairs
from facegm.eval.protocol import Verification
from facegm.eval.scores import Variant
from facegm.eval.sets.found_faces import rows_of_images
from facegm.eval.sets.pairs import Pairs, read_pairs
from facegm.store.reader import FaceStore


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackedPairs:
    """Pairs whose left photo is to be attacked, all for one goal, judged right before."""

    goal: Goal
    names: tuple[str, ...]
    """Of the photos to attack."""
    other_names: tuple[str, ...]
    """Of the photos that they are compared with."""
    faces: UInt8[np.ndarray, "pairs side side 3"]
    """To attack: aligned, RGB."""
    other_faces: UInt8[np.ndarray, "pairs side side 3"]
    references: Float[Tensor, "pairs components"]
    """What the verifier compares of the other photos; on the CPU."""
    folds: Int64[Tensor, " pairs"]


@dataclass(frozen=True, eq=False, kw_only=True)
class FacePairs:
    """A verification set as a model sees it.

    Args:
        pairs: all of them.
        faces: of their images, by name.
        embeddings: of the same, in the same order, as `FaceEmbedder.embed_aligned` gives them.
        verifier: the decision on each fold.
        result: the outcome of the protocol.
    """

    pairs: Pairs
    faces: dict[str, UInt8[np.ndarray, "side side 3"]]
    embeddings: Float[np.ndarray, "images dim"]
    verifier: Verifier
    result: Verification

    def attacked(self, goal: Goal, count: int) -> AttackedPairs:
        """Pairs to attack: the first of each fold that are judged right, as many of each fold as there are.

        Args:
            goal: impersonation takes pairs of different people, dodging those of one person.
            count: how many at most.

        Raises:
            FacegmError: there are none.
        """
        is_fit = judged_right(self.verifier, self.result, self.pairs) & (self.pairs.same == (goal == "dodging"))
        numbers = np.flatnonzero(is_fit)
        if not len(numbers):
            kind = "one person" if goal == "dodging" else "different people"
            raise FacegmError(f"pairs: no pair of {kind} is judged right, so there is none to attack; train longer")
        numbers = numbers[first_of_each_fold(self.pairs.fold[numbers], count)]
        names, others = (tuple(side[number] for number in numbers) for side in (self.pairs.names_a, self.pairs.names_b))
        row_of = {name: row for row, name in enumerate(self.faces)}
        embeddings = torch.from_numpy(self.embeddings[[row_of[name] for name in others]])
        folds = torch.from_numpy(self.pairs.fold[numbers])
        return AttackedPairs(
            goal=goal,
            names=names,
            other_names=others,
            faces=np.stack([self.faces[name] for name in names]),
            other_faces=np.stack([self.faces[name] for name in others]),
            references=self.verifier.compared(embeddings, folds),
            folds=folds,
        )


def open_face_pairs(
    embedder: FaceEmbedder, store: FaceStore, pairs_file: Path, *, variant: Variant, false_accept_rate: float | None
) -> FacePairs:
    """Embed the faces of all pairs, and judge these.

    Args:
        embedder: of the network that is to be attacked.
        store: aligned faces of the pairs.
        pairs_file: the protocol file.
        variant: normalisation and PCA before the distance; one that normalises.
        false_accept_rate: of the thresholds, see `fit_verifier`.

    Raises:
        FacegmError: the pairs or a face are missing or unusable.
    """
    pairs = read_pairs(pairs_file)
    faces = {name: store.read_face(row) for name, row in rows_of_images(store, pairs.images).items()}
    embeddings = embedder.embed_aligned(list(faces.values()), progress=True)
    left, right = rows_of_pairs(pairs, list(faces), len(embeddings))
    verifier, result = fit_verifier(
        embeddings[left], embeddings[right], pairs, variant=variant, false_accept_rate=false_accept_rate
    )
    return FacePairs(pairs=pairs, faces=faces, embeddings=embeddings, verifier=verifier, result=result)
