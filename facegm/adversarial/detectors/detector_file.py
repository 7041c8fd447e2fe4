"""A fitted detector's file: safetensors, whose metadata say which detector it is. No code is in it or run by it."""

import json
from pathlib import Path
from textwrap import shorten

from facegm.adversarial.detectors.base import Detector
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.detectors.i_defender import IDefender
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.kd_bu import KDBU
from facegm.adversarial.detectors.lid import LID
from facegm.adversarial.detectors.mahalanobis import Mahalanobis
from facegm.data.weights import digest_of, read_weights, write_weights
from facegm.errors import FacegmError, UsageError

FORMAT = 1
DETECTORS: dict[str, type[Detector]] = {
    kind.name: kind for kind in (KDensity, GMLikelihood, Mahalanobis, IDefender, LID, KDBU)
}
"""By their names."""


def save_detector(path: Path, detector: Detector) -> None:
    """Keep a fitted detector.

    Raises:
        UsageError: it is not fitted, or another library's.
    """
    if detector.name not in DETECTORS:
        raise UsageError(f"{path}: a detector of {detector.name} cannot be kept; fit it again where it is needed")
    tensors = detector.state()
    description = {"format": FORMAT, "detector": detector.name, "settings": detector.settings()}
    write_weights(path, tensors, {**description, "content": digest_of(tensors)})


def load_detector(path: Path) -> Detector:
    """Read a detector that was kept; it computes on the CPU.

    Raises:
        FacegmError: no such file, not a detector of this program, or damaged.
    """
    if not path.is_file():
        raise FacegmError(f"{path}: no such detector")
    tensors, metadata = read_weights(path)
    if metadata is None:
        raise FacegmError(f"{path}: a safetensors file, but not a facegm detector")
    try:
        description = json.loads(metadata)
        kind = DETECTORS.get(description["detector"])
        if description["format"] != FORMAT or kind is None:
            raise ValueError(f"format {description['format']} of {description['detector']}")
        if description["content"] != digest_of(tensors):
            raise ValueError("its content is not what was written")
        detector = kind.from_state(description["settings"], tensors)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        reason = shorten(str(error), 300, placeholder=" ...")
        raise FacegmError(f"{path}: not a detector that this facegm can use ({reason})") from error
    unsound = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if unsound:
        raise FacegmError(f"{path}: numbers that are not finite in {', '.join(unsound[:3])}")
    return detector
