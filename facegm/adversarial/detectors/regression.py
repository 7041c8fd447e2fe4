"""Detectors that are shown an attack: a logistic regression on a few numbers an image."""

import warnings
from abc import abstractmethod
from typing import TypeVar

import torch
from jaxtyping import Float64
from sklearn.linear_model import LogisticRegressionCV
from torch import Tensor

from facegm.adversarial.detectors.base import SupervisedDetector, check_features
from facegm.adversarial.observations import Observations
from facegm.errors import FacegmError

FOLDS = 5
"""Of the cross-validation that chooses the strength of the regularisation, the share of right answers deciding."""
RegressionT = TypeVar("RegressionT", bound="RegressionDetector")


class RegressionDetector(SupervisedDetector):
    """-(w^T z + b), the log-odds of being normal: z are numbers of an image, each shifted and scaled.

    Clean and noisy images are the normal ones.
    """

    shift_: Float64[Tensor, " columns"]
    scale_: Float64[Tensor, " columns"]
    """z = (column - shift) / scale."""
    weights_: Float64[Tensor, " columns"]
    bias_: Float64[Tensor, ""]

    @abstractmethod
    def _columns(self, observed: Observations) -> Float64[Tensor, "images columns"]:
        """The numbers of each image."""

    @abstractmethod
    def _shift_and_scale(self, columns: Float64[Tensor, "images columns"]) -> tuple[Tensor, Tensor]:
        """By what each column is shifted, and then divided, given those of all images that are fitted to."""

    def fit(self: RegressionT, clean: Observations, *, noisy: Observations, adversarial: Observations) -> RegressionT:
        """Fit to images in three states; see `SupervisedDetector`."""
        for observed in (clean, noisy, adversarial):
            check_features(observed)
        normal = torch.cat([self._columns(clean), self._columns(noisy)])
        attacked = self._columns(adversarial)
        if min(len(normal), len(attacked)) < FOLDS:
            raise FacegmError(
                f"{self.name}: {len(normal)} normal images and {len(attacked)} adversarial ones; needs {FOLDS} of each"
            )
        columns = torch.cat([normal, attacked])
        self.shift_, scale = self._shift_and_scale(columns)
        self.scale_ = torch.where(scale > 0, scale, 1.0)  # a column that says nothing
        is_adversarial = torch.arange(len(columns)) >= len(normal)
        regression = LogisticRegressionCV(cv=FOLDS, scoring="accuracy", max_iter=1_000)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # scikit-learn 1.8's, of arguments that older ones do not know
            regression.fit(((columns - self.shift_) / self.scale_).numpy(), is_adversarial.numpy())
        self.weights_ = torch.from_numpy(regression.coef_[0].astype("float64"))
        self.bias_ = torch.tensor(float(regression.intercept_[0]), dtype=torch.float64)
        return self

    def _score(self, observed: Observations) -> Float64[Tensor, " images"]:
        columns = self._columns(observed).to(self.shift_.device)
        if columns.shape[1] != len(self.shift_):
            raise FacegmError(
                f"{self.name}: {columns.shape[1]} numbers an image, and {len(self.shift_)} where it was fitted; it is "
                "another network's"
            )
        return -((columns - self.shift_) / self.scale_ @ self.weights_ + self.bias_)
