"""The training of a face network: any of the networks and any of the losses, evaluated by verification."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from facegm.data.preprocessing import Preprocessing, network_input
from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.embedding.network import embed
from facegm.faces.samples import augmented_input
from facegm.losses.collectives import world_size
from facegm.losses.config import LossConfig, build_loss
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import FaceModelConfig, build_face_network
from facegm.training.task import Task


@runtime_checkable
class Verification(Protocol):
    """Faces, in the middle crop, that are judged by their embeddings together; `facegm.eval.validation` has some."""

    def score(self, embeddings: Float[np.ndarray, "faces dim"]) -> dict[str, float]:
        """Named numbers that say how good embeddings are, `accuracy` among them."""


class FaceTask(Task[FaceNetwork]):
    """A face network trained with a loss.

    Args:
        model: which network, and its shape.
        loss: which loss, and its settings.
        preprocessing: from aligned faces to the network's input.
        classes: number of identities.
    """

    def __init__(self, model: FaceModelConfig, loss: LossConfig, preprocessing: Preprocessing, classes: int) -> None:
        network = build_face_network(model, preprocessing.crop_size)
        super().__init__(network, build_loss(loss, classes, model.embedding_dim))
        self._mirror = preprocessing.mirror

    def inputs(self, batch: Batch) -> Float[Tensor, "batch 3 side side"]:
        """Crop, mirror, contrast and brightness as drawn, on the network's scale; faces without draws as they are."""
        return augmented_input(batch, self.network.input_size) if batch.draws else network_input(batch.images)

    def judge(self, samples: Samples, batches: Iterable[tuple[DrawnSamples, Batch]]) -> dict[str, float]:
        """Of faces to verify, the score of their embeddings; of others, the accuracy of classification."""
        if not isinstance(samples, Verification):
            return super().judge(samples, batches)
        embeddings = torch.zeros(len(samples), self.network.embedding_dim, device=self.device)
        for drawn, batch in batches:
            found = embed(self.network, self.inputs(batch.to(self.device)), mirror=self._mirror)
            embeddings[torch.from_numpy(drawn.numbers)] = found.to(embeddings.dtype)
        if world_size() > 1:
            dist.all_reduce(embeddings)
        return samples.score(embeddings.cpu().numpy())
