"""`facegm verify-lfw`: `facegm verify` of a model on the LFW photos."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import add_device, add_workers
from facegm.cli.verify import add_scoring, folder_of, verify


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm verify-lfw",
        description="Verify all pairs by the LFW protocol (unrestricted, labeled outside data): mirror-summed "
        "embeddings, PCA and threshold from nine folds, accuracy on the tenth.",
        allow_abbrev=False,
    )
    options.add_argument("model", type=Path, help="run folder, embedder.safetensors or model.onnx")
    options.add_argument(
        "--lfw",
        type=Path,
        required=True,
        help="folder of LFW's photos, or a store that `facegm align --on-missing center-crop` made of them",
    )
    options.add_argument(
        "--pairs", type=Path, help="protocol file (default: pairs.txt in the photos' folder or in the one above)"
    )
    options.add_argument(
        "--output", type=Path, help="folder of the report and, for photos, their store (default: lfw beside the model)"
    )
    add_scoring(options)
    add_device(options)
    add_workers(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Verify, write the report and print its summary."""
    options = parser().parse_args(arguments)
    from facegm.eval.set_to_verify import read_set
    from facegm.eval.verify_lfw import find_pairs

    output = options.output or folder_of(options.model) / "lfw"
    verify(options, read_set(options.pairs or find_pairs(options.lfw)), options.lfw, output)
