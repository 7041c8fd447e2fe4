"""K-density: how dense the training features of the predicted class lie around a feature (Feinman et al. 2017)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from facegm.adversarial.detectors.base import (
    ClassDensity,
    UnsupervisedDetector,
    check_sizes,
    features_by_class,
    features_like,
    under_classes,
)
from facegm.adversarial.detectors.kernels import GaussianKernels, likeliest_bandwidth
from facegm.adversarial.observations import Observations
from facegm.errors import UsageError


class KDensity(UnsupervisedDetector):
    """Log of the mean of Gaussian kernels around the training features of a class.

    Kernels are centered at features by their true label; an input is scored with the class that is predicted for it.
    The score lacks the constant of the dimension, which is the same for all.

    Args:
        bandwidth: standard deviation of the kernels; None for that by which held-out training features are likeliest.
    """

    name = "k-density"
    centers_: Float64[Tensor, "centers dim"]
    """Training features, class after class."""
    sizes_: Int64[Tensor, " classes"]
    """How many each class has."""
    bandwidth_: Float64[Tensor, ""]
    """That of the kernels."""

    def __init__(self, bandwidth: float | None = None) -> None:
        self.bandwidth = bandwidth
        self._kernels: list[GaussianKernels] = []

    def fit(self, clean: Observations) -> "KDensity":
        """Keep the features, and choose a bandwidth where none is given."""
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise UsageError(f"bandwidth: {self.bandwidth}, must be above 0, or None")
        classes = features_by_class(clean)
        bandwidth = likeliest_bandwidth(classes) if self.bandwidth is None else self.bandwidth
        self._keep(classes, torch.tensor(bandwidth, dtype=torch.float64))
        return self

    def to(self, device: torch.device) -> "KDensity":
        """Bring features and kernels to a device."""
        super().to(device)
        self._kernels = [kernels.to(device) for kernels in self._kernels]
        return self

    def settings(self) -> dict[str, float | None]:
        """Arguments of the constructor."""
        return {"bandwidth": self.bandwidth}

    def log_density(
        self, features: Float[Tensor, "batch dim"], classes: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Log of the mean of exp(-||z - z_i||^2 / (2 h^2)) over the z_i of a class, for each feature z.

        Differentiable, in the features' precision; a `ClassDensity`.

        Args:
            features: on the detector's device.
            classes: under which of them each is looked at.
        """
        return under_classes(features, classes, lambda some, number: self._kernels[number].log_mean(some))

    def subset(self, per_class: int, seed: int) -> ClassDensity:
        """The density by some centers of each class alone, as an attack takes it (Carlini and Wagner 2017).

        Args:
            per_class: how many at most, drawn once.
            seed: what draws them.
        """
        generator = torch.Generator().manual_seed(seed)
        fewer = KDensity(self.bandwidth)
        drawn = [torch.randperm(len(own), generator=generator)[:per_class] for own in self._centers()]
        fewer._keep(
            [own[some.to(own.device)] for own, some in zip(self._centers(), drawn, strict=True)], self.bandwidth_
        )
        return fewer.log_density

    def _score(self, observed: Observations) -> Float64[Tensor, " images"]:
        features = features_like(observed, self.centers_)
        return self.log_density(features, observed.predicted.to(features.device))

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        super()._restore(state)
        check_sizes(self.sizes_, self.centers_)
        if not self.bandwidth_ > 0:
            raise ValueError(f"bandwidth {self.bandwidth_}")
        bandwidth = self.bandwidth_.item()
        self._kernels = [GaussianKernels.around(own, bandwidth) for own in self._centers()]

    def _keep(self, classes: list[Tensor], bandwidth: Tensor) -> None:
        sizes = torch.tensor([len(own) for own in classes])
        self._restore({"centers_": torch.cat(classes), "sizes_": sizes, "bandwidth_": bandwidth})

    def _centers(self) -> tuple[Tensor, ...]:
        centers: tuple[Tensor, ...] = self.centers_.split(self.sizes_.tolist())
        return centers
