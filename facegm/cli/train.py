"""`facegm train`: aligned faces to a run folder with an embedder."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from facegm.cli.run_options import split_options
from facegm.config import add_config_arguments, find_config, parse_config
from facegm.data.samples import Samples
from facegm.errors import FacegmError, UsageError
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import train_run
from facegm.training.config import to_yaml
from facegm.training.run_folder import CONFIG_FILE, require_same_configuration


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm train",
        description="Train a face network on a store of aligned faces, with the GM loss or another. On several GPUs or "
        "machines: "
        "torchrun --nproc_per_node=N --no-python facegm train ...",
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
    add_config_arguments(options, FaceRunConfig)
    return options


def run(arguments: Sequence[str]) -> None:
    """Train a new run, or go on with one."""
    own = {"--config": None, "--output": None, "--resume": None, "--init": None, "--profile": False}
    chosen, overrides = split_options(arguments, parser, own)
    if chosen.init:
        overrides.append(f"--train.init={chosen.init}")
    if (chosen.config is None) == (chosen.resume is None) or (chosen.resume and chosen.output):
        raise UsageError("give either --config CONFIG, with --output FOLDER if you like, or --resume FOLDER")
    if chosen.resume:
        folder = Path(chosen.resume)
        if overrides:
            raise UsageError(
                f"--resume goes by the run's own configuration, not {' '.join(overrides)}; what may change, such as "
                f"data.store or train.log_every, is to be edited in {folder / CONFIG_FILE}"
            )
        if not (folder / CONFIG_FILE).is_file():
            raise FacegmError(f"{folder}: not a run folder (no {CONFIG_FILE})")
        config = parse_config(folder / CONFIG_FILE, FaceRunConfig)
    else:
        path = find_config(chosen.config)
        folder = Path(chosen.output) if chosen.output else Path("runs", path.stem)
        config = parse_config(path, FaceRunConfig, overrides)
        if (folder / CONFIG_FILE).is_file():
            stored = parse_config(folder / CONFIG_FILE, FaceRunConfig)
            require_same_configuration(folder, to_yaml(stored), to_yaml(config))
    train_run(config, folder, _validation(config), is_profiled=chosen.profile)


def _validation(config: FaceRunConfig) -> Samples | None:
    pairs, store = config.validation.pairs, config.validation.store
    if pairs is None or store is None:
        return None
    from facegm.eval.validation import PairsValidation

    return PairsValidation(store, pairs, config.preprocessing)
