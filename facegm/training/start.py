"""What precedes a run's first step: the task on its device, its weights, and the batches on their way."""

import logging
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from facegm.data.draws import StepSampler, load
from facegm.data.residency import choose_residency
from facegm.data.samples import Batch
from facegm.data.weights import read_weights
from facegm.errors import FacegmError
from facegm.training.checkpoint import Resumed, load_checkpoint, restore, weights_of
from facegm.training.compilation import compile_network
from facegm.training.devices import prepare
from facegm.training.distributed import Processes
from facegm.training.report import EVALUATION_BATCH
from facegm.training.room import check_room
from facegm.training.setup import TrainingSetup
from facegm.training.sync_batch_norm import synchronise_batch_norm
from facegm.training.task import Task

if TYPE_CHECKING:
    from facegm.training.loop import Trainer

logger = logging.getLogger(__name__)
RESIDENCIES = ("device", "host", "stream")
"""From the most memory to the least."""


def prepare_task(setup: TrainingSetup[Any], processes: Processes) -> None:
    """Bring a new task to its device, in the memory order of its input; freeze and synchronise what is asked for.

    Raises:
        FacegmError: the configuration does not go together with the task or the device.
    """
    task, train, device = setup.task, setup.train, processes.device
    if train.precision == "float16" and task.sharded:
        raise FacegmError(
            "train.precision: float16 scales the loss by what each process finds in its own part of the classes; "
            "with shard_means of the loss take bfloat16 or float32"
        )
    if train.capture and (how := setup.config.loss.classification) and how.negative_share < 1:
        raise FacegmError(
            f"train.capture: a graph would draw the same classes in each step; with loss.{setup.config.loss.name}."
            "negative_share below 1 set it to false"
        )
    if train.capture and (device.type != "cuda" or processes.world_size > 1 or train.precision == "float16"):
        raise FacegmError(
            "train.capture: a step is captured on one GPU, in one process, without float16's scaler; set it to false"
        )
    prepare(device)
    task.freeze(train.freeze)
    if train.sync_batch_norm:
        task.network = synchronise_batch_norm(task.network)
    task.to(device).to(memory_format=torch.channels_last)


def resume(run: Path, setup: TrainingSetup[Any], trainer: "Trainer[Any]", processes: Processes) -> Resumed:
    """Load the newest checkpoint, or for a new run the weights that it is to begin with; compile the network.

    Raises:
        FacegmError: a checkpoint of another run, or processes that differ in what they go on from.
    """
    resumed = restore(run, setup, trainer)
    if resumed.step == 0 and setup.train.init is not None:
        load_weights(trainer.task, setup.train.init, say=processes.is_main)
    compile_network(trainer.task.network, setup.train.compile, setup.plan.steps, say=processes.is_main)
    precision = str(trainer.dtype or torch.float32).removeprefix("torch.")
    processes.require_equal("the checkpoint they go on from, or in their precision", f"{resumed.step} {precision}")
    if processes.is_main:
        logger.info(
            f"{setup.title}; steps {resumed.step} to {setup.plan.steps} of {setup.plan.batch_size} images; "
            f"{processes.world_size} process(es) on {processes.device.type}, {precision}"
        )
    return resumed


def load_batches(setup: TrainingSetup[Any], first_step: int, processes: Processes) -> Generator[Batch, None, None]:
    """This process's part of each step's batch, from where its samples are kept.

    Raises:
        FacegmError: an image is missing or damaged, or the system has no room for the batches on their way.
    """
    device, samples, plan = processes.device, setup.samples, setup.plan
    size = len(samples) * samples.image_bytes if samples.can_be_kept else float("inf")
    # Machines may have more or less room, but all processes keep images together, or none does.
    residency = max(processes.gather(choose_residency(setup.residency, size, device)), key=RESIDENCIES.index)
    place = torch.device("cpu") if residency == "host" else device
    for kept in (samples, setup.validation) if residency != "stream" else ():
        if kept is not None and kept.can_be_kept:
            kept.keep_decoded(place)
    batches = [(samples, plan.batch_size // processes.world_size), (setup.validation, EVALUATION_BATCH)]
    streamed = [(s, images * processes.local_size) for s, images in batches if s is not None and not s.is_in_memory]
    with processes.together():
        check_room(streamed, setup.workers)
    sampler = StepSampler(plan, samples, first_step=first_step, rank=processes.rank, world_size=processes.world_size)
    pin_memory = device.type == "cuda" and residency != "device"
    return load(samples, sampler, workers=setup.workers, pin_memory=pin_memory)


def load_weights(task: Task[Any], file: Path, *, say: bool) -> None:
    """Begin with the weights of an exported model or a checkpoint, as far as names and shapes are the same.

    Args:
        task: what is to be trained.
        file: an exported embedder holds the network alone, a classifier or a checkpoint the class vectors too.
        say: whether to log what was not taken over.

    Raises:
        FacegmError: the file is missing, damaged, or has nothing of the task.
    """
    found, own = _read_weights(file), task.state_dict()
    usable = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    if not usable:
        raise FacegmError(f"train.init: {file}: nothing in it has the names and shapes of {task.network}")
    task.load_state_dict(own | usable)
    differing = sorted((found.keys() & own.keys()) - usable.keys())
    shapes = [f"{name} ({list(found[name].shape)} there, {list(own[name].shape)} here)" for name in differing]
    for trouble, names in (("in another shape", shapes), ("not in it", sorted(own.keys() - found.keys()))):
        if names and say:
            logger.info(f"{file}: begins at random, being {trouble}: {', '.join(names)}")


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FacegmError(f"train.init: {file}: no such file; name an exported model or a checkpoint")
    if file.suffix != ".safetensors":
        return weights_of(load_checkpoint(file))
    tensors = read_weights(file).tensors
    whole = any(name.startswith("loss.") for name in tensors)  # a classifier's, which are named as a task's are
    return {name if whole else f"network.{name}": tensor for name, tensor in tensors.items()}
