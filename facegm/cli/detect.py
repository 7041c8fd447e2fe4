"""`facegm detect`: a trained classifier and images to the ones that look manipulated."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.classifier_run import find_classifier
from facegm.cli.options import real_number


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm detect",
        description="Tell which images of a folder look manipulated to a classifier, by a detector that knows its "
        "training images, at a rate of false alarms measured on its test images. An attacker who knows the detector "
        "can pass it: no robustness is claimed.",
        allow_abbrev=False,
    )
    options.add_argument("run", type=Path, help="run folder of a classifier")
    options.add_argument(
        "images", type=Path, help="a folder of photos, a list, or a folder with files like MNIST's or CIFAR's"
    )
    options.add_argument(
        "--detector",
        metavar="NAME",
        help="k-density, gm-likelihood, mahalanobis, i-defender, or the file of a fitted one (default: gm-likelihood "
        "with the GM loss, else k-density)",
    )
    options.add_argument(
        "--false-alarms",
        type=real_number("from 0 to below 1", lambda rate: 0 <= rate < 1),
        default=0.05,
        metavar="SHARE",
        help="the most clean test images that may be taken for manipulated (default: %(default)s)",
    )
    options.add_argument(
        "--data",
        type=Path,
        help="clean images to choose the threshold by, in place of the run's test images: a folder class/photo.jpg, or "
        "one with files like MNIST's or CIFAR's",
    )
    options.add_argument("--output", type=Path, help="folder of the report (default: detect, beside the weights)")
    return options


def run(arguments: Sequence[str]) -> None:
    """Look at the images, write the report and print its summary."""
    options = parser().parse_args(arguments)
    file, trained_on = find_classifier(options.run)
    from facegm.adversarial.detect_report import PAGE_FILE, write_report
    from facegm.adversarial.detect_run import detect_manipulated

    report = detect_manipulated(
        file, trained_on, options.images, detector=options.detector, rate=options.false_alarms, data=options.data
    )
    output = options.output or file.parent / "detect"
    write_report(output, report)
    print(report.summary())
    print(f"report: {output / PAGE_FILE}")
