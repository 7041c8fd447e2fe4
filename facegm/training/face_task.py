"""The training of a face network: ResNet-27 and any of the losses."""

from jaxtyping import Float
from torch import Tensor

from facegm.data.augment import augmented_input
from facegm.data.batch import Batch
from facegm.losses.config import LossConfig, build_loss
from facegm.models.face_resnet import FaceResNet27, FaceResNetConfig
from facegm.training.task import Task


class FaceTask(Task[FaceResNet27]):
    """ResNet-27 trained with a loss.

    Args:
        model: shape of the network.
        loss: which loss, and its settings.
        input_size: side of the network's input in pixels.
        classes: number of identities.
    """

    def __init__(self, model: FaceResNetConfig, loss: LossConfig, input_size: int, classes: int) -> None:
        super().__init__(FaceResNet27(model, input_size), build_loss(loss, classes, model.embedding_dim))

    def inputs(self, batch: Batch) -> Float[Tensor, "batch 3 side side"]:
        """Crop, mirror, contrast and brightness as drawn, on the network's scale."""
        return augmented_input(batch, self.network.input_size)
