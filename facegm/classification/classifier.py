"""A classifier of images, network and class vectors, and its file, whose metadata says how images are prepared."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten

import torch
from jaxtyping import Float
from torch import Tensor, nn

from facegm.classification.preprocessing import ImagePreprocessing, Normalization
from facegm.data.weights import read_weights, write_weights
from facegm.errors import FacegmError
from facegm.losses.config import LossConfig, build_loss
from facegm.models.image_network import ImageModelConfig, build_image_network

FORMAT = 1
MODEL_FILE = "classifier.safetensors"
"""Name of the exported classifier in a run folder."""
BEST_FILE = "classifier-best.safetensors"
"""That of the epoch with the best accuracy on the test images."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a classifier is of."""

    model: ImageModelConfig
    loss: LossConfig
    """What it is trained with; its name decides what a feature is compared with."""
    preprocessing: ImagePreprocessing
    """From images to the network's input."""
    classes: Sequence[str]
    """Their names."""
    channels: int
    """Of an image: 1 for grey, 3 for RGB."""
    side: int
    """Of an image, in pixels."""
    resize: int | None = None
    """Of photos: what the shorter side is brought to before the middle is taken out of it, for an evaluation."""


class ImageClassifier(nn.Module):
    """A network with its class vectors: images on a scale of 0 to 1 to logits, differentiable.

    Args:
        description: what it is of.

    Raises:
        FacegmError: the network or the normalisation is not for such images, or a library is not installed.
    """

    def __init__(self, description: Description) -> None:
        super().__init__()
        d = description
        if d.model.input_side not in (None, d.side):
            raise FacegmError(
                f"model.name: {d.model.name} takes images of {d.model.input_side} pixels, and these have {d.side}"
            )
        try:
            self.network, self.feature_dim = build_image_network(d.model, d.channels)
        except (ValueError, ImportError) as error:
            raise FacegmError(f"model.{error}") from error
        for name, numbers in (("mean", d.preprocessing.mean), ("std", d.preprocessing.std)):
            if len(numbers) not in (1, d.channels):
                raise FacegmError(
                    f"preprocessing.{name}: {len(numbers)} numbers, for images of {d.channels} channel(s); give one"
                )
        self.loss = build_loss(d.loss, len(d.classes), self.feature_dim)
        self.normalization = Normalization(d.preprocessing)
        self.description = d

    @property
    def facts(self) -> dict[str, str]:
        """What it is, in words."""
        d = self.description
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return {
            "network": f"{d.model.name}, {parameters:,} parameters, features of {self.feature_dim} numbers",
            "loss": str(d.loss),
            "input": f"{d.side}x{d.side} pixels, {'grey' if d.channels == 1 else 'RGB'}, in float32",
        }

    def features(self, images: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch dim"]:
        """What the network makes of images of 0 to 1, which is what the loss compares with its class vectors."""
        features: Tensor = self.network(self.normalization(images))
        return features

    def forward(self, images: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch classes"]:
        """Logits, without margin; the largest is the predicted class."""
        logits: Tensor = self.loss.logits(self.features(images))
        return logits


def save_classifier(path: Path, d: Description, weights: dict[str, Tensor]) -> None:
    """Export a trained classifier.

    Args:
        path: the file to write.
        d: what it is of.
        weights: those of its network and loss, by their names in it.
    """
    model = asdict(d.model)
    if not d.model.feature_dropout:
        del model["feature_dropout"]  # as in files that were written before there was any
    description = {
        "format": FORMAT,
        "architecture": "ImageClassifier",
        "model": model,
        "loss": {"name": d.loss.name, "settings": {} if d.loss.chosen is None else asdict(d.loss.chosen)},
        "preprocessing": asdict(d.preprocessing),
        "classes": list(d.classes),
        "channels": d.channels,
        "side": d.side,
        "resize": d.resize,
    }
    write_weights(path, weights, description)


def load_classifier(path: Path) -> ImageClassifier:
    """Read an exported classifier, in evaluation mode on the CPU.

    Args:
        path: the file, or the run folder that holds it.

    Raises:
        FacegmError: no such file, not a classifier of this program, or damaged.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise FacegmError(f"{file}: no such classifier; `facegm train` writes one at the end of a run")
    weights, metadata = read_weights(file)
    try:
        description = _description(metadata or "{}")
        with torch.device("meta"):  # without memory, of which a damaged description may ask for any amount
            classifier = ImageClassifier(description)
        classifier.load_state_dict(weights, assign=True)
        classifier.normalization = Normalization(description.preprocessing)
        classifier.to(torch.get_default_dtype())
    except _UNUSABLE as error:
        reason = shorten(str(error), 300, placeholder=" ...")  # torch's fill a page
        raise FacegmError(f"{file}: not a classifier that this facegm can use ({reason})") from error
    unsound = [name for name, tensor in classifier.state_dict().items() if not torch.isfinite(tensor).all()]
    if unsound:
        raise FacegmError(f"{file}: weights that are not finite in {', '.join(unsound[:3])}")
    return classifier.eval()


_UNUSABLE = (
    FacegmError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a description raises that is not of this format, or of weights that are not in the file."""


def _description(text: str) -> Description:
    """What a file's metadata says that its classifier is of."""
    found = json.loads(text)
    if (found["format"], found["architecture"]) != (FORMAT, "ImageClassifier"):
        raise ValueError(f"format {found['format']} of {found['architecture']}")
    name, settings = found["loss"]["name"], found["loss"]["settings"]
    loss = LossConfig(name=name)
    if loss.chosen is not None:
        loss = LossConfig(name=name, **{name: type(loss.chosen)(**settings)})
    return Description(
        model=ImageModelConfig(**found["model"]),
        loss=loss,
        preprocessing=ImagePreprocessing(**found["preprocessing"]),
        classes=tuple(found["classes"]),
        channels=found["channels"],
        side=found["side"],
        resize=found.get("resize"),
    )
