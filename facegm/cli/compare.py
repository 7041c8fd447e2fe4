"""`facegm compare`: verified runs to the claims about their recipes that seeds, pairs and people carry."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import real_number
from facegm.errors import UsageError


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm compare",
        description="Compare training recipes by verified runs, with seeds as replicates: difference in accuracy with "
        "its interval, p with Holm's correction over all tests made, and how many seeds a difference needs. Two single "
        "runs are compared as networks, by McNemar's exact test.",
        allow_abbrev=False,
    )
    options.add_argument(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="run folder, whose lfw/report.json is read, or a report.json of any set; runs whose configurations differ "
        "in the seed alone are one group",
    )
    options.add_argument(
        "--group",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME RUN",
        help="in place of RUN: a group by its name and its runs, such as reports of embeddings; may be given several "
        "times",
    )
    options.add_argument(
        "--score",
        metavar="NAME",
        help="the one score to compare by (default: all that the reports share, as one family)",
    )
    options.add_argument(
        "--difference",
        type=real_number("above 0, at most 100", lambda points: 0 < points <= 100),
        default=0.5,
        metavar="POINTS",
        help="difference in accuracy, in points, to say the seeds for (default: %(default)s)",
    )
    options.add_argument("--output", type=Path, help="folder for comparison.json and comparison.csv (default: none)")
    return options


def run(arguments: Sequence[str]) -> None:
    """Compare, print the table and write the files that are asked for."""
    options = parser().parse_args(arguments)
    if bool(options.runs) == bool(options.group):
        raise UsageError("give run folders or reports, or else groups of them by --group NAME RUN...")
    from facegm.cli.run_groups import groups_by_configuration, groups_by_hand
    from facegm.eval.comparison import compare
    from facegm.eval.comparison_report import NUMBERS_FILE, comparison_text, write_comparison

    groups = groups_by_hand(options.group) if options.group else groups_by_configuration(options.runs)
    comparison = compare(groups, score=options.score)
    wanted = options.difference / 100
    print(comparison_text(comparison, wanted=wanted))
    if options.output is not None:
        write_comparison(options.output, comparison, wanted=wanted)
        print(f"\nnumbers: {options.output / NUMBERS_FILE}")
