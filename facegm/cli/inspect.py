"""`facegm inspect`: what a store of aligned faces holds, as text and as a page of pictures."""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.align import closing_summary
from facegm.cli.options import whole_number
from facegm.data.names import printable


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm inspect",
        description="Count what a store of aligned faces holds, and write an HTML page of faces drawn at random, of "
        "the poorest ones, of duplicates, and of the photos in which no face was found.",
        allow_abbrev=False,
    )
    options.add_argument("store", type=Path, help="folder that `facegm align` made")
    options.add_argument("--output", type=Path, help="the HTML page (default: STORE.html, beside the store)")
    options.add_argument(
        "--samples",
        type=whole_number(minimum=1),
        default=48,
        help="photos, or groups of duplicates, that each part of the page shows at most (default: %(default)s)",
    )
    return options


def run(arguments: Sequence[str]) -> None:
    """Inspect, print the numbers and write the page."""
    options = parser().parse_args(arguments)
    from facegm.align.contact_sheet import write_contact_sheet
    from facegm.align.inspection import inspect_manifest
    from facegm.align.inspection_text import describe
    from facegm.store.reader import FaceStore

    store = FaceStore(options.store)
    inspection = inspect_manifest(store)
    summary = closing_summary(inspection.statuses, options.store) + "\n" + describe(inspection, store.keys.__getitem__)
    print(summary)
    # Beside the store, like a report beside its model: the store itself holds nothing but its own files.
    output = options.output or Path(os.path.abspath(options.store) + ".html")
    write_contact_sheet(output, store, inspection, summary=summary, samples=options.samples)
    print(f"contact sheet: {printable(str(output))}")
