"""`facegm reproduce`: a table or figure of the paper, from runs to a page."""

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import whole_number
from facegm.reproduce.paper import EXPERIMENTS


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm reproduce",
        description="Make a table or figure of the paper again: train its networks, attack them where it is of "
        "attacks,\nand put the results beside the paper's. Finished cells are not done again, cells that were\n"
        "begun are gone on with, and several such commands, on several machines too, share one output folder.",
        formatter_class=RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name}: {experiment.title}" for name, experiment in EXPERIMENTS.items()),
        allow_abbrev=False,
    )
    options.add_argument("experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help=", ".join(EXPERIMENTS))
    options.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        help="folder of the sets: mnist, cifar10, cifar100, imagenet; for fig4 casia, a store, and lfw (default: data)",
    )
    options.add_argument(
        "--output", type=Path, default=Path("reproduced"), help="folder of cells and results (default: reproduced)"
    )
    options.add_argument(
        "--config",
        help="configuration in place of the shipped one, such as celeba291.yaml for fig4; its data lie where it says",
    )
    options.add_argument(
        "--budget", help="time for all training, such as 10m or 2h, or epochs of each network, such as 30epochs"
    )
    options.add_argument(
        "--images",
        type=whole_number(minimum=1),
        help="test images that are attacked, less those that are classified wrong (default: 1000)",
    )
    options.add_argument(
        "--attack-iterations",
        type=whole_number(minimum=1),
        help="iterations of each try of an attack, at most (default: as the paper's, and 1000 for C&W)",
    )
    options.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="TEXT",
        help="do only cells with this text in their title, such as 'seed 0' or 'GM alpha=0,'; of several, with all",
    )
    options.add_argument(
        "--array", type=_part, default=(1, 1), metavar="I/N", help="do the I-th of N parts of the cells, for job arrays"
    )
    options.add_argument(
        "--jobs", type=whole_number(minimum=1), help="cells side by side (default: one a GPU, or else one a core)"
    )
    options.add_argument(
        "--download",
        action="store_true",
        help="have torchvision fetch MNIST or CIFAR before, into the sets' folder",
    )
    options.add_argument("--dry-run", action="store_true", help="list the cells and how long they would take; do none")
    return options


def run(arguments: Sequence[str]) -> None:
    """Do the cells, and show the results."""
    given = parser().parse_args(arguments)
    import torch

    from facegm.classification.download import download
    from facegm.config import find_config
    from facegm.data.machine import cores
    from facegm.reproduce.budget import Budget
    from facegm.reproduce.reproduction import Options, Reproduction

    gpus = torch.cuda.device_count()
    reproduction = Reproduction(
        Options(
            name=given.experiment,
            data=given.data,
            output=given.output,
            config=None if given.config is None else find_config(given.config),
            budget=None if given.budget is None else Budget.parse(given.budget),
            filters=given.filter,
            images=given.images,
            iterations=given.attack_iterations,
            part=given.array,
            jobs=given.jobs or gpus or cores(),
            gpus=gpus,
            is_dry=given.dry_run,
        )
    )
    if given.dry_run:
        print(reproduction.plan())
        return
    for config in reproduction.image_configs() if given.download else ():
        if config.data.set != "folder":
            download(config.data.set, config.data.folder)
    reproduction.run()


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
        raise ArgumentTypeError(f"{text}, must be such as 1/4: the first of four parts")
    return int(number), int(count)
