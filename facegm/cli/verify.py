"""`facegm verify`: a model and any set, or ready embeddings and pairs, to a report."""

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facegm.cli.options import add_device, add_workers
from facegm.errors import UsageError

if TYPE_CHECKING:
    from facegm.eval.set_to_verify import SetToVerify
    from facegm.eval.sets.insightface_bin import PackedSet

logger = logging.getLogger(__name__)


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm verify",
        description="Verify pairs of faces by a model, or by ready embeddings of anybody's model, with the threshold "
        "of each fold chosen on the others. Under torchrun all processes embed a share each. Embeddings are kept in "
        "the output folder, so that other pairs of the same faces are scored at once.",
        allow_abbrev=False,
    )
    options.add_argument("model", type=Path, nargs="?", help="run folder, embedder.safetensors or model.onnx")
    options.add_argument("--photos", type=Path, help="folder of photos, or a store that `facegm align` made of them")
    options.add_argument(
        "--bin", type=Path, help="in place of --photos: a set with its pairs as insightface packs them, such as lfw.bin"
    )
    options.add_argument(
        "--embeddings",
        type=Path,
        help="in place of a model: ready embeddings, .npz (paths, embeddings), .npy with names in a .txt beside it, or "
        "Parquet (path, embedding)",
    )
    options.add_argument(
        "--pairs",
        type=Path,
        help="LFW's format, or lines `path_a,path_b,same[,fold]`; with --templates `template1 template2 label`",
    )
    options.add_argument(
        "--templates", type=Path, help="which images make up which template, `path template_id media_id` as in IJB"
    )
    options.add_argument("--attributes", type=Path, help="CSV of attributes of images or people: results by group too")
    options.add_argument(
        "--allow-missing", action="store_true", help="leave out pairs of which an image is missing, and say how many"
    )
    options.add_argument(
        "--output",
        type=Path,
        help="folder of the report, embeddings and faces of photos (default: verify/NAME-OF-SET beside the model)",
    )
    add_scoring(options)
    add_device(options)
    add_workers(options)
    return options


def add_scoring(options: ArgumentParser) -> None:
    """Add what may be done beside the protocol."""
    options.add_argument(
        "--plda",
        type=Path,
        metavar="OTHERS",
        help="score by a likelihood ratio (PLDA) too that is fitted on other people, such as the training identities: "
        "a store of their faces, or with --embeddings a file of theirs",
    )
    options.add_argument(
        "--calibrate",
        action="store_true",
        help="write into the embedder what its distances mean on this set: probabilities, thresholds of false-match "
        "rates; of a GM model also below which likelihood a face is abnormal",
    )


def run(arguments: Sequence[str]) -> None:
    """Verify, write the report and print its summary."""
    options = parser().parse_args(arguments)
    source = _source(options)
    from facegm.eval.reports.groups import read_attributes
    from facegm.eval.reports.report import PAGE_FILE
    from facegm.eval.set_to_verify import SetToVerify, read_set
    from facegm.eval.sets.insightface_bin import PackedSet
    from facegm.eval.verify import verify_embeddings

    attributes = None if options.attributes is None else read_attributes(options.attributes)
    name = source.stem if source.is_file() else source.resolve().name
    output = options.output or folder_of(options.model or source) / "verify" / name
    if options.bin is not None:
        packed = PackedSet(source)
        verify(options, SetToVerify(packed.pairs, source, attributes=attributes), packed, output)
        return
    chosen = read_set(
        options.pairs,
        templates_file=options.templates,
        allow_missing=options.allow_missing,
        attributes=attributes,
    )
    if options.embeddings is None:
        verify(options, chosen, source, output)
    else:
        print(verify_embeddings(source, chosen, output, others=options.plda).summary())
        print(f"report: {output / PAGE_FILE}")


def verify(options: Namespace, chosen: "SetToVerify", faces: "Path | PackedSet", output: Path) -> None:
    """Verify a model, in all processes that torchrun started, and print the summary in the first.

    Args:
        options: with `model`, `plda`, `calibrate`, `device` and `workers`.
        chosen: what is to be verified.
        faces: folder of photos, store, or packed set.
        output: folder of the report.
    """
    from facegm.eval.reports.report import PAGE_FILE
    from facegm.eval.verify import verify_faces
    from facegm.training.distributed import join_processes

    with join_processes() as processes:
        model, note = None, ""
        with processes.together():
            if processes.is_main:
                model, note = usable_model(options.model)
        model = processes.gather(model)[0]
        assert model is not None
        report = verify_faces(
            model,
            chosen,
            faces,
            output,
            device=options.device,
            workers=options.workers,
            processes=processes,
            others=options.plda,
            is_to_calibrate=options.calibrate,
            note=note,
        )
    if report is not None:
        print(report.summary())
        print(f"report: {output / PAGE_FILE}")


def usable_model(model: Path) -> tuple[Path, str]:
    """A model, or of a run that is not at its end its newest checkpoint's; and what readers must be told of it.

    Raises:
        FacegmError: the run's configuration or checkpoints cannot be used.
    """
    from facegm.config import parse_config
    from facegm.faces.config import FaceRunConfig
    from facegm.faces.unfinished import export_newest, is_unfinished
    from facegm.training.run_folder import CONFIG_FILE

    if not is_unfinished(model):
        return model, ""
    file = export_newest(model, parse_config(model / CONFIG_FILE, FaceRunConfig))
    note = f"the run is not at its end: its newest checkpoint was taken, as {file.name}"
    logger.info(f"{model}: {note}")
    return file, note


def _source(options: Namespace) -> Path:
    """Where the faces or embeddings lie.

    Raises:
        UsageError: options are missing, or do not go together.
    """
    given = [source for source in (options.photos, options.bin, options.embeddings) if source is not None]
    if len(given) != 1:
        raise UsageError("give one of --photos FOLDER, --bin FILE and --embeddings FILE")
    if options.embeddings is None and options.model is None:
        raise UsageError("give the model: a run folder, an embedder.safetensors or a model.onnx")
    if options.embeddings is not None and options.model is not None:
        raise UsageError(f"{options.model}: --embeddings take the place of a model; leave one of them out")
    if options.calibrate and (options.embeddings is not None or options.templates is not None):
        raise UsageError("--calibrate: it is for a model that compares photos; leave it out, or give model and photos")
    if options.bin is None and options.pairs is None:
        raise UsageError("give --pairs FILE")
    unwanted = [f"--{name}" for name in ("pairs", "templates") if getattr(options, name) is not None]
    unwanted += ["--allow-missing"] * options.allow_missing
    if options.bin is not None and unwanted:
        raise UsageError(f"{unwanted[0]}: {options.bin} holds its own pairs, and all their faces")
    return Path(given[0])


def folder_of(model: Path) -> Path:
    """A run's own folder, or that in which a file lies."""
    return model if model.is_dir() else model.parent
