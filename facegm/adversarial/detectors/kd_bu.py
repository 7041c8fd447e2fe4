"""KD+BU: K-density and the uncertainty by dropout together tell an attack (Feinman et al. 2017)."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.regression import RegressionDetector
from facegm.adversarial.observations import Observations
from facegm.errors import FacegmError

_PREFIX = "density."


class KDBU(RegressionDetector):
    """A logistic regression on log K-density and uncertainty, each less its mean and over its deviation.

    Of images of a test set four fifths are fitted to and the last fifth is scored, in blocks, which the caller makes:
    Feinman et al. scored those that they had fitted to.

    Args:
        density: fitted to training images.
    """

    name = "kd-bu"

    def __init__(self, density: KDensity) -> None:
        self.density = density

    def settings(self) -> dict[str, Any]:
        """Those of the density."""
        return self.density.settings()

    def state(self) -> dict[str, Tensor]:
        """What it and the density know."""
        return super().state() | {_PREFIX + name: tensor for name, tensor in self.density.state().items()}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> "KDBU":
        """A fitted detector, with its density."""
        of_density = {name.removeprefix(_PREFIX): state[name] for name in state if name.startswith(_PREFIX)}
        detector = cls(KDensity.from_state(settings, of_density))
        detector._restore({name: tensor for name, tensor in state.items() if not name.startswith(_PREFIX)})
        return detector

    def to(self, device: torch.device) -> "KDBU":
        """Bring it and the density to a device."""
        self.density.to(device)
        for name in self.tensors():
            setattr(self, name, getattr(self, name).to(device))
        return self

    def _columns(self, observed: Observations) -> Float64[Tensor, "images 2"]:
        if observed.uncertainty is None:
            raise FacegmError("kd-bu: no uncertainty was observed; call `observe` with with_uncertainty=True")
        return torch.stack([torch.from_numpy(self.density.score_samples(observed)), observed.uncertainty], dim=1)

    def _shift_and_scale(self, columns: Float64[Tensor, "images 2"]) -> tuple[Tensor, Tensor]:
        return columns.mean(dim=0), columns.std(dim=0, correction=0)
