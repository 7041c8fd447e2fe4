"""Detectors on faces: whether an embedding lies where those of the trained identities do."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from facegm.adversarial.detectors.base import Detector
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.face_subject import FaceSubject
from facegm.adversarial.observations import Observations
from facegm.classification.prediction import full_precision
from facegm.data.progress import Progress
from facegm.data.samples import DrawnSamples
from facegm.faces.samples import LabelledFaces
from facegm.losses.gm_module import GMLoss
from facegm.training.report import EVALUATION_BATCH

K_DENSITY, LIKELIHOOD = "K-density", "GM likelihood"

Scores = Mapping[str, Float[np.ndarray, " images"]]
"""By detector; higher for normal inputs."""


def fit_detectors(face: FaceSubject, training: Observations) -> dict[str, Detector]:
    """K-density on the training faces' embeddings, by identity; with the GM loss also the model's own likelihood.

    The density is that of the identity whose mean (of other losses: whose class vector) the network finds nearest. The
    likelihood is that of the nearest mean. Nothing of either comes from attacks, nor from the faces that are verified,
    whose people are none of the trained identities: what is normal is to look like a face that could be one of theirs.

    Args:
        face: the network, and the means of its identities.
        training: what it makes of the faces that it was trained on.
    """
    detectors: dict[str, Detector] = {K_DENSITY: KDensity().fit(training)}
    if isinstance(face.task.loss, GMLoss):
        detectors[LIKELIHOOD] = GMLikelihood(face.task.loss.means.detach().cpu()).fit(training)
    return detectors


@torch.no_grad()
def observe_training_faces(face: FaceSubject, faces: LabelledFaces) -> Observations:
    """Embeddings of the training faces as `AlignedFaceNetwork` makes them, of the middle crop; and their identities.

    Raises:
        FacegmError: a face is missing or damaged.
    """
    device, numbers, found = face.task.device, np.arange(len(faces)), []
    with full_precision(device), Progress("embed", len(faces), "training faces") as progress:
        for part in np.split(numbers, range(EVALUATION_BATCH, len(faces), EVALUATION_BATCH)):
            batch = faces[DrawnSamples(part, faces.draw(part, None))]
            found.append(face.module.embed_inputs(face.task.inputs(batch.to(device))))
            progress.update(len(part))
    features = torch.cat(found)
    logits = face.task.loss.logits(features)
    return Observations(features=features.cpu(), logits=logits.cpu(), labels=torch.from_numpy(faces.labels))


def scores_of(detectors: Mapping[str, Detector], observed: Observations) -> Scores:
    """What all detectors say."""
    return {name: detector.score_samples(observed) for name, detector in detectors.items()}
