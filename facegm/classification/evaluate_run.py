"""The evaluation of a trained classifier, from its file and images to the report."""

from collections.abc import Sequence
from pathlib import Path

from facegm.classification.any_images import open_labelled
from facegm.classification.classifier import ImageClassifier, load_classifier
from facegm.classification.config import ImageDataConfig
from facegm.classification.data import open_images, open_left_out
from facegm.classification.evaluation import detect, evaluate, ood_scores
from facegm.classification.evaluation_report import EvaluationReport, OutsideResult, Scores
from facegm.classification.out_of_distribution import drawn_sets, named_sets
from facegm.classification.prediction import ImageSet, predict
from facegm.data.machine import cores
from facegm.errors import FacegmError
from facegm.losses.gm_module import GMLoss
from facegm.training.devices import default_device
from facegm.training.report import EVALUATION_BATCH

MOST_DRAWN = 10_000
"""Images of each set that is drawn, where there are as many test images."""


def evaluate_classifier(
    file: Path, trained_on: ImageDataConfig | None, *, data: Path | None = None, outside: Sequence[Path] = ()
) -> EvaluationReport:
    """Classify images of a classifier's classes, and see whether it notices images of none; on a GPU if there is one.

    Args:
        file: the exported classifier.
        trained_on: the images of its run, of which those to evaluate on are taken, and those of classes that were left
            out; None where they are not known.
        data: other images of its classes, in place of them; see `open_labelled`.
        outside: images of other classes, beside those that are drawn; see `open_unlabelled`.

    Raises:
        FacegmError: the classifier or images are missing or unusable, or no images are named.
    """
    device = default_device()
    classifier = load_classifier(file).to(device)
    d = classifier.description
    images = images_of_classes(classifier, trained_on, data)
    left_out = [] if trained_on is None or data is not None else _images_left_out(classifier, trained_on)
    outsiders = [
        *drawn_sets(d, min(len(images.samples), MOST_DRAWN)),
        *left_out,
        *named_sets(outside, d.side, d.resize),
    ]
    workers = min(ImageDataConfig.workers if trained_on is None else trained_on.workers, cores())

    means = classifier.loss.means.detach().cpu().numpy() if isinstance(classifier.loss, GMLoss) else None
    predictions = predict(classifier, images, batch_size=EVALUATION_BATCH, workers=workers, device=device)
    scores = ood_scores(predictions, means)
    results = []
    for one in outsiders:
        found = predict(classifier, one, batch_size=EVALUATION_BATCH, workers=workers, device=device)
        results.append(_outside_result(one.name, scores, ood_scores(found, means)))
    return EvaluationReport(
        facts=_facts(file, classifier, trained_on, data),
        classes=d.classes,
        evaluation=evaluate(predictions),
        images=images,
        predictions=predictions,
        scores=scores,
        outside=results,
    )


def images_of_classes(classifier: ImageClassifier, trained_on: ImageDataConfig | None, data: Path | None) -> ImageSet:
    """The images to classify: those of the run's test part, or others in their place.

    Args:
        classifier: what is to classify them.
        trained_on: the images of its run; None where they are not known.
        data: other images of its classes; see `open_labelled`.

    Raises:
        FacegmError: they are missing or unusable, or none are named.
    """
    d = classifier.description
    if data is not None:
        left_out = [] if trained_on is None else trained_on.leave_out
        return ImageSet(name="images", samples=open_labelled(data, d, left_out=left_out))
    if trained_on is None:
        raise FacegmError("which images to evaluate on is not known of a classifier alone; give --data FOLDER")
    test = open_images(trained_on, "test", classes=d.classes)
    return ImageSet(name="test images", samples=test.samples, crop=test.crop)


def _images_left_out(classifier: ImageClassifier, trained_on: ImageDataConfig) -> list[ImageSet]:
    """Those of classes that were left out of training, as a set or none."""
    others = open_left_out(trained_on, trained=classifier.description.classes)
    return [] if others is None else [ImageSet(name="classes left out", samples=others.samples, crop=others.crop)]


def _outside_result(name: str, of_classes: Scores, scores: Scores) -> OutsideResult:
    detections = {score: detect(of_classes[score], scores[score]) for score in of_classes}
    return OutsideResult(name=name, scores=scores, detections=detections)


def _facts(
    file: Path, classifier: ImageClassifier, trained_on: ImageDataConfig | None, data: Path | None
) -> dict[str, str]:
    left_out = [] if trained_on is None else trained_on.leave_out
    return {
        "classifier": str(file),
        **classifier.facts,
        "images": str(data if trained_on is None or data is not None else trained_on.folder),
        **({"classes left out of training": ", ".join(left_out)} if left_out else {}),
    }
