"""What a subject makes of images: all that detectors look at."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.adversarial.subject import Images, Subject, outputs_of


@dataclass(frozen=True, eq=False, kw_only=True)
class Observations:
    """Of images, on the CPU."""

    features: Float[Tensor, "images dim"]
    logits: Float[Tensor, "images classes"]
    labels: Int64[Tensor, " images"] | None = None
    """The true classes, where they are known."""

    @property
    def predicted(self) -> Int64[Tensor, " images"]:
        """The class of the largest logit."""
        return self.logits.argmax(dim=1)


@torch.no_grad()
def observe(
    subject: Subject, images: Images, *, labels: Int64[Tensor, " images"] | None = None, batch_size: int = 500
) -> Observations:
    """Features and logits of images.

    Args:
        subject: in evaluation mode.
        images: of its pixel range, on any device.
        labels: their classes, where they are known.
        batch_size: images at a time.
    """
    found = [outputs_of(subject, some.to(subject.device)) for some in images.split(batch_size)]
    features, logits = (torch.cat([one[part].float().cpu() for one in found]) for part in (0, 1))
    return Observations(features=features, logits=logits, labels=labels)
