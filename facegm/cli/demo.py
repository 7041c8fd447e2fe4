"""`facegm demo`: the whole road on synthetic identities."""

import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import whole_number


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm demo",
        description="Draw photos of synthetic identities from public-domain portraits, align them, train a small "
        "ResNet-27 with the GM loss, and verify identities kept out of training. Needs no data and no network.",
        allow_abbrev=False,
    )
    options.add_argument("--output", type=Path, default=Path("facegm-demo"), help="folder for all of it (%(default)s)")
    options.add_argument(
        "--seed", type=whole_number(minimum=0), default=0, help="another seed, other people (%(default)s)"
    )
    return options


def run(arguments: Sequence[str]) -> None:
    """Walk the road, and print the report's summary and how to try the model."""
    options = parser().parse_args(arguments)
    from facegm.demo.road import HELD_OUT, RUN, walk

    folder = options.output / f"seed-{options.seed}"
    report, file = walk(folder, seed=options.seed)
    print(report.summary())
    print(f"report: {file}")
    program = sys.argv[0] if Path(sys.argv[0]).stem == "facegm" else "facegm"
    serve = shlex.join([program, "serve", str(folder / RUN), "--gallery", str(folder / "people.gallery")])
    print(f"try the model on a page: {serve}")
    print(f"then open http://127.0.0.1:8000/ and drop two photos there, such as those in {folder / HELD_OUT}")
