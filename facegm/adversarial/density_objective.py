"""The white-box attack on a density detector: to be taken for a class, and to look like one of its images.

After Carlini and Wagner 2017, "Adversarial Examples Are Not Easily Detected", as section 4.4.2 of Wan et al. is too.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from facegm.adversarial.carlini_wagner import carlini_wagner
from facegm.adversarial.detectors.base import ClassDensity, features_by_class
from facegm.adversarial.objectives import Judgement, Margin, lead_of
from facegm.adversarial.observations import Observations
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, PixelRange, Subject, outputs_of

LOG_FLOOR = math.log(1e-30)
"""Of what the published code adds to a density before it takes the logarithm."""


def no_density(features: Float[Tensor, "batch dim"], classes: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """A log density of 0 everywhere, for an attack on a detector that is broken on purpose and knows nothing."""
    del classes
    return 0 * features.sum(dim=1)  # of which there is a gradient


@torch.no_grad()
def density_thresholds(density: ClassDensity, clean: Observations) -> Float[Tensor, " classes"]:
    """The eta of each class: the median of -log density over its own training images.

    Args:
        density: the one that is attacked, such as that of `KDensity.subset`, or `GMLikelihood.log_density`.
        clean: of training images, with their labels; on the device of the density.

    Raises:
        FacegmError: as `features_by_class` says; a class without image among others.
    """
    medians = [
        density(features, torch.full((len(features),), number, device=features.device)).quantile(0.5)
        for number, features in enumerate(features_by_class(clean))
    ]
    return -torch.stack(medians).to(clean.features.dtype)


# ------------------------------------------------------------------------------------------------- objectives


@dataclass(frozen=True, eq=False, kw_only=True)
class DensityShortfall:
    """By how much the density of the class that an image is taken for falls short of what is usual in that class.

    f_2 = -log KD_k(z) - eta_k, of which Carlini and Wagner take the positive part; the goal is that it is 0 or less.
    The class k is the target, or without one the likeliest that is not the own.
    """

    subject: Subject
    classes: Int64[Tensor, " batch"]
    """The targets, or without a target the classes that the images are of."""
    is_targeted: bool
    density: ClassDensity
    thresholds: Float[Tensor, " classes"]
    """eta, of each class, on the device of the images."""

    def __call__(self, images: Images, rows: Int64[Tensor, " batch"]) -> Judgement:
        """Judge images."""
        features, logits = outputs_of(self.subject, images)
        classes = self.classes[rows]
        if not self.is_targeted:
            classes = logits.detach().scatter(1, classes[:, None], -torch.inf).argmax(dim=1)
        loss = -self.density(features, classes) - self.thresholds[classes]
        return Judgement(loss, loss.detach() <= 0)


class Shortfalls(NamedTuple):
    """Of each image, what is missing to the two goals of `DensityMargin`."""

    margin: Float[Tensor, " batch"]
    """max_{k != t} l_k - l_t + kappa; below 0 where the network is fooled."""
    density: Float[Tensor, " batch"]
    """-log KD_t - eta_t; 0 or less where the detector is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DensityMargin:
    """To be taken for a target, and to be as dense in it as its own images are: the sum of both positive parts."""

    subject: Subject
    targets: Int64[Tensor, " batch"]
    density: ClassDensity
    thresholds: Float[Tensor, " classes"]
    """eta, of each class, on the device of the images."""
    confidence: float = 0.0
    """kappa."""
    floor: bool = False
    """Whether 1e-30 is added to the density, as in the published code: far from a class, where the density is less, no
    gradient is left. The logarithm alone has one everywhere, and is the stronger attack."""

    def shortfalls(self, images: Images, rows: Int64[Tensor, " batch"]) -> Shortfalls:
        """What is missing to each of the two goals, differentiable."""
        features, logits = outputs_of(self.subject, images)
        targets = self.targets[rows]
        log_density = self.density(features, targets)
        if self.floor:
            log_density = torch.logaddexp(log_density, torch.full_like(log_density, LOG_FLOOR))
        return Shortfalls(self.confidence - lead_of(logits, targets), -log_density - self.thresholds[targets])

    def __call__(self, images: Images, rows: Int64[Tensor, " batch"]) -> Judgement:
        """Judge images."""
        return _judge(self.shortfalls(images, rows))


def _judge(shortfalls: Shortfalls) -> Judgement:
    margin, density = shortfalls
    return Judgement(margin.relu() + density.relu(), (margin.detach() < 0) & (density.detach() <= 0))


# ------------------------------------------------------------------------------------------------- attack


def white_box_carlini_wagner(
    objective: DensityMargin,
    images: Images,
    pixel_range: PixelRange,
    *,
    learning_rate: float = 0.01,
    search_steps: int = 5,
    iterations: int = 10_000,
    initial_constant: float = 1.0,
    start_iterations: int = 3000,
) -> Attacked:
    """Carlini and Wagner's attack on network and detector: first on the network alone, and from there on both.

    The distance that is made small is that to the clean images in both phases. Defaults are those of the published code
    (carlini/nn_breaking_detection). An image for which both goals are never reached at once ends as the one of the
    target class with the least f_2 that the second phase came by, and where there was none as that phase ends.

    Args:
        objective: what is wanted of each image.
        images: clean ones, of the pixel range.
        pixel_range: what no pixel leaves.
        learning_rate: of the second phase, by Adam.
        search_steps: of the second phase: tries with another weight of the objective.
        iterations: of each of these.
        initial_constant: their first weight of the objective.
        start_iterations: of each of the 3 tries of the first phase, whose learning rate is 0.1 and first weight 1.
    """
    on_network = Margin(
        subject=objective.subject, classes=objective.targets, is_targeted=True, confidence=objective.confidence
    )
    start = carlini_wagner(
        on_network,
        images,
        pixel_range,
        learning_rate=0.1,
        search_steps=3,
        iterations=start_iterations,
        initial_constant=1.0,
    )
    nearest = _Nearest(objective, images)
    end = carlini_wagner(
        nearest,
        images,
        pixel_range,
        learning_rate=learning_rate,
        search_steps=search_steps,
        iterations=iterations,
        initial_constant=initial_constant,
        start=start.images,
    )
    falls_back = ~end.is_success & nearest.is_found
    attacked = torch.where(falls_back[:, None, None, None], nearest.images, end.images)
    return Attacked(images=attacked, is_success=end.is_success, passes=start.passes + end.passes)


class _Nearest:
    """An objective that remembers, of all that it is shown of an image, the one of the target class with the least f_2.

    Args:
        objective: the one that it is.
        images: of the batch that is attacked.
    """

    def __init__(self, objective: DensityMargin, images: Images) -> None:
        self._objective = objective
        self._least = torch.full_like(images[:, 0, 0, 0], torch.inf)
        self.images = images.detach().clone()

    @property
    def is_found(self) -> Tensor:
        """Of each image, whether there was one of the target class."""
        return self._least < torch.inf

    def __call__(self, images: Images, rows: Int64[Tensor, " batch"]) -> Judgement:
        """Judge images."""
        margin, density = self._objective.shortfalls(images, rows)
        with torch.no_grad():
            is_nearer = (margin < 0) & (density < self._least[rows])
            self._least[rows[is_nearer]] = density[is_nearer].to(self._least)
            self.images[rows[is_nearer]] = images[is_nearer]
        return _judge(Shortfalls(margin, density))
