"""The embedder of a run that is not at its end."""

from pathlib import Path
from typing import Any

from facegm.embedding.model_file import MODEL_FILE, save_embedder
from facegm.errors import FacegmError
from facegm.faces.class_means import checkpoint_means
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import open_training_faces
from facegm.models.face_network import build_face_network
from facegm.training.checkpoint import checkpoints, load_checkpoint, load_newest_checkpoint, weights_of

_PART = "network."


def is_unfinished(run: Path) -> bool:
    """Whether a run folder holds a checkpoint, and not yet the embedder that is written at the run's end."""
    return not (run / MODEL_FILE).is_file() and bool(checkpoints(run))


def export_newest(run: Path, config: FaceRunConfig) -> Path:
    """Export the network of a run's newest checkpoint beside it, as the run itself does at its end.

    Args:
        run: the run folder, `is_unfinished`.
        config: the run's own.

    Returns:
        The embedder's file, which is called by the number of steps.

    Raises:
        FacegmError: the checkpoints are damaged or of another network, or the training faces, by which the embedder
            knows how faces are aligned, are no longer there.
    """
    state = load_newest_checkpoint(run)
    assert state is not None, "a run that is_unfinished"
    return _export(run, config, state)


def export_checkpoint(file: Path, config: FaceRunConfig) -> Path:
    """Export the network of one checkpoint of a run, likewise.

    Args:
        file: in the run's folder of checkpoints.
        config: the run's own.

    Returns:
        The embedder's file, beside that folder.

    Raises:
        FacegmError: see `export_newest`.
    """
    return _export(file.resolve().parent.parent, config, load_checkpoint(file))


def _export(run: Path, config: FaceRunConfig, state: dict[str, Any]) -> Path:
    file = run / MODEL_FILE.replace(".", f"-step-{state['step']:08d}.")
    if file.is_file():
        return file
    weights = weights_of(state)
    network = build_face_network(config.model, config.preprocessing.crop_size)
    try:
        network.load_state_dict(
            {name.removeprefix(_PART): tensor for name, tensor in weights.items() if name.startswith(_PART)}
        )
    except RuntimeError as error:
        raise FacegmError(f"{run}: the checkpoint's network is not the configuration's ({error})") from error
    means, alignment = checkpoint_means(weights), open_training_faces(config).alignment
    save_embedder(file, network, config.model, config.preprocessing, alignment, means)
    return file
