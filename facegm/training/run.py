"""A training run from its configuration: the run folder, and all processes that `torchrun` started."""

from pathlib import Path

from facegm.training.config import RunConfig
from facegm.training.distributed import join_processes
from facegm.training.loop import train
from facegm.training.run_folder import create_run_folder


def train_run(config: RunConfig, folder: Path, *, is_new: bool) -> None:
    """Train in a run folder to the end.

    Args:
        config: what to train.
        folder: the run folder.
        is_new: make the folder; otherwise go on from its newest checkpoint.

    Raises:
        FacegmError: a new run's folder is not empty, or training fails.
    """
    with join_processes() as processes:
        if is_new and processes.is_main:
            create_run_folder(folder, config.to_yaml())
        processes.wait()
        train(config, folder, processes)
