"""Images that look manipulated to a trained classifier, from its file and the images to the report."""

from pathlib import Path

import numpy as np

from facegm.adversarial.detect_report import DetectReport
from facegm.adversarial.detection import threshold_at
from facegm.adversarial.fitted import FittedDetectors
from facegm.adversarial.trained import TrainedClassifier
from facegm.classification.config import ImageDataConfig
from facegm.classification.evaluate_run import images_of_classes
from facegm.classification.out_of_distribution import named_sets
from facegm.errors import UsageError


def detect_manipulated(
    file: Path,
    trained_on: ImageDataConfig | None,
    images: Path,
    *,
    detector: str | None = None,
    rate: float = 0.05,
    data: Path | None = None,
) -> DetectReport:
    """Score images by a detector whose threshold follows from its false alarms on clean ones; on a GPU if there is one.

    Args:
        file: the exported classifier.
        trained_on: the images of its run: to fit on, and to choose the threshold by; None where they are not known.
        images: those to look at; see `open_unlabelled`.
        detector: its name, or the file of a fitted one; None for the usual one of such a classifier.
        rate: the most of the clean images that may be taken for manipulated, from 0 to below 1.
        data: clean images of its classes to choose the threshold by, in place of the run's test images.

    Raises:
        FacegmError: the classifier, images or the detector are missing or unusable.
        UsageError: no detector is named, and none is usual.
    """
    trained = TrainedClassifier.load(file, trained_on)
    clean, fitted = images_of_classes(trained.classifier, trained_on, data), FittedDetectors(trained)
    d = trained.classifier.description
    (looked_at,) = named_sets([images], d.side, d.resize)
    chosen = [detector] if detector else fitted.usual[:1]
    if not chosen:
        raise UsageError("--detector: which one is not known of a classifier alone; name the file of a fitted one")
    ((name, judge),) = fitted.named(chosen).items()
    scores_of_clean = judge.score_samples(trained.observe(clean))
    observed = trained.observe(looked_at)
    return DetectReport(
        facts={
            **trained.facts,
            "detector": name,
            "clean images": f"{len(clean.samples):,} {clean.name}",
            "images": str(images),
        },
        classes=d.classes,
        detector=judge.name,
        clean=scores_of_clean,
        rate=rate,
        threshold=threshold_at(scores_of_clean, rate),
        images=looked_at,
        predicted=np.asarray(observed.predicted.numpy()),
        scores=judge.score_samples(observed),
    )
