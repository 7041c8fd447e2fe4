"""`facegm attack`: a trained classifier, or face network, and images to attacked images and a report."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.adversarial.recipe import ATTACKS
from facegm.cli import attack_faces
from facegm.cli.classifier_run import find_classifier, is_face_run
from facegm.cli.options import real_number, whole_number

DEFAULT_ATTACKS = ("fgsm", "pgd", "ddn")


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm attack",
        description="Attack a classifier: change images by little so that it takes them for another class, and see "
        "whether detectors notice. Run again after an interruption, it goes on where it stopped.",
        epilog="A face network is attacked by other options: `facegm attack FACE_RUN --help` shows them.",
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
        "--attack",
        choices=ATTACKS,
        action="append",
        metavar="NAME",
        help=f"{', '.join(ATTACKS)}; may be given several times (default: {', '.join(DEFAULT_ATTACKS)})",
    )
    options.add_argument(
        "--detector",
        action="append",
        default=[],
        metavar="NAME",
        help="k-density, gm-likelihood, mahalanobis, i-defender, or the file of a fitted one; may be given several "
        "times; the first one is attacked by cw-wb, joint and orthogonal (default: gm-likelihood with the GM loss, and "
        "k-density)",
    )
    options.add_argument(
        "--images",
        type=whole_number(minimum=1),
        default=200,
        metavar="N",
        help="images drawn, of which those that are classified right are attacked (default: %(default)s)",
    )
    options.add_argument(
        "--epsilon",
        type=real_number("above 0, at most 1", lambda bound: 0 < bound <= 1),
        help="the most that a pixel changes, of a range of 1 (default: 0.1); steps change in proportion",
    )
    options.add_argument(
        "--iterations", type=whole_number(minimum=1), help="in place of each attack's own; fgsm always takes one"
    )
    options.add_argument(
        "--untargeted", action="store_true", help="any other class will do, in place of one drawn for each image"
    )
    options.add_argument(
        "--seed", type=whole_number(minimum=0), default=0, help="another seed, other images and targets (default: 0)"
    )
    options.add_argument("--output", type=Path, help="folder of the results (default: attack, beside the weights)")
    return options


def run(arguments: Sequence[str]) -> None:
    """Attack, write images and report, and print its summary."""
    if any(is_face_run(Path(argument)) for argument in arguments):
        attack_faces.run(arguments)
        return
    options = parser().parse_args(arguments)
    file, trained_on = find_classifier(options.run)
    from facegm.adversarial.attack_report import PAGE_FILE, write_report
    from facegm.adversarial.attack_run import AttackOptions, attack_classifier

    asked = AttackOptions(
        attacks=list(dict.fromkeys(options.attack or DEFAULT_ATTACKS)),
        detectors=options.detector,
        images=options.images,
        epsilon=options.epsilon,
        iterations=options.iterations,
        is_untargeted=options.untargeted,
        seed=options.seed,
    )
    output = options.output or file.parent / "attack"
    report = attack_classifier(file, trained_on, output, asked, data=options.data)
    write_report(output, report)
    print(report.summary())
    print(f"report: {output / PAGE_FILE}")
