"""The training of a classifier of images: any network and any loss, evaluated by its accuracy."""

from jaxtyping import Float
from torch import Tensor, nn

from facegm.classification.classifier import ImageClassifier
from facegm.classification.preprocessing import unit_images
from facegm.data.resident_images import PaddedCrop
from facegm.data.samples import Batch
from facegm.training.task import Task


class ImageTask(Task[nn.Module]):
    """A classifier's network and loss, to be trained.

    Args:
        classifier: whose network and loss it is.
        crop: how images that lie in memory are cropped; None for photos, which come cropped.
    """

    def __init__(self, classifier: ImageClassifier, crop: PaddedCrop | None) -> None:
        super().__init__(classifier.network, classifier.loss)
        self._normalization, self._crop = classifier.normalization, crop

    def inputs(self, batch: Batch) -> Float[Tensor, "batch channels height width"]:
        """Cropped and mirrored as drawn, on the network's scale."""
        pixels = batch.images if self._crop is None else self._crop.cut(batch)
        normalized: Tensor = self._normalization(unit_images(pixels))
        return normalized
