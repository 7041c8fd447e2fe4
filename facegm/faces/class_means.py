"""The means of the identities that a GM run has learnt: what its exported embedder carries, and where else they are."""

import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from facegm.data.weights import read_weights
from facegm.embedding.model_file import MODEL_FILE, embedder_file, read_likelihood
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.losses.gm_module import GMLoss
from facegm.models.face_base import FaceNetwork
from facegm.training.checkpoint import load_newest_checkpoint, weights_of
from facegm.training.task import Task

logger = logging.getLogger(__name__)

MOST_BYTES = 2**28
"""Of the means that an embedder carries: those of 131,072 identities of 512 dimensions."""
IN_CHECKPOINT = "loss.means"
"""Their name among a checkpoint's weights, all of them also where the processes of the run share them."""


def carried_means(task: Task[FaceNetwork], run: Path) -> Float[Tensor, "identities dim"] | None:
    """The means for the embedder that is exported of a task, which stands at the run's newest checkpoint.

    Args:
        task: the run's, or the average that it keeps of it.
        run: the run folder, from whose checkpoint means are taken that other processes have parts of.

    Returns:
        None of another loss, or of means beyond `MOST_BYTES`, which is logged.
    """
    loss = task.loss
    if not isinstance(loss, GMLoss) or not _is_carried(loss.classes * loss.means[0].nbytes):
        return None
    if not loss.sharded:
        return loss.means.detach()
    state = load_newest_checkpoint(run)
    assert state is not None, "a run that exports has saved"
    return checkpoint_means(weights_of(state))


def checkpoint_means(weights: dict[str, Tensor]) -> Float[Tensor, "identities dim"] | None:
    """The means for the embedder that is exported of a checkpoint's weights; None as of `carried_means`."""
    means = weights.get(IN_CHECKPOINT)
    return None if means is None or not _is_carried(means.nbytes) else means


def class_means(model: Path, config: FaceRunConfig | None = None) -> Float[np.ndarray, "identities dim"] | None:
    """The GM means of an exported embedder: its own, or of one that carries none those of its run's newest checkpoint.

    Where the run averages its weights the averaged means are taken, as for the export.

    Args:
        model: embedder file, or run folder.
        config: that of the run folder.

    Returns:
        None where it was trained with another loss, and of an embedder file that carries none.

    Raises:
        FacegmError: the file is damaged, or of a run folder there is no checkpoint, or it is of other weights than the
            exported embedder's.
    """
    file = embedder_file(model)
    carried = read_likelihood(file)
    if carried is not None:
        return carried.means
    if config is None or config.loss.name != "gm":
        return None
    state = load_newest_checkpoint(model)
    if state is None:
        raise FacegmError(
            f"{model}: no checkpoint, in which the means of the identities are, for {MODEL_FILE} carries none; bring "
            f"its checkpoints back, or name {file}, which goes without them"
        )
    task = weights_of(state)
    exported = read_weights(file).tensors
    if not all(torch.equal(task.get(f"network.{name}", torch.empty(0)), part) for name, part in exported.items()):
        raise FacegmError(
            f"{model}: the newest checkpoint has other weights than {MODEL_FILE}, so its means are not those of the "
            "embeddings; let the run come to its end"
        )
    return np.asarray(task[IN_CHECKPOINT].numpy())


def _is_carried(size: int) -> bool:
    if size > MOST_BYTES:
        logger.info(
            f"the exported embedder goes without the identities' means, of {size / 2**20:.0f} MiB where "
            f"{MOST_BYTES / 2**20:.0f} are carried, and so without likelihoods; they are in the checkpoint"
        )
    return size <= MOST_BYTES
