"""Attacks on a face verification system: impersonation and dodging on pairs of photos, and whether detectors notice.

The attacker knows the network, its preprocessing and the verifier's decision, and changes the pixels of an aligned
face, which go to the network as they are: a digital attack, behind the camera and the alignment. The photo that it is
compared with stays as it is. The attacker does not know of the detectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from facegm.adversarial.detection import Detection, area_under_roc, detection, false_alarms
from facegm.adversarial.detectors.base import Detector
from facegm.adversarial.face_crafting import FACE_ATTACKS, check_face_subject, craft_faces
from facegm.adversarial.face_detection import Scores, fit_detectors, observe_training_faces, scores_of
from facegm.adversarial.face_inputs import inputs_in_files, strange_inputs
from facegm.adversarial.face_objectives import GOALS
from facegm.adversarial.face_pairs import AttackedPairs, FacePairs, open_face_pairs
from facegm.adversarial.face_subject import FaceSubject, load_face_subject
from facegm.adversarial.lossless import of_levels, quantised
from facegm.adversarial.observations import Observations, observe
from facegm.adversarial.recipe import AttackRecipe
from facegm.adversarial.result import Attacked, distortion, largest_change
from facegm.adversarial.subject import UNIT_RANGE, Images
from facegm.classification.prediction import full_precision
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.trained_network import TrainedNetwork
from facegm.eval.scores import NO_PCA, Variant
from facegm.eval.verify_lfw import find_pairs
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import open_training_faces
from facegm.store.reader import FaceStore
from facegm.training.devices import default_device


@dataclass(frozen=True, eq=False, kw_only=True)
class FaceAttackResult:
    """An attack on photos; arrays have a row a pair."""

    pairs: AttackedPairs
    name: str
    recipe: AttackRecipe
    is_success: Bool[np.ndarray, " pairs"]
    """Whether the verifier's decision is the attacker's."""
    is_success_quantised: Bool[np.ndarray, " pairs"]
    """The same of the photo rounded to 8 bits, by the embedder that applications use."""
    distortion: Float[np.ndarray, " pairs"]
    """Root mean square change of a pixel, on a scale of 0 to 255."""
    largest_change: Float[np.ndarray, " pairs"]
    """L-infinity distance, on a scale of 0 to 255."""
    passes: Int64[np.ndarray, " pairs"]
    detections: Mapping[str, Detection]
    """By detector, against the photos before the attack."""
    scores: Scores
    """Of the attacked photos."""
    levels: UInt8[np.ndarray, "pairs side side 3"]
    """The attacked photos, rounded to 8 bits."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StrangeResult:
    """How detectors tell inputs that are no usual faces from the photos before the attacks."""

    name: str
    scores: Scores
    areas: Mapping[str, float]
    """Under the ROC curve, by detector."""
    noticed: Mapping[str, Mapping[float, float]]
    """By detector and false-alarm rate, the share of them that is noticed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FaceAttackReport:
    """All that was found."""

    facts: Mapping[str, str]
    """What was attacked, in words."""
    accuracy: float
    """Of the protocol, over all pairs."""
    thresholds: Sequence[float]
    """L2 distances of the verifier, by fold."""
    results: Sequence[FaceAttackResult]
    clean: Scores
    """Of the photos before the attacks, those of both goals."""
    strange: Sequence[StrangeResult]


@dataclass(frozen=True, eq=False, kw_only=True)
class _System:
    """A verification system with detectors."""

    face: FaceSubject
    embedder: FaceEmbedder
    pairs: FacePairs
    detectors: Mapping[str, Detector]

    def scores(self, faces: UInt8[np.ndarray, "images side side 3"]) -> Scores:
        """What the detectors say of 8-bit faces."""
        return scores_of(self.detectors, self.observe(of_levels(torch.from_numpy(faces), UNIT_RANGE)))

    def observe(self, images: Images) -> Observations:
        """What the network makes of images, in full precision."""
        with full_precision(self.face.subject.device):
            return observe(self.face.subject, images)

    def is_reached(self, pairs: AttackedPairs, embeddings: Float[Tensor, "pairs dim"]) -> Bool[np.ndarray, " pairs"]:
        """Whether the verifier's decision is the attacker's."""
        verifier = self.pairs.verifier
        compared = verifier.compared(embeddings, pairs.folds)
        is_accepted = (compared - pairs.references).norm(dim=1) < verifier.thresholds[pairs.folds].to(compared)
        return np.asarray((is_accepted if pairs.goal == "impersonation" else ~is_accepted).numpy())


def attack_faces(
    run: Path,
    config: FaceRunConfig,
    lfw: Path,
    output: Path,
    *,
    pairs_file: Path | None = None,
    images: int = 500,
    variant: Variant = NO_PCA,
    false_accept_rate: float | None = None,
    outside: Sequence[Path] = (),
) -> FaceAttackReport:
    """Attack photos of verification pairs by `FACE_ATTACKS`, and see what detectors say; on a GPU if there is one.

    Args:
        run: the face network's run folder.
        config: its configuration.
        lfw: store of the aligned faces of the pairs.
        output: its folder `crafted` takes the attacked photos, batch by batch; what is there is not made again.
        pairs_file: the protocol file; None for `pairs.txt` in the store's folder or in the one above.
        images: photos to attack, half of them to impersonate, half to dodge.
        variant: normalisation and PCA before the distance; one that normalises.
        false_accept_rate: of the thresholds, on other folds; None for those of highest accuracy there.
        outside: folders of other inputs for the detectors, see `inputs_in_files`.

    Raises:
        FacegmError: run, faces or pairs are missing or unusable, or the network cannot be attacked in earnest.
    """
    store, faces = FaceStore(lfw), open_training_faces(config)
    pairs_file = pairs_file or find_pairs(lfw)
    named = inputs_in_files(outside, store.size, images)
    face = load_face_subject(run, config, faces, store.size, default_device())
    embedder = FaceEmbedder(TrainedNetwork(face.task.network, config.preprocessing))
    pairs = open_face_pairs(embedder, store, pairs_file, variant=variant, false_accept_rate=false_accept_rate)
    attacked = [pairs.attacked(goal, max(1, images // len(GOALS))) for goal in GOALS]
    for some in attacked:
        check_face_subject(face.subject, pairs.verifier, some)
    detectors = fit_detectors(face, observe_training_faces(face, faces))
    system = _System(face=face, embedder=embedder, pairs=pairs, detectors=detectors)

    results, clean_of_goals = [], []
    for some in attacked:
        before = system.scores(some.faces)
        clean_of_goals.append(before)
        results += [_attacked(system, some, before, name, output / "crafted") for name in FACE_ATTACKS]
    photos = np.concatenate([some.faces for some in attacked])
    clean = {name: np.concatenate([scores[name] for scores in clean_of_goals]) for name in detectors}
    facts = {
        "run": str(run),
        "network": f"{embedder.describe()}, after {face.steps:,} steps, {config.loss}",
        "identities known": f"{len(faces.identities):,}, {len(faces):,} faces of {config.data.store}",
        "faces verified": f"{lfw}, {len(pairs.pairs):,} pairs of {pairs_file}",
        "distance": f"L2, {variant.name}",
        "threshold": (
            "of highest accuracy on the other folds"
            if false_accept_rate is None
            else f"at a false accept rate of {false_accept_rate:g} on the other folds"
        ),
    }
    return FaceAttackReport(
        facts=facts,
        accuracy=pairs.result.accuracy,
        thresholds=pairs.verifier.thresholds.tolist(),
        results=results,
        clean=clean,
        strange=[
            _strange(name, clean, system.scores(inputs)) for name, inputs in {**strange_inputs(photos), **named}.items()
        ],
    )


def _attacked(system: _System, pairs: AttackedPairs, clean: Scores, name: str, folder: Path) -> FaceAttackResult:
    recipe, subject = FACE_ATTACKS[name], system.face.subject
    found: Attacked = craft_faces(subject, system.pairs.verifier, pairs, recipe, folder / pairs.goal / name)
    images, levels = of_levels(torch.from_numpy(pairs.faces), UNIT_RANGE), quantised(found.images, UNIT_RANGE).numpy()
    observed = system.observe(found.images)
    is_success = system.is_reached(pairs, observed.features)
    scores = scores_of(system.detectors, observed)
    return FaceAttackResult(
        pairs=pairs,
        name=name,
        recipe=recipe,
        is_success=is_success,
        is_success_quantised=system.is_reached(pairs, torch.from_numpy(system.embedder.embed_aligned(list(levels)))),
        distortion=distortion(images, found.images, UNIT_RANGE).numpy(),
        largest_change=largest_change(images, found.images, UNIT_RANGE).numpy(),
        passes=found.passes.numpy(),
        detections={one: detection(clean[one], scores[one], is_success) for one in scores},
        scores=scores,
        levels=levels,
    )


def _strange(name: str, clean: Scores, scores: Scores) -> StrangeResult:
    return StrangeResult(
        name=name,
        scores=scores,
        areas={one: area_under_roc(clean[one], scores[one]) for one in scores},
        noticed={one: false_alarms(clean[one], scores[one]) for one in scores},
    )
