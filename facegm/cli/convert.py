"""`facegm convert`: a store of aligned faces, made by a version before, to today's format."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.data.names import printable


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm convert",
        description="Bring a store of aligned faces up to date, in its place: its manifest becomes manifest.parquet, "
        "and length and checksum of each face are recorded. Neither the photos nor the detector are needed.",
        allow_abbrev=False,
    )
    options.add_argument("store", type=Path, help="folder that `facegm align` made")
    return options


def run(arguments: Sequence[str]) -> None:
    """Convert, and say what the store holds."""
    options = parser().parse_args(arguments)
    from facegm.store.convert import convert_store
    from facegm.store.reader import FaceStore

    missing = convert_store(options.store)
    photos = len(FaceStore(options.store).keys)
    lost = f"; {missing:,} more had lost their face, which `facegm align` makes anew" if missing else ""
    print(f"{printable(str(options.store))}: {photos:,} photos, in today's format{lost}")
