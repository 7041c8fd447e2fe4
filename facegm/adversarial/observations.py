"""What a subject makes of images: all that detectors look at."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from facegm.adversarial.intrinsic_dimension import outputs_and_dimensions
from facegm.adversarial.subject import Images, Subject, outputs_of
from facegm.adversarial.uncertainty import dropout_uncertainty


@dataclass(frozen=True, eq=False, kw_only=True)
class Observations:
    """Of images, on the CPU."""

    features: Float[Tensor, "images dim"]
    logits: Float[Tensor, "images classes"]
    labels: Int64[Tensor, " images"] | None = None
    """The true classes, where they are known."""
    intrinsic_dimensions: Float64[Tensor, "images layers"] | None = None
    """In each layer, among the images of a reference; None where there was none."""
    uncertainty: Float64[Tensor, " images"] | None = None
    """By dropout; None where it was not asked for."""

    @property
    def predicted(self) -> Int64[Tensor, " images"]:
        """The class of the largest logit."""
        return self.logits.argmax(dim=1)

    def only(self, rows: slice | Bool[Tensor, " images"]) -> "Observations":
        """What was observed of some of the images."""
        parts: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        parts = {name: part if part is None else part[rows] for name, part in parts.items()}
        return Observations(**parts)


@torch.no_grad()
def observe(
    subject: Subject,
    images: Images,
    *,
    labels: Int64[Tensor, " images"] | None = None,
    batch_size: int = 500,
    reference: Images | None = None,
    with_uncertainty: bool = False,
) -> Observations:
    """Features and logits of images, and what some detectors look at beside them.

    Args:
        subject: in evaluation mode.
        images: of its pixel range, on any device.
        labels: their classes, where they are known.
        batch_size: images at a time.
        reference: a minibatch of clean images, 100 say, among which intrinsic dimensions are estimated, for LID.
        with_uncertainty: whether to estimate it, for KD+BU.
    """
    found, dimensions = [], []
    for some in images.split(batch_size):
        batch = some.to(subject.device)
        if reference is None:
            outputs = outputs_of(subject, batch)
        else:
            outputs, estimated = outputs_and_dimensions(subject, batch, reference.to(subject.device))
            dimensions.append(estimated.cpu())
        found.append(outputs)
    features, logits = (torch.cat([one[part].float().cpu() for one in found]) for part in (0, 1))
    return Observations(
        features=features,
        logits=logits,
        labels=labels,
        intrinsic_dimensions=torch.cat(dimensions) if dimensions else None,
        uncertainty=dropout_uncertainty(subject, features) if with_uncertainty else None,
    )
