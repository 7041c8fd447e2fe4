"""How long the runs of a grid take on this machine, and how much of their schedule a budget buys."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from facegm.classification.config import ImageRunConfig
from facegm.data.files import create_atomically
from facegm.errors import FacegmError, UsageError
from facegm.faces.config import FaceRunConfig

RunConfig = TypeVar("RunConfig", bound=ImageRunConfig | FaceRunConfig)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PROBED_STEPS, PROBED_IMAGES = 3, 32
"""Steps that are timed, after a first one, and the images of each at most."""


class SetSize(NamedTuple):
    """What a training set costs to go through."""

    images: int
    classes: int
    channels: int
    side: int


SIZES = {
    "mnist": SetSize(60_000, 10, 1, 28),
    "cifar10": SetSize(50_000, 10, 3, 32),
    "cifar100": SetSize(50_000, 100, 3, 32),
    "folder": SetSize(1_281_167, 1_000, 3, 224),  # ImageNet
}
FACES = SetSize(494_414, 10_575, 3, 120)  # CASIA-WebFace


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


def share_of_budget(
    budget: Budget, configs: Sequence[ImageRunConfig | FaceRunConfig], file: Path, *, jobs: int
) -> float:
    """How much of the whole runs' time a budget is, by a few steps on this machine.

    It is kept in a file, so that the same command, given again or elsewhere, goes on with the same grid.

    Args:
        budget: a time.
        configs: of the whole runs.
        file: where it is kept.
        jobs: runs side by side.
    """
    if budget.seconds is None:
        return 1.0
    if not file.is_file():
        share = min(1.0, budget.seconds * jobs / sum(seconds_of(configs)))
        file.parent.mkdir(parents=True, exist_ok=True)
        create_atomically(file, json.dumps({"budget": budget.text, "jobs": jobs, "share": share}).encode())
    try:
        return float(json.loads(file.read_bytes())["share"])
    except (ValueError, KeyError, TypeError) as error:
        raise FacegmError(f"{file}: damaged; remove it, and the budget is divided anew") from error


def shortened(config: RunConfig, epochs: float) -> RunConfig:
    """A run of fewer epochs, whose schedules shrink in proportion.

    Milestones and warm-ups are shares of the run, and shrink by themselves; L-Softmax's annealing goes by steps.
    """
    l_softmax = config.loss.l_softmax
    l_softmax = replace(l_softmax, gamma=l_softmax.gamma * config.train.epochs / epochs)
    return replace(config, train=replace(config.train, epochs=epochs), loss=replace(config.loss, l_softmax=l_softmax))


def seconds_of(configs: Sequence[ImageRunConfig | FaceRunConfig]) -> list[float]:
    """Estimated seconds of each run, on one core or one GPU, by the time of a few steps that are not compiled."""
    rates: dict[str, float] = {}
    seconds = []
    for config in configs:
        network = str((config.model, config.train.batch_size))
        if network not in rates:
            rates[network] = _images_per_second(config)
        size = SIZES[config.data.set] if isinstance(config, ImageRunConfig) else FACES
        seconds.append(size.images * config.train.epochs / rates[network])
    return seconds


def _images_per_second(config: ImageRunConfig | FaceRunConfig) -> float:
    """Of training steps on random images."""
    import torch

    from facegm.data.samples import Batch
    from facegm.schedule import Progress
    from facegm.training.distributed import Processes
    from facegm.training.loop import Trainer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        task, size = _task(config)
        task.to(device).to(memory_format=torch.channels_last)
        count = min(config.train.batch_size, PROBED_IMAGES)
        images = torch.randint(256, (count, size.side, size.side, size.channels), dtype=torch.uint8)
        batch = Batch(images, torch.randint(size.classes, (count,))).to(device)
        processes = Processes(rank=0, world_size=1, device=device)
        trainer = Trainer(task, config.optimizer, replace(config.train, capture=False, accumulate=1), processes)
        seconds = []
        for _ in range(1 + PROBED_STEPS):
            begin = time.monotonic()
            terms = trainer.step(batch, Progress(0, 1), lambda _: None)
            terms["loss"].item()
            seconds.append(time.monotonic() - begin)
    finally:
        torch.set_num_threads(threads)
    return count / median(seconds[1:])


def _task(config: ImageRunConfig | FaceRunConfig) -> tuple[Any, SetSize]:
    """A task as the run would have it, on images that need no augmentation."""
    if isinstance(config, FaceRunConfig):
        from facegm.faces.task import FaceTask

        size = FACES._replace(side=config.preprocessing.crop_size)
        return FaceTask(config.model, config.loss, config.preprocessing, size.classes), size
    from facegm.classification.classifier import Description, ImageClassifier
    from facegm.classification.task import ImageTask

    size = SIZES[config.data.set]
    if config.data.set == "folder":
        size = size._replace(side=config.data.side)
    description = Description(
        model=config.model,
        loss=config.loss,
        preprocessing=config.preprocessing,
        classes=[str(number) for number in range(size.classes)],
        channels=size.channels,
        side=size.side,
    )
    return ImageTask(ImageClassifier(description), None), size
