"""LID: local intrinsic dimensionality in every layer tells an attack from clean and noisy images (Ma et al. 2018)."""

from jaxtyping import Float64
from torch import Tensor

from facegm.adversarial.detectors.regression import RegressionDetector
from facegm.adversarial.observations import Observations
from facegm.errors import FacegmError


class LID(RegressionDetector):
    """A logistic regression on the intrinsic dimensions of an image, which are brought to a scale of 0 to 1."""

    name = "lid"

    def _columns(self, observed: Observations) -> Float64[Tensor, "images layers"]:
        if observed.intrinsic_dimensions is None:
            raise FacegmError("lid: no intrinsic dimensions were observed; give `observe` a reference of clean images")
        return observed.intrinsic_dimensions

    def _shift_and_scale(self, columns: Float64[Tensor, "images layers"]) -> tuple[Tensor, Tensor]:
        least = columns.amin(dim=0)
        return least, columns.amax(dim=0) - least
