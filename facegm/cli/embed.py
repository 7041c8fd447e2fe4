"""`facegm embed`: photos, or a store of aligned faces, to a file of embeddings."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import add_device, add_engine, add_json, add_model, add_workers, print_json, whole_number
from facegm.data.names import printable


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm embed",
        description="Find the faces of each photo, align and embed them, and write a row for each, with where it was "
        "found and how good it is; a photo without a face, or that cannot be read, has a row that says why. Run again "
        "after an interruption, it goes on where it stopped, from the folder OUTPUT.parts.",
        allow_abbrev=False,
    )
    options.add_argument(
        "photos",
        type=Path,
        help="folder tree identity/photo.jpg; a list file: a path a line, then a tab or comma and the identity; tar "
        "shards or a folder of them (WebDataset); x.rec with x.idx beside it (insightface); an LMDB; or a store that "
        "`facegm align` made, whose faces are embedded as they are",
    )
    add_model(options)
    options.add_argument(
        "--output",
        type=Path,
        required=True,
        help="faces.parquet, or faces.npz (paths, face, embeddings); `facegm verify --embeddings` reads both",
    )
    options.add_argument(
        "--policy",
        choices=("all", "largest-central", "largest", "only"),
        default="all",
        help="which of several faces: all (default; number 0 is the photo's subject, the largest central one), the "
        "largest central one, the largest one, or none of a photo that does not show one face only",
    )
    options.add_argument(
        "--identity-level",
        type=whole_number(minimum=1),
        default=1,
        metavar="N",
        help="which folder of a photo names its identity, counted up from the photo (default: 1, the one it lies in)",
    )
    options.add_argument(
        "--runtime",
        choices=("cpu", "cuda", "openvino"),
        help="what computes the detector (default: a GPU where the network runs on one, else cpu); openvino is the "
        "fastest on a CPU and needs the extra facegm[openvino]",
    )
    add_engine(options)
    add_workers(options)
    add_device(options)
    add_json(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Embed, and print what became of the photos."""
    options = parser().parse_args(arguments)
    from facegm.embedding.embed_config import EmbedConfig
    from facegm.embedding.embed_run import embed_photos

    summary = embed_photos(
        options.photos,
        options.model,
        options.output,
        EmbedConfig(
            policy=options.policy,
            identity_level=options.identity_level,
            device=options.device,
            runtime=options.runtime,
            engine=options.engine,
            workers=options.workers,
        ),
    )
    if options.json:
        print_json(summary.to_json())
        return
    print(
        f"{printable(str(summary.output))}: {summary.faces:,} faces of {summary.photos:,} photos, "
        f"{summary.contract.dim} dimensions"
    )
    for reason, count in summary.reasons.items():
        print(f"  {count:,} photos: {reason}")
    for remark in summary.remarks:
        print(f"  {printable(remark)}")
