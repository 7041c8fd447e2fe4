"""`facegm quality`: a model and the faces of pairs to a report on what its likelihood and other scores are worth."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.classifier_run import is_face_run
from facegm.cli.options import whole_number
from facegm.errors import FacegmError


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm quality",
        description="Try scores of a face as its quality (the likelihood under the GM loss, the embedding's length, "
        "the detector's probability, sharpness and others): whether they fall while faces are degraded, and whether "
        "pairs are rejected less often where those of low quality are discarded (error versus discard). Run again "
        "after an interruption, it goes on where it stopped.",
        allow_abbrev=False,
    )
    options.add_argument(
        "model", type=Path, help="run folder, embedder.safetensors or model.onnx; likelihoods need the GM loss"
    )
    options.add_argument(
        "--photos",
        type=Path,
        required=True,
        help="store that `facegm align --on-missing center-crop` made of the photos that the pairs name",
    )
    options.add_argument(
        "--pairs", type=Path, help="protocol file (default: pairs.txt in the store or in the folder above)"
    )
    options.add_argument(
        "--max-pairs",
        type=whole_number(minimum=2),
        metavar="N",
        help="for a quick look: so many pairs, half of them of one person, by chance (default: all)",
    )
    options.add_argument(
        "--seed", type=whole_number(minimum=0), default=0, help="of the degradations (default: %(default)s)"
    )
    options.add_argument("--output", type=Path, help="folder of the report (default: quality beside the model)")
    return options


def run(arguments: Sequence[str]) -> None:
    """Measure, write the report and print its summary."""
    options = parser().parse_args(arguments)
    from facegm.config import parse_config
    from facegm.eval.quality.quality import measure_quality
    from facegm.eval.quality.report import PAGE_FILE, summary, write_report
    from facegm.faces.class_means import class_means
    from facegm.faces.config import FaceRunConfig
    from facegm.training.run_folder import CONFIG_FILE

    config, folder = None, options.model.parent
    if options.model.is_dir():
        folder = options.model
        if not is_face_run(folder):
            raise FacegmError(f"{folder}: not the run folder of a face network")
        config = parse_config(folder / CONFIG_FILE, FaceRunConfig)
    output = options.output or folder / "quality"
    report = measure_quality(
        options.model,
        options.photos,
        output,
        means=class_means(options.model, config),
        pairs_file=options.pairs,
        max_pairs=options.max_pairs,
        seed=options.seed,
    )
    write_report(output, report)
    print(summary(report))
    print(f"report: {output / PAGE_FILE}")
