"""The classifier that a command is given: a run folder, or a file."""

from pathlib import Path

from facegm.classification.config import ImageDataConfig, ImageRunConfig
from facegm.config import parse_config, task_of
from facegm.errors import FacegmError, UsageError
from facegm.training.run_folder import CONFIG_FILE


def find_classifier(run: Path, *, is_best: bool = False) -> tuple[Path, ImageDataConfig | None]:
    """The classifier's file, and what images it was trained on where its run says so.

    Raises:
        FacegmError: it is no classifier's run, or one that has not come to these weights.
    """
    from facegm.classification.classifier import BEST_FILE, MODEL_FILE

    if not run.is_dir():
        if is_best:
            raise UsageError(f"--best: takes a run folder, not a file; name its {BEST_FILE} itself")
        return run, None
    config_file = run / CONFIG_FILE
    if not config_file.is_file():
        raise FacegmError(f"{run}: not a run folder (no {CONFIG_FILE}); `facegm train` makes one")
    if is_face_run(run):
        raise FacegmError(f"{run}: the run of a face network, which `facegm verify-lfw {run}` evaluates")
    config = parse_config(config_file, ImageRunConfig)
    file = run / (BEST_FILE if is_best else MODEL_FILE)
    if not file.is_file():
        raise FacegmError(
            f"{file}: not there yet: the run has not ended; go on with it by `facegm train --resume {run}`"
            + (f"; the best epoch so far is {BEST_FILE}" if (run / BEST_FILE).is_file() else "")
        )
    return file, config.data


def is_face_run(run: Path) -> bool:
    """Whether it is the run folder of a face network."""
    return (run / CONFIG_FILE).is_file() and task_of(run / CONFIG_FILE) is None
