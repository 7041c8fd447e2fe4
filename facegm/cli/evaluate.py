"""`facegm evaluate`: a trained classifier and images to a report."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.classification.config import ImageDataConfig, ImageRunConfig
from facegm.config import parse_config, task_of
from facegm.errors import FacegmError, UsageError
from facegm.training.run_folder import CONFIG_FILE


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
    file, trained_on = _find(options.run, is_best=options.best)
    from facegm.classification.evaluate_run import evaluate_classifier
    from facegm.classification.evaluation_report import PAGE_FILE, write_report

    report = evaluate_classifier(file, trained_on, data=options.data, outside=options.outside)
    output = options.output or file.parent / ("evaluation-best" if options.best else "evaluation")
    write_report(output, report)
    print(report.summary())
    print(f"report: {output / PAGE_FILE}")


def _find(run: Path, *, is_best: bool) -> tuple[Path, ImageDataConfig | None]:
    """The classifier's file, and what images it was trained on where its run says so.

    Raises:
        FacegmError: it is no classifier's run, or one that has not come to these weights.
    """
    from facegm.classification.classifier import BEST_FILE, MODEL_FILE

    if not run.is_dir():
        if is_best:
            raise UsageError(f"--best: takes a run folder, not a file; name its {BEST_FILE} itself")
        return run, None
    config_file = run / CONFIG_FILE
    if not config_file.is_file():
        raise FacegmError(f"{run}: not a run folder (no {CONFIG_FILE}); `facegm train` makes one")
    if task_of(config_file) is None:
        raise FacegmError(f"{run}: the run of a face network, which `facegm verify-lfw {run}` evaluates")
    config = parse_config(config_file, ImageRunConfig)
    file = run / (BEST_FILE if is_best else MODEL_FILE)
    if not file.is_file():
        raise FacegmError(
            f"{file}: not there yet: the run has not ended; go on with it by `facegm train --resume {run}`"
            + (f", or evaluate --best, which {BEST_FILE} is" if (run / BEST_FILE).is_file() else "")
        )
    return file, config.data
