"""How long the runs of a grid take on this machine, and how much of their schedule a budget buys."""

import json
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from facegm.classification.config import ImageRunConfig
from facegm.data.files import create_atomically
from facegm.errors import FacegmError, UsageError
from facegm.faces.config import FaceRunConfig
from facegm.reproduce.cell_data import DataSets, DataSize

logger = logging.getLogger(__name__)
Config = TypeVar("Config", bound=ImageRunConfig | FaceRunConfig)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PROBED_STEPS, PROBED_IMAGES = 3, 32
"""Steps that are timed, after a first one, and the images of each at most on a CPU."""


@dataclass(frozen=True)
class Budget:
    """What a grid may cost: seconds in all, or epochs of each run."""

    text: str
    """As it was given, without spaces."""
    seconds: float | None = None
    epochs: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read 90s, 10m, 2h, 1d or 30epochs.

        Raises:
            UsageError: it is none of these.
        """
        text = text.replace(" ", "")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|d|epochs?)", text)
        if found is None or float(found[1]) == 0:
            raise UsageError(f"--budget: {text}, must be a time such as 10m or 2h, or a length such as 30epochs")
        if found[2] in _UNITS:
            return cls(text, seconds=float(found[1]) * _UNITS[found[2]])
        return cls(text, epochs=float(found[1]))

    def epochs_of(self, config: ImageRunConfig | FaceRunConfig, share: float) -> float:
        """The epochs that a run gets, its own at most.

        Args:
            config: of the whole run.
            share: of the grid's time that the budget buys.
        """
        wanted = self.epochs or float(f"{config.train.epochs * share:.3g}")
        return min(config.train.epochs, wanted)


def divided(budget: Budget, file: Path, seconds: Callable[[], Sequence[float]], *, jobs: int, is_kept: bool) -> float:
    """How much of the whole runs' time a budget of time is, divided among the runs of a grid once for all.

    Args:
        budget: seconds in all.
        file: where the division is kept, so that the same command, given again or elsewhere, goes on with the same
            grid.
        seconds: gives those of the whole runs; asked only where nothing is kept yet.
        jobs: runs side by side.
        is_kept: whether to keep a new division.

    Raises:
        FacegmError: the file is damaged.
    """
    assert budget.seconds is not None
    if not file.is_file():
        share = min(1.0, budget.seconds * jobs / sum(one for one in seconds() if math.isfinite(one)))
        if not is_kept:
            return share
        file.parent.mkdir(parents=True, exist_ok=True)
        create_atomically(file, json.dumps({"budget": budget.text, "jobs": jobs, "share": share}).encode())
    try:
        division = json.loads(file.read_bytes())
        share, with_jobs = float(division["share"]), int(division["jobs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FacegmError(f"{file}: damaged; remove it, and the budget is divided anew") from error
    logger.info(f"{share:.2%} of the whole schedule, as divided for {with_jobs} jobs in {file}")
    if with_jobs != jobs:
        logger.warning(f"these are {jobs} jobs: the grid takes {with_jobs / jobs:.2g} times the budget")
    return share


def shortened(config: Config, epochs: float) -> Config:
    """A run of fewer epochs, whose schedules shrink in proportion.

    Milestones and warm-ups are shares of the run, and shrink by themselves; L-Softmax's annealing goes by steps.
    """
    l_softmax = config.loss.l_softmax
    l_softmax = replace(l_softmax, gamma=l_softmax.gamma * config.train.epochs / epochs)
    return replace(config, train=replace(config.train, epochs=epochs), loss=replace(config.loss, l_softmax=l_softmax))


# ------------------------------------------------------------------------------------------------- times


def seconds_of(configs: Sequence[ImageRunConfig | FaceRunConfig], data: DataSets) -> list[float]:
    """Estimated seconds of each run, on one core or one GPU, by the time of a few steps that are not compiled.

    The steps are taken in a process of their own, whose memory is free again afterwards. A network that cannot be built
    here has no time (NaN).

    Args:
        configs: of the runs.
        data: how much they are trained on.
    """
    rates: dict[str, float] = {}
    seconds = []
    with ProcessPoolExecutor(1, get_context("spawn")) as prober:
        for config in configs:
            size = data.size(config)
            network = f"{config.model} {config.train.batch_size} {size.classes}"
            if network not in rates:
                try:
                    rates[network] = prober.submit(_images_per_second, config, size).result()
                except FacegmError as error:
                    logger.warning(f"no time can be told: {error}")
                    rates[network] = math.nan
            seconds.append(size.images * config.train.epochs / rates[network])
    return seconds


def _images_per_second(config: ImageRunConfig | FaceRunConfig, size: DataSize) -> float:
    """Of training steps on random images."""
    import torch

    from facegm.data.samples import Batch
    from facegm.schedule import Progress
    from facegm.training.devices import default_device
    from facegm.training.distributed import Processes
    from facegm.training.loop import Trainer

    torch.set_num_threads(1)
    device = default_device()
    task = _task(config, size).to(device).to(memory_format=torch.channels_last)
    count = config.train.batch_size if device.type == "cuda" else min(config.train.batch_size, PROBED_IMAGES)
    images = torch.randint(256, (count, size.side, size.side, size.channels), dtype=torch.uint8)
    batch = Batch(images, torch.randint(size.classes, (count,))).to(device)
    processes = Processes(rank=0, world_size=1, device=device)
    trainer = Trainer(task, config.optimizer, replace(config.train, capture=False, accumulate=1), processes)
    seconds = []
    for _ in range(1 + PROBED_STEPS):
        begin = time.monotonic()
        trainer.step(batch, Progress(0, 1), lambda _: None)["loss"].item()
        seconds.append(time.monotonic() - begin)
    return count / median(seconds[1:])


def _task(config: ImageRunConfig | FaceRunConfig, size: DataSize) -> Any:
    """A task as the run would have it, on images that need no augmentation."""
    if isinstance(config, FaceRunConfig):
        from facegm.faces.task import FaceTask

        return FaceTask(config.model, config.loss, config.preprocessing, size.classes)
    from facegm.classification.classifier import Description, ImageClassifier
    from facegm.classification.task import ImageTask

    description = Description(
        model=config.model,
        loss=config.loss,
        preprocessing=config.preprocessing,
        classes=[str(number) for number in range(size.classes)],
        channels=size.channels,
        side=size.side,
    )
    return ImageTask(ImageClassifier(description), None)
