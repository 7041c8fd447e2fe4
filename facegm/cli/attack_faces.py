"""`facegm attack` of a face network's run: photos of verification pairs to attacked photos and a report."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import real_number, whole_number
from facegm.config import parse_config
from facegm.faces.config import FaceRunConfig
from facegm.training.run_folder import CONFIG_FILE


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm attack",
        description="Attack a face network: change photos by little so that they pass for somebody else's "
        "(impersonation), or are not known again (dodging), and see whether detectors notice. Run again after an "
        "interruption, it goes on where it stopped.",
        allow_abbrev=False,
    )
    options.add_argument("run", type=Path, help="run folder of a face network")
    options.add_argument(
        "--lfw",
        type=Path,
        required=True,
        help="store that `facegm align --on-missing center-crop` made of LFW's photos, or of a set laid out like it",
    )
    options.add_argument(
        "--pairs", type=Path, help="protocol file (default: pairs.txt in the store or in the one above)"
    )
    options.add_argument(
        "--images",
        type=whole_number(minimum=2),
        default=500,
        metavar="N",
        help="photos to attack, half of them to impersonate, half to dodge (default: %(default)s)",
    )
    options.add_argument(
        "--pca", action="store_true", help="compare by the protocol's PCA to 64 dimensions, in place of embeddings"
    )
    options.add_argument(
        "--false-accept-rate",
        type=real_number("above 0 and below 1", lambda rate: 0 < rate < 1),
        metavar="RATE",
        help="of the threshold (default: the threshold of highest accuracy); both are chosen on the other folds",
    )
    options.add_argument(
        "--outside",
        type=Path,
        action="append",
        default=[],
        help="inputs that are no faces, for the detectors: a folder of photos, a list, or a folder with files like "
        "MNIST's or CIFAR's; may be given several times",
    )
    options.add_argument("--output", type=Path, help="folder of the results (default: attack in the run folder)")
    return options


def run(arguments: Sequence[str]) -> None:
    """Attack, write the report and print its summary."""
    options = parser().parse_args(arguments)
    from facegm.adversarial.attack_report import PAGE_FILE
    from facegm.adversarial.face_attack import attack_faces
    from facegm.adversarial.face_attack_report import summary, write_report
    from facegm.eval.scores import NO_PCA, PCA_64

    output = options.output or options.run / "attack"
    report = attack_faces(
        options.run,
        parse_config(options.run / CONFIG_FILE, FaceRunConfig),
        options.lfw,
        output,
        pairs_file=options.pairs,
        images=options.images,
        variant=PCA_64 if options.pca else NO_PCA,
        false_accept_rate=options.false_accept_rate,
        outside=options.outside,
    )
    write_report(output, report)
    print(summary(report))
    print(f"report: {output / PAGE_FILE}")
