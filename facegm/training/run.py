"""A training run from its configuration: the run folder, and all processes that `torchrun` started."""

from pathlib import Path

from facegm.data.draws import StepSampler
from facegm.data.faces import LabelledFaces
from facegm.data.store import FaceStore
from facegm.training.config import RunConfig
from facegm.training.distributed import join_processes
from facegm.training.loop import draw_plan, train
from facegm.training.run_folder import create_run_folder, refuse_used_folder
from facegm.training.state import fingerprint


def train_run(config: RunConfig, folder: Path, *, is_new: bool) -> None:
    """Train in a run folder to the end.

    Args:
        config: what to train.
        folder: the run folder.
        is_new: make the folder; otherwise go on from its newest checkpoint.

    Raises:
        FacegmError: a new run's folder is not empty, the data is unusable, or training fails; the folder is made only
            when the data is known to be usable.
    """
    if is_new:
        refuse_used_folder(folder)
    store = FaceStore(config.data.store)
    faces = LabelledFaces(store, config.preprocessing, exclude_identities=config.data.exclude_identities)
    with join_processes() as processes:
        # Refuses, before anything is written, what no batch can be made of.
        StepSampler(draw_plan(config, faces), world_size=processes.world_size)
        processes.require_equal("data or configuration", f"{config} {fingerprint(faces)}")
        if is_new and processes.is_main:
            create_run_folder(folder, config.to_yaml())
        processes.wait()
        train(config, faces, folder, processes)
