"""`facegm train`: aligned faces to a run folder with an embedder, or images of classes to one with a classifier."""

import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from facegm.classification.config import ImageRunConfig
from facegm.cli.run_options import show_help_if_asked, split_options
from facegm.config import add_config_arguments, find_config, parse_config, task_of, written_in
from facegm.data.samples import Samples
from facegm.errors import FacegmError, UsageError
from facegm.faces.config import FaceRunConfig
from facegm.training.config import to_yaml
from facegm.training.run_folder import CONFIG_FILE, require_same_configuration

RunConfig = FaceRunConfig | ImageRunConfig


def parser(root: type[RunConfig] = FaceRunConfig) -> ArgumentParser:
    """The options of the command, with the keys of one kind of run."""
    options = ArgumentParser(
        prog="facegm train",
        description="Train a face network on a store of aligned faces, or a classifier on images, with the GM loss or "
        "another. On several GPUs or machines: torchrun --nproc_per_node=N --no-python facegm train ... The keys below "
        "are those of a face network's run; facegm train --config mnist.yaml --help shows a classifier's."
        if root is FaceRunConfig
        else "Train a classifier on images, with the GM loss or another.",
        allow_abbrev=False,
    )
    options.add_argument(
        "--output",
        help="run folder to make, or to go on with after an interruption; default: runs/NAME-OF-CONFIG",
    )
    options.add_argument("--resume", help="run folder to go on with, by the configuration that lies in it")
    options.add_argument(
        "--init", help="weights to begin with, of an exported model or a checkpoint: short for --train.init"
    )
    options.add_argument(
        "--profile", action="store_true", help="record a few steps by torch.profiler, into the run folder's profile"
    )
    options.add_argument(
        "--download", action="store_true", help="have torchvision fetch MNIST or CIFAR into data.folder before"
    )
    add_config_arguments(options, root)
    return options


def run(arguments: Sequence[str]) -> None:
    """Train a new run, or go on with one."""
    own = {
        "--config": None,
        "--output": None,
        "--resume": None,
        "--init": None,
        "--profile": False,
        "--download": False,
    }
    chosen, overrides = split_options(arguments, own)
    path = find_config(chosen.config) if chosen.config else Path(chosen.resume or "", CONFIG_FILE)
    root = _kind_of(path)
    show_help_if_asked(overrides, lambda: parser(root))
    if chosen.init:
        overrides.append(f"--train.init={chosen.init}")
    if (chosen.config is None) == (chosen.resume is None) or (chosen.resume and chosen.output):
        raise UsageError("give either --config CONFIG, with --output FOLDER if you like, or --resume FOLDER")
    if chosen.resume:
        folder = Path(chosen.resume)
        if overrides:
            raise UsageError(
                f"--resume goes by the run's own configuration, not {' '.join(overrides)}; what may change, such as "
                f"data.store or train.log_every, is to be edited in {path}"
            )
        if not path.is_file():
            raise FacegmError(f"{folder}: not a run folder (no {CONFIG_FILE})")
        config: RunConfig = parse_config(path, root)
    else:
        folder = Path(chosen.output) if chosen.output else Path("runs", path.stem)
        config = parse_config(path, root, overrides)
        if (folder / CONFIG_FILE).is_file():
            if task_of(folder / CONFIG_FILE) != task_of(path):
                raise FacegmError(f"{folder}: holds a run of another kind; give another --output")
            stored = parse_config(folder / CONFIG_FILE, root)
            require_same_configuration(folder, to_yaml(stored), to_yaml(config))
    _train(config, folder, is_profiled=chosen.profile, is_downloaded=chosen.download)


def _kind_of(path: Path) -> type[RunConfig]:
    """What kind of run a configuration file is of.

    Raises:
        UsageError: it has a classifier's keys, and does not say that it is of one.
    """
    written = written_in(path)
    if written.get("task") is not None:
        return ImageRunConfig
    own = next((key for key in ("data.set", "data.folder") if key in written), None)
    if own is not None:
        raise UsageError(f"{path}: {own} is a classifier's key; add the line task: classification")
    return FaceRunConfig


def _train(config: RunConfig, folder: Path, *, is_profiled: bool, is_downloaded: bool) -> None:
    if isinstance(config, ImageRunConfig):
        from facegm.classification.run import train_run as train_classifier

        if is_downloaded:
            _download(config)
        train_classifier(config, folder, is_profiled=is_profiled)
        return
    from facegm.faces.run import train_run as train_face_network

    if is_downloaded:
        raise UsageError("--download: there is nothing to fetch for a face network; give a store of your faces")
    train_face_network(config, folder, _validation(config), is_profiled=is_profiled)


def _download(config: ImageRunConfig) -> None:
    from facegm.classification.download import download

    if config.data.set == "folder":
        raise UsageError("--download: photos of data.set=folder are your own; there is nothing to fetch")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--download: all processes would fetch into one folder; download first in one process")
    download(config.data.set, config.data.folder)


def _validation(config: FaceRunConfig) -> Samples | None:
    pairs, store = config.validation.pairs, config.validation.store
    if pairs is None or store is None:
        return None
    from facegm.eval.validation import PairsValidation

    return PairsValidation(store, pairs, config.preprocessing)
