"""`facegm align`: photos to a store of aligned faces."""

from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import add_engine, add_workers, whole_number
from facegm.data.names import printable
from facegm.errors import UsageError


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
        help="folder tree identity/photo.jpg; a list file: a path a line, then a tab or comma and the identity; tar "
        "shards or a folder of them (WebDataset); x.rec with x.idx beside it (insightface); or an LMDB",
    )
    options.add_argument("--output", type=Path, required=True, help="the store: a folder that is made, or gone on with")
    options.add_argument(
        "--identity-level",
        type=whole_number(minimum=1),
        default=1,
        metavar="N",
        help="which folder of a photo names its identity, counted up from the photo (default: 1, the one it lies in)",
    )
    options.add_argument(
        "--on-missing",
        choices=("skip", "center-crop"),
        default="skip",
        help="where no face is found: leave the photo out (default), or take its middle, as evaluation sets need",
    )
    options.add_argument(
        "--minimum-face",
        type=int,
        default=20,
        metavar="PIXELS",
        help="smallest face looked for (default: %(default)s); with a larger one large photos take less time",
    )
    options.add_argument(
        "--minimum-size", type=float, default=0.0, metavar="PIXELS", help="smallest side of a face's box (default: any)"
    )
    options.add_argument(
        "--minimum-probability", type=float, default=0.0, metavar="P", help="least probability of a face (default: any)"
    )
    options.add_argument(
        "--aligned",
        action="store_true",
        help="the photos are square faces on the usual five-point template, as insightface's 112x112: only resize them",
    )
    options.add_argument(
        "--encoding", choices=("png", "jpeg"), default="png", help="png keeps the pixels (default); jpeg is smaller"
    )
    options.add_argument(
        "--container",
        choices=("folder", "tar"),
        default="folder",
        help="one file a face (default), or all in a tar file, easier on the file system",
    )
    options.add_argument(
        "--runtime",
        choices=("cpu", "cuda", "openvino"),
        help="what computes the detector (default: what the store was begun with, else a GPU if there is one, else "
        "cpu); openvino is the fastest on a CPU and needs the extra facegm[openvino]",
    )
    options.add_argument(
        "--shard", metavar="I/N", help="do the I-th of N parts, from 0, into one --output; the last to end merges them"
    )
    add_engine(options)
    options.add_argument(
        "--remove-missing",
        action="store_true",
        help="go on with a store although many of its photos are gone from the input: their faces go too",
    )
    add_workers(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Align, and print what became of the photos."""
    options = parser().parse_args(arguments)
    from facegm.align.config import AlignConfig
    from facegm.align.face import FaceChoice
    from facegm.align.inspection_text import identity_remarks
    from facegm.align.pipeline import align_photos
    from facegm.store.format import StoreFormat
    from facegm.store.journal import Shard

    try:
        config = AlignConfig(
            identity_level=options.identity_level,
            minimum_face=options.minimum_face,
            on_missing=options.on_missing,
            choice=FaceChoice(minimum_size=options.minimum_size, minimum_probability=options.minimum_probability),
            is_aligned=options.aligned,
            store_format=StoreFormat(encoding=options.encoding, container=options.container),
            runtime=options.runtime,
            engine=options.engine,
            workers=options.workers,
            shard=None if options.shard is None else Shard.parse(options.shard),
            remove_missing=options.remove_missing,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    summary = align_photos(options.input, options.output, config)
    store = summary.store
    print(closing_summary(store.statuses, options.output))
    for change, count in store.changes.items():
        if count:
            print(f"  {_CHANGES[change]}: {count:,}")
    for line in identity_remarks(identities=store.identities, faces=store.faces, unknown=store.unknown):
        print(f"  {line}")
    for remark in summary.remarks:
        print(f"  {printable(remark)}")


_CHANGES = {
    "gone": "photos gone from the input, and their faces with them",
    "changed": "photos that have changed, aligned anew",
    "damaged": "faces missing or damaged, made anew",
}


def closing_summary(counts: Counter[str], store: Path) -> str:
    """How many photos were aligned, cropped or not, and why not."""
    reasons = [(status.removeprefix("failed: "), count) for status, count in counts.most_common() if ": " in status]
    lines = [
        f"{printable(str(store))}: {counts['aligned']:,} faces aligned, {counts['center-crop']:,} centre crops, "
        f"{counts['failed']:,} failed",
        *(f"  {count:,} failed: {printable(reason)}" for reason, count in reasons),
    ]
    return "\n".join(lines)
