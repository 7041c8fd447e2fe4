"""`facegm align`: photos to a store of aligned faces."""

from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import add_workers
from facegm.data.names import printable


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm align",
        description="Find the largest central face of each photo, warp it to 128x128 pixels by five landmarks, and "
        "record every photo in the store's manifest. Run again after an interruption, it goes on where it stopped.",
        allow_abbrev=False,
    )
    options.add_argument(
        "input",
        type=Path,
        help="folder tree identity/photo.jpg, or a list file: a path a line, then a tab and the identity",
    )
    options.add_argument("--output", type=Path, required=True, help="the store: a folder that is made, or gone on with")
    options.add_argument(
        "--on-missing",
        choices=("skip", "center-crop"),
        default="skip",
        help="where no face is found: leave the photo out (default), or take its middle, as evaluation sets need",
    )
    add_workers(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Align, and print what became of the photos."""
    options = parser().parse_args(arguments)
    from facegm.align.pipeline import AlignConfig, align_photos

    config = AlignConfig(on_missing=options.on_missing, workers=options.workers)
    print(closing_summary(align_photos(options.input, options.output, config), options.output))


def closing_summary(counts: Counter[str], store: Path) -> str:
    """How many photos were aligned, cropped or not, and why not."""
    reasons = [(status.removeprefix("failed: "), count) for status, count in counts.most_common() if ": " in status]
    lines = [
        f"{printable(str(store))}: {counts['aligned']:,} faces aligned, {counts['center-crop']:,} centre crops, "
        f"{counts['failed']:,} failed",
        *(f"  {count:,} failed: {printable(reason)}" for reason, count in reasons),
    ]
    return "\n".join(lines)
