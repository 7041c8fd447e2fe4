"""Images through a classifier, in full single precision."""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from facegm.classification.classifier import Description, ImageClassifier
from facegm.classification.evaluation import Predictions
from facegm.classification.preprocessing import unit_images
from facegm.data.draws import load
from facegm.data.progress import Progress
from facegm.data.resident_images import PaddedCrop
from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.errors import FacegmError
from facegm.losses.precision import exact_products

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in what a grey network sees of a colour (ITU-R 601)."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images to look at, of a side that the classifier takes; grey or RGB, whatever it takes."""

    name: str
    samples: Samples
    crop: PaddedCrop | None = None
    """How they are cropped in the middle; None where they come cropped."""

    def picture(self, number: int) -> UInt8[np.ndarray, "side side 3"]:
        """What the classifier is shown of an image, RGB of 0 to 255; a grey one has three channels alike."""
        numbers = np.array([number])
        batch = self.samples[DrawnSamples(numbers, self.samples.draw(numbers, None))]
        pixels = self.pixels(batch)[0].cpu().numpy()
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def pixels(self, batch: Batch) -> UInt8[Tensor, "batch side side channels"]:
        """A batch's images, cropped."""
        return batch.images if self.crop is None else self.crop.cut(batch)


@torch.no_grad()
def predict(
    classifier: ImageClassifier,
    images: ImageSet,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    numbers: Int64[np.ndarray, " images"] | None = None,
) -> Predictions:
    """Features and logits of images, in their order.

    Args:
        classifier: in evaluation mode, on the device.
        images: what to look at.
        batch_size: images at a time.
        workers: processes that decode photos.
        device: where to.
        numbers: which of the images; None for all.

    Raises:
        FacegmError: a photo is missing or damaged, or what the network makes of an image is not finite.
    """
    samples = images.samples
    features: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    numbers = np.arange(len(samples)) if numbers is None else numbers
    inputs_of_images = read_inputs(
        classifier.description, images, numbers, batch_size=batch_size, workers=workers, device=device
    )
    with (
        full_precision(device),
        Progress(f"evaluate {images.name}", len(numbers), "images") as progress,
        closing(inputs_of_images) as batches,
    ):
        for inputs in batches:
            found = classifier.features(inputs).float()
            features.append(found.cpu().numpy())
            logits.append(classifier.loss.logits(found).cpu().numpy())
            progress.update(len(found))
    predictions = Predictions(np.concatenate(features), np.concatenate(logits), samples.labels[numbers])
    finite = np.isfinite(predictions.features).all(axis=1) & np.isfinite(predictions.logits).all(axis=1)
    if not finite.all():
        key = samples.keys[int(numbers[np.argmin(finite)])]
        raise FacegmError(
            f"{images.name}: {key}: the network gives numbers that are not finite, as of {np.count_nonzero(~finite):,} "
            f"of {len(finite):,} images; train anew, with a smaller optimizer.learning_rate"
        )
    return predictions


def read_inputs(
    description: Description,
    images: ImageSet,
    numbers: Int64[np.ndarray, " images"],
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Generator[Float[Tensor, "batch channels side side"], None, None]:
    """What a classifier takes of images: batches of 0 to 1 on a device; to be closed where not all of them are taken.

    Args:
        description: what the classifier is of.
        images: what to read.
        numbers: which of them, in their order.
        batch_size: images at a time.
        workers: processes that decode photos.
        device: where to.

    Raises:
        FacegmError: a photo is missing or damaged.
    """
    samples = images.samples
    parts = [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
    sampler = [DrawnSamples(part, samples.draw(part, None)) for part in parts]
    with closing(load(samples, sampler, workers=workers, pin_memory=device.type == "cuda")) as batches:
        for batch in batches:
            yield _in_channels(unit_images(images.pixels(batch.to(device))), description.channels)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, which cuDNN's convolutions would take by themselves."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), exact_products(device.type):
        yield


def _in_channels(
    images: Float[Tensor, "batch _ side side"], channels: int
) -> Float[Tensor, "batch {channels} side side"]:
    """Grey images as RGB of three channels alike, RGB ones as their luma, where the classifier's are of that kind."""
    if images.shape[1] == channels:
        return images
    if channels == 1:
        weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        luma: Tensor = (images * weights).sum(dim=1, keepdim=True)
        return luma
    return images.expand(-1, channels, -1, -1).contiguous(memory_format=torch.channels_last)
