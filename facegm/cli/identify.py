"""`facegm identify`: a model and a store, or ready embeddings, to identification rates."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import real_number, whole_number
from facegm.errors import UsageError

EMBEDDINGS = (".npz", ".npy", ".parquet")
"""Suffixes of ready embeddings."""


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm identify",
        description="Look for people in a gallery: closed-set by rank, and open-set, TPIR at FPIR, with the threshold "
        "from probes of people who are not in it. Images are split into gallery and probes several times.",
        allow_abbrev=False,
    )
    options.add_argument(
        "subject",
        type=Path,
        help="run folder, embedder.safetensors or model.onnx; or ready embeddings, a .npz, .npy or .parquet file, of "
        "images whose folder says who is on them",
    )
    options.add_argument("--photos", type=Path, help="store of aligned faces that a model is to embed")
    options.add_argument(
        "--gallery-images",
        type=whole_number(minimum=1),
        default=1,
        help="images of a person that make a template of the gallery, their mean (default: %(default)s)",
    )
    options.add_argument(
        "--non-mated",
        type=real_number("from 0 to below 1", lambda share: 0 <= share < 1),
        default=0.5,
        metavar="SHARE",
        help="share of the people who are left out of the gallery, for the open set (default: %(default)s)",
    )
    options.add_argument("--repeats", type=whole_number(minimum=1), default=5, help="splits (default: %(default)s)")
    options.add_argument(
        "--seed", type=whole_number(minimum=0), default=0, help="of the first split (default: %(default)s)"
    )
    options.add_argument(
        "--output", type=Path, help="folder of the report (default: identify, beside the model or the embeddings)"
    )
    return options


def run(arguments: Sequence[str]) -> None:
    """Identify, write the report and print its summary."""
    options = parser().parse_args(arguments)
    is_ready = options.subject.suffix.lower() in EMBEDDINGS
    if is_ready and options.photos is not None:
        raise UsageError(
            f"--photos: {options.subject} holds embeddings of photos already; give a model, or no --photos"
        )
    if not is_ready and options.photos is None:
        raise UsageError(f"give --photos STORE, whose faces {options.subject} is to embed")
    from facegm.eval.identification.identify import IdentificationSettings, identify
    from facegm.eval.identification.report import PAGE_FILE, write_report
    from facegm.eval.sets.labelled_embeddings import embedded_store, ready_embeddings

    output = options.output or (options.subject if options.subject.is_dir() else options.subject.parent) / "identify"
    images = ready_embeddings(options.subject) if is_ready else embedded_store(options.subject, options.photos, output)
    settings = IdentificationSettings(
        gallery_images=options.gallery_images, non_mated=options.non_mated, repeats=options.repeats, seed=options.seed
    )
    report = identify(images, settings)
    write_report(output, report)
    print(report.summary())
    print(f"report: {output / PAGE_FILE}")
