"""`facegm evaluate`: a trained classifier and images to a report."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.classifier_run import find_classifier


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm evaluate",
        description="Evaluate a classifier of images: accuracy, calibration, confusions, and whether it notices images "
        "of none of its classes (out-of-distribution detection, OOD).",
        allow_abbrev=False,
    )
    options.add_argument("run", type=Path, help="run folder, or a classifier.safetensors with --data")
    options.add_argument(
        "--data",
        type=Path,
        help="images of the classes in place of the run's test images: a folder class/photo.jpg, or one with files "
        "like MNIST's or CIFAR's",
    )
    options.add_argument(
        "--outside",
        type=Path,
        action="append",
        default=[],
        help="images of other classes, out of distribution, to be told from those: a folder of photos, a list, or a "
        "folder with files like MNIST's or CIFAR's; may be given several times",
    )
    options.add_argument(
        "--best", action="store_true", help="the weights of the best validated epoch in place of the last one's"
    )
    options.add_argument(
        "--output", type=Path, help="folder of the report (default: evaluation, or evaluation-best, beside the weights)"
    )
    return options


def run(arguments: Sequence[str]) -> None:
    """Evaluate, write the report and print its summary."""
    options = parser().parse_args(arguments)
    file, trained_on = find_classifier(options.run, is_best=options.best)
    from facegm.classification.evaluate_run import evaluate_classifier
    from facegm.classification.evaluation_report import PAGE_FILE, write_report

    report = evaluate_classifier(file, trained_on, data=options.data, outside=options.outside)
    output = options.output or file.parent / ("evaluation-best" if options.best else "evaluation")
    write_report(output, report)
    print(report.summary())
    print(f"report: {output / PAGE_FILE}")
