"""How good a classifier's predictions are, and how well it detects what is out of distribution: numbers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from scipy.special import logsumexp
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, roc_auc_score, top_k_accuracy_score

BINS = 15
"""Of equal width, for the calibration error, as Guo et al. 2017 take them."""
DETECTED = 0.95
"""Share of the images of the classes that the threshold of `Detection.false_alarm_rate` lets in."""
LIKELIHOOD, POSTERIOR, ENERGY = "log-likelihood", "largest posterior", "energy score"
"""What `ood_scores` tells of each image."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier makes of images."""

    features: Float[np.ndarray, "images dim"]
    """What its network gives."""
    logits: Float[np.ndarray, "images classes"]
    """Without margin, up to a constant an image."""
    labels: Int64[np.ndarray, " images"]
    """The true classes, 0 to classes - 1."""

    @cached_property
    def predicted(self) -> Int64[np.ndarray, " images"]:
        """The class of the largest logit."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    @cached_property
    def max_log_posterior(self) -> Float[np.ndarray, " images"]:
        """Logarithm of the largest posterior, which tells images apart whose posteriors round to 1."""
        logits = np.sort(self.logits.astype(np.float64), axis=1)
        return np.asarray(-np.log1p(np.exp(logits[:, :-1] - logits[:, -1:]).sum(axis=1)))


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images of which the largest posterior lies between two bounds."""

    above: float
    up_to: float
    images: int
    posterior: float | None
    """Their mean largest posterior; None where there are no images."""
    accuracy: float | None
    """Share of them that is classified right."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """How good predictions are; rates from 0 to 1."""

    images: int
    right: int
    """Images whose class has the largest logit."""
    interval: tuple[float, float]
    """Exact (Clopper-Pearson) 95 % interval of the accuracy, for the chance in the images, not that in training."""
    top5: float | None
    """Share of images whose class is among the five likeliest; None where there are no more than five classes."""
    cross_entropy: float
    """Mean of -log of the true class's posterior, without margin."""
    calibration_error: float
    """Expected calibration error: mean of |accuracy - posterior| over `bins`, weighted by their images."""
    bins: tuple[Bin, ...]
    confusion: Int64[np.ndarray, "classes classes"]
    """Images by their true class (row) and the predicted one (column)."""

    @property
    def accuracy(self) -> float:
        """Share of images that are classified right."""
        return self.right / self.images


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Out-of-distribution detection: how well a score, higher for images of the classes, tells them from others."""

    area: float
    """Under the ROC curve: the chance that an image of the classes scores higher than another, a tie counting half."""
    threshold: float
    """Highest score that 95 % of the images of the classes reach."""
    false_alarm_rate: float
    """Share of the others that reach it too (FPR95)."""


def evaluate(predictions: Predictions) -> Evaluation:
    """Compare predictions with the true classes.

    Args:
        predictions: of one image at least, of two classes at least.
    """
    labels, logits = predictions.labels, predictions.logits.astype(np.float64)
    images, classes = logits.shape
    right = predictions.predicted == labels
    posterior = np.exp(predictions.max_log_posterior)
    bins = _reliability(posterior, right)
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    interval = binomtest(int(right.sum()), images).proportion_ci(method="exact")
    return Evaluation(
        images=images,
        right=int(right.sum()),
        interval=(float(interval.low), float(interval.high)),
        top5=float(top_k_accuracy_score(labels, logits, k=5, labels=np.arange(classes))) if classes > 5 else None,
        cross_entropy=float((logsumexp(logits, axis=1) - own).mean()),
        calibration_error=sum(
            one.images / images * abs(one.accuracy - one.posterior)
            for one in bins
            if one.accuracy is not None and one.posterior is not None
        ),
        bins=bins,
        confusion=confusion_matrix(labels, predictions.predicted, labels=np.arange(classes)).astype(np.int64),
    )


def _reliability(posterior: Float[np.ndarray, " images"], right: np.ndarray) -> tuple[Bin, ...]:
    number = np.clip(np.ceil(posterior * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = []
    for bin_number in range(BINS):
        inside = number == bin_number
        images = int(inside.sum())
        bins.append(
            Bin(
                above=bin_number / BINS,
                up_to=(bin_number + 1) / BINS,
                images=images,
                posterior=float(posterior[inside].mean()) if images else None,
                accuracy=float(right[inside].mean()) if images else None,
            )
        )
    return tuple(bins)


def gm_log_likelihood(
    features: Float[np.ndarray, "images dim"], means: Float[np.ndarray, "classes dim"]
) -> Float[np.ndarray, " images"]:
    """Log-likelihood under the mixture of the GM loss: Gaussians of identity covariance, all of the same weight.

    log p(x) = log sum_k exp(-||x - mu_k||^2 / 2) - log K - dim / 2 log(2 pi), in float64.
    """
    classes, dim = means.shape
    mu = means.astype(np.float64)
    x, mu = features.astype(np.float64) - mu.mean(axis=0), mu - mu.mean(axis=0)
    squared_distances = np.square(x).sum(axis=1)[:, None] - 2 * x @ mu.T + np.square(mu).sum(axis=1)
    constant = np.log(classes) + dim / 2 * np.log(2 * np.pi)
    return np.asarray(logsumexp(-0.5 * squared_distances, axis=1) - constant)


def ood_scores(
    predictions: Predictions, means: Float[np.ndarray, "classes dim"] | None
) -> Mapping[str, Float[np.ndarray, " images"]]:
    """Scores for out-of-distribution (OOD) detection, by name; higher for images of the classes.

    First, with the GM loss, the log-likelihood of the feature, and with others the energy score of Liu et al. 2020,
    the log-sum-exp of the logits; of the logits -||x - mu_k||^2 / 2 of the GM loss it is the log-likelihood too, up to
    a constant. Second, the largest posterior (Hendrycks and Gimpel 2017), as its logarithm.

    Args:
        predictions: of the images.
        means: of the GM loss's classes; None for other losses.
    """
    if means is not None:
        score = {LIKELIHOOD: gm_log_likelihood(predictions.features, means)}
    else:
        score = {ENERGY: np.asarray(logsumexp(predictions.logits.astype(np.float64), axis=1))}
    return score | {POSTERIOR: predictions.max_log_posterior}


def detect(inside: Float[np.ndarray, " images"], outside: Float[np.ndarray, " others"]) -> Detection:
    """Tell images of the classes from others by a score.

    Args:
        inside: scores of images of the classes, one at least.
        outside: scores of the others, one at least.
    """
    is_inside = np.repeat([True, False], [len(inside), len(outside)])
    threshold = np.sort(inside)[::-1][int(np.ceil(DETECTED * len(inside))) - 1]
    return Detection(
        area=float(roc_auc_score(is_inside, np.concatenate([inside, outside]))),
        threshold=float(threshold),
        false_alarm_rate=float((outside >= threshold).mean()),
    )


class Histograms(NamedTuple):
    """How a score is distributed in several sets, by common bins."""

    edges: Float[np.ndarray, " edges"]
    """Of the bins; the outermost two also count what lies beyond."""
    counts: tuple[Int64[np.ndarray, " bins"], ...]
    """Images of each set."""


def histograms(inside: Float[np.ndarray, " images"], others: Sequence[np.ndarray], *, bins: int = 60) -> Histograms:
    """Count scores in bins that show the images of the classes, however far others lie.

    The bins reach from the 1st to the 99th percentile of the former and on both sides further by twice that range, or
    by as much as there are scores.

    Args:
        inside: scores of images of the classes.
        others: scores of other sets.
        bins: how many.
    """
    low, high = np.percentile(inside, [1, 99])
    reach = 2 * (high - low) or 1.0
    everything = np.concatenate([inside, *others])
    edges = np.linspace(max(low - reach, everything.min()), min(high + reach, everything.max()) + 1e-9, bins + 1)
    counts = [np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0] for scores in (inside, *others)]
    return Histograms(edges, tuple(counts))
