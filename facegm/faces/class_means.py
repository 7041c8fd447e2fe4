"""The means of the identities that a GM run has learnt, which an exported embedder lacks."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from facegm.data.weights import read_weights
from facegm.embedding.model_file import MODEL_FILE
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.training.checkpoint import load_newest_checkpoint, weights_of


def class_means(run: Path, config: FaceRunConfig) -> Float[np.ndarray, "identities dim"] | None:
    """The GM means of a finished run, from its newest checkpoint; None where it was trained with another loss.

    Where the run averages its weights the averaged means are taken, as for the export.

    Args:
        run: the run folder.
        config: that of the run.

    Raises:
        FacegmError: there is no checkpoint, or it is of other weights than the exported embedder's.
    """
    if config.loss.name != "gm":
        return None
    file, state = run / MODEL_FILE, load_newest_checkpoint(run)
    if state is None:
        raise FacegmError(
            f"{run}: no checkpoint, in which the means of the identities are; bring its checkpoints back, or name "
            f"{file}, which goes without them"
        )
    task = weights_of(state)
    exported = read_weights(file).tensors
    if not all(torch.equal(task.get(f"network.{name}", torch.empty(0)), part) for name, part in exported.items()):
        raise FacegmError(
            f"{run}: the newest checkpoint has other weights than {MODEL_FILE}, so its means are not those of the "
            "embeddings; let the run come to its end"
        )
    return np.asarray(task["loss.means"].numpy())
