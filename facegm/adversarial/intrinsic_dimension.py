"""Local intrinsic dimensionality (LID) of what each layer of a network makes of images (Ma et al. 2018)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from facegm.adversarial.subject import Images, Outputs, Subject, outputs_of
from facegm.errors import FacegmError

NEIGHBOURS = 20
"""k: of how many the distances count."""
HIGHEST = 1_000.0
"""An estimate where all distances are alike, and it would be infinite."""
_LEAST_SHARE = 1e-12
"""Of the mean square of the reference's points: a squared distance that counts as none."""
_LAYERS = (nn.Conv2d, nn.ReLU, nn.PReLU)
"""Those whose outputs are looked at."""


@torch.no_grad()
def outputs_and_dimensions(
    subject: Subject, images: Images, reference: Images
) -> tuple[Outputs, Float64[Tensor, "images layers"]]:
    """What a subject makes of images, and in each layer the LID of each image among those of the reference.

    Layers are the images themselves, each convolution and each ReLU and PReLU that is a module, and the features. The
    reference goes through the network together with the images, so that one layer at a time is in memory.

    Args:
        subject: in evaluation mode.
        images: on its device.
        reference: clean images, on its device.
    """
    count, columns = len(reference), []

    def look(found: Tensor) -> None:
        columns.append(local_intrinsic_dimension(found[count:].flatten(1), found[:count].flatten(1)))

    together = torch.cat([reference, images])
    look(together)
    with _seen_outputs(subject.module, look):
        outputs = outputs_of(subject, together)
    look(outputs.features)
    return Outputs(*(part[count:] for part in outputs)), torch.stack(columns, dim=1)


def local_intrinsic_dimension(
    points: Float[Tensor, "points dim"], reference: Float[Tensor, "reference dim"], neighbours: int = NEIGHBOURS
) -> Float64[Tensor, " points"]:
    """The estimate of maximum likelihood, -k / sum_j log(r_j / r_k) over j = 1 to k, in float64.

    r_1 <= ... <= r_k are Euclidean distances to the nearest of the reference but the very nearest, which is the point
    itself where that is in the reference.

    Args:
        points: what is estimated of.
        reference: other points; k + 1 of them at least.
        neighbours: k.

    Raises:
        FacegmError: the reference is too small.
    """
    if len(reference) <= neighbours:
        raise FacegmError(f"reference: {len(reference)} images, must be {neighbours + 1} at least, such as 100")
    origin = reference.double().mean(dim=0)
    x, y = points.double() - origin, reference.double() - origin
    own, others = x.square().sum(dim=1), y.square().sum(dim=1)
    squares = torch.addmm(others, x, y.T, alpha=-2) + own[:, None]
    nearest = squares.clamp(min=_LEAST_SHARE * others.mean()).topk(neighbours + 1, largest=False).values[:, 1:]
    logs = 0.5 * (nearest / nearest.amax(dim=1, keepdim=True)).log().nan_to_num()  # 0 / 0 of points that are all alike
    return neighbours / (-logs.sum(dim=1)).clamp(min=neighbours / HIGHEST)


@contextmanager
def _seen_outputs(module: nn.Module, look: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside, the outputs of layers are looked at as soon as they are there: what follows may change them in place."""

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        look(output)

    handles = [one.register_forward_hook(hook) for one in module.modules() if isinstance(one, _LAYERS)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
