"""`facegm export`: a face network as an ONNX file, or another program's with a description, and its model card."""

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegm.cli.options import add_json, print_json
from facegm.data.names import printable
from facegm.errors import FacegmError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from facegm.embedding.onnx_network import OnnxNetwork

logger = logging.getLogger(__name__)

CHECKPOINT, ONNX = ".pt", ".onnx"
"""Suffixes."""


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm export",
        description="Write a face network as an ONNX file that says itself how photos become its input, and what "
        "distances mean where it has been calibrated; it is held against the original on 500 faces first. Or write "
        "another program's ONNX model anew with such a description, after which every command takes it; of a model "
        "that has one, licence and card anew. A model card is written beside it.",
        allow_abbrev=False,
    )
    options.add_argument(
        "model",
        type=Path,
        help="run folder (of a run that is not at its end, the newest checkpoint is taken), embedder.safetensors, a "
        "checkpoint of a run, another program's model.onnx, or one that was written here",
    )
    options.add_argument(
        "--output", type=Path, required=True, help="the file to write, model.onnx; the card is model.md"
    )
    options.add_argument(
        "--preprocessing",
        metavar="SETTINGS",
        help="how faces are prepared for another program's model: insightface, or what differs from it, as "
        "size=112,mean=127.5,scale=128,color=bgr,layout=nhwc,mirror=true",
    )
    options.add_argument(
        "--license", metavar="TEXT", help="under which the weights may be used, for the file and its card, such as MIT"
    )
    add_json(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Export, write the card, and say what was written."""
    options = parser().parse_args(arguments)
    if options.output.suffix.lower() != ONNX:
        raise UsageError(f"--output: {options.output}, must be a file that ends in {ONNX}")
    is_onnx = options.model.suffix.lower() == ONNX
    if options.preprocessing is not None and not is_onnx:
        raise UsageError(f"--preprocessing: {options.model} says itself how faces are prepared for it; leave it out")
    card = options.output.with_suffix(".md")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    written = _describe(options, card) if is_onnx else _export(options, card)
    if options.json:
        print_json(written | {"file": str(options.output), "card": str(card)})
        return
    file = printable(str(options.output))
    print(f"{file}: {written['model']}, {written['bytes'] / 1e6:.1f} MB")
    if "checked" in written:
        print(
            f"  as the original on {written['checked']['faces']:,} faces: cosine distance at most "
            f"{written['checked']['cosine_distance']:.2g}"
        )
    print(f"model card: {printable(str(card))}")


def _describe(options: Namespace, card: Path) -> dict[str, Any]:
    from facegm.embedding.export import describe_onnx_model
    from facegm.embedding.model_card import write_card

    network = describe_onnx_model(options.model, options.preprocessing, options.output, license_text=options.license)
    write_card(card, network)
    return _written(network)


def _export(options: Namespace, card: Path) -> dict[str, Any]:
    from facegm.embedding.export import export_embedder
    from facegm.embedding.model_card import write_card
    from facegm.embedding.model_file import embedder_file
    from facegm.embedding.onnx_file import OnnxFile
    from facegm.embedding.onnx_model import load_onnx

    file = embedder_file(_embedder(options.model))
    agreement = export_embedder(file, options.output, faces=_training_faces(file.parent), license_text=options.license)
    network = load_onnx(OnnxFile.read(options.output))
    write_card(card, network, run=file.parent, agreement=agreement)
    return _written(network) | {"checked": agreement._asdict()}


def _written(network: "OnnxNetwork") -> dict[str, Any]:
    return {
        "model": network.describe(),
        "dim": network.dim,
        "bytes": len(network.file.data),
        "contract": network.contract.to_json(),
    }


def _training_faces(run: Path) -> "list[np.ndarray]":
    """Some faces that a run was trained on; none where there is no run, or its store is no longer there."""
    from facegm.cli.classifier_run import is_face_run
    from facegm.config import parse_config
    from facegm.embedding.export import faces_of_store
    from facegm.faces.config import FaceRunConfig
    from facegm.training.run_folder import CONFIG_FILE

    if not is_face_run(run):
        return []
    try:
        return faces_of_store(parse_config(run / CONFIG_FILE, FaceRunConfig).data.store)
    except FacegmError as error:
        logger.info(f"checked on drawn pictures, for the faces that it was trained on cannot be taken: {error}")
        return []


def _embedder(model: Path) -> Path:
    """The model's file or run folder, of a checkpoint or a run that is not at its end a file made for this.

    Raises:
        FacegmError: there is no run around a checkpoint, or it cannot be used.
    """
    from facegm.cli.classifier_run import is_face_run
    from facegm.cli.verify import usable_model
    from facegm.config import parse_config
    from facegm.faces.config import FaceRunConfig
    from facegm.faces.unfinished import export_checkpoint
    from facegm.training.run_folder import CONFIG_FILE

    if model.suffix != CHECKPOINT:
        return usable_model(model)[0]
    run = model.resolve().parent.parent
    if not is_face_run(run):
        raise FacegmError(f"{model}: no checkpoint in the run folder of a face network (no {CONFIG_FILE} in {run})")
    return export_checkpoint(model, parse_config(run / CONFIG_FILE, FaceRunConfig))
