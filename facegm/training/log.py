"""What a run says of itself: one aligned console line, TensorBoard and `metrics.jsonl`."""

import logging
import math
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from facegm.data.draws import DrawPlan
from facegm.training.distributed import Processes
from facegm.training.run_folder import append_metrics, read_metrics

logger = logging.getLogger(__name__)
CONSOLE_TERMS = (
    ("loss", "loss", 8, 4),
    ("classification", "cls", 8, 4),
    ("likelihood", "lkd", 8, 2),
    ("center", "center", 8, 2),
    ("accuracy", "acc", 6, 3),
    ("own_distance", "own", 6, 2),
    ("mean_distance", "means", 6, 2),
    ("validation_accuracy", "valid", 6, 4),
    ("learning_rate", "lr", 7, 4),
    ("share_of_peak", "peak", 5, 3),
)
"""Term, its short name, width and digits on the console line, where a run has it."""
VALIDATION = "validation_"
"""What the names of numbers of a validation begin with."""


class RunningMeans:
    """Means of a step's named numbers over the steps since the last line of the log, gathered on the device."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums = torch.zeros(())
        self.steps = 0
        """Steps that were taken in."""
        self.vectors: dict[str, Tensor] = {}
        """The last step's vectors, for histograms."""

    def add(self, terms: dict[str, Tensor]) -> None:
        """Take in a step's terms: numbers, which are summed up, and vectors."""
        numbers = {name: value for name, value in terms.items() if not value.ndim}
        values = torch.stack([value.to(torch.float64) for value in numbers.values()])
        if not self._names:
            self._names, self._sums, self.steps = list(numbers), torch.zeros_like(values), 0
        self._sums += values
        self.steps += 1
        self.vectors = {name: value for name, value in terms.items() if value.ndim}

    def take(self, processes: Processes) -> dict[str, float]:
        """The means over steps and processes, and begin anew; the host waits for the device."""
        means = processes.mean(self._sums / self.steps).tolist()
        named = dict(zip(self._names, means, strict=True))
        self._names, self.steps = [], 0
        return named


class Projection(NamedTuple):
    """What TensorBoard's projector shows."""

    embeddings: Float[Tensor, "samples dim"]
    names: list[str]
    """The class of each sample."""
    pictures: Float[Tensor, "samples 3 side side"]
    """RGB, 0 to 1."""


class Stopwatch:
    """The speed of training alone: it is started again after whatever else was done.

    Args:
        step: steps that are done.
        batch_size: images of a step, over all processes.
    """

    def __init__(self, step: int, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begin to count at the end of a step."""
        self._step, self._start = step, time.monotonic()

    def images_per_second(self, step: int) -> float:
        """Since the last start, to the end of a step."""
        return (step - self._step) * self._batch_size / (time.monotonic() - self._start)


class ProgressLog:
    """Logs of the main process.

    Args:
        run: the run folder.
        plan: the numbers of the run.
        first_step: the first whose line is to come, counted from 1.
    """

    def __init__(self, run: Path, plan: DrawPlan, first_step: int) -> None:
        self._run, self._plan = run, plan
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)

    def close(self) -> None:
        """Write what TensorBoard's writer still holds."""
        self._board.close()

    def write(self, step: int, numbers: dict[str, float], distributions: dict[str, Tensor]) -> None:
        """Log the numbers of a step that is done, counted from 1, and to TensorBoard also histograms."""
        plan = self._plan
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        for name, values in distributions.items():
            self._board.add_histogram(name, values, step)
        append_metrics(self._run, {"step": step, "epoch": round(step / plan.steps_per_epoch, 4), **numbers})
        known = [term for term in CONSOLE_TERMS if term[0] in numbers]
        shown = "  ".join(f"{title} {numbers[name]:{width}.{digits}f}" for name, title, width, digits in known)
        rate = numbers["images_per_second"]
        left = timedelta(seconds=round((plan.steps - step) * plan.batch_size / rate))
        logger.info(f"step {step:>{len(str(plan.steps))}}/{plan.steps}  {shown}  {rate:6.0f} img/s  {left} left")

    def project(self, step: int, projection: Projection) -> None:
        """Give embeddings after a step, counted from 1, to TensorBoard's projector."""
        # An interrupted run may have been here before; TensorBoard would only warn of it.
        shutil.rmtree(Path(self._board.log_dir, f"{step:05}"), ignore_errors=True)
        embeddings, names, pictures = projection
        self._board.add_embedding(embeddings, metadata=names, label_img=pictures, global_step=step)


def best_validation(run: Path) -> float:
    """Highest accuracy of the validations so far; minus infinity before the first."""
    name = f"{VALIDATION}accuracy"
    return max((line[name] for line in read_metrics(run) if name in line), default=-math.inf)


def summary(run: Path, plan: DrawPlan) -> str:
    """A run that is at its end, in a line or two; its time is that of training, without interruptions and validations.

    Where it was validated, the last and the best validation stand side by side.
    """
    lines = read_metrics(run)
    steps_before = [0, *(line["step"] for line in lines)]
    seconds = sum(
        (line["step"] - before) * plan.batch_size / line["images_per_second"]
        for before, line in zip(steps_before, lines, strict=False)
    )
    images = plan.steps * plan.batch_size
    shown = [term for term in CONSOLE_TERMS if term[0] in lines[-1].keys() - {"learning_rate", "share_of_peak"}]
    terms = ", ".join(f"{title} {lines[-1][name]:.{digits}f}" for name, title, _, digits in shown)
    text = (
        f"{plan.steps:,} steps of {plan.batch_size} images in {timedelta(seconds=round(seconds))}, "
        f"{images / seconds:,.0f} img/s; at the end {terms}"
    )
    name = f"{VALIDATION}accuracy"
    validated = [line for line in lines if name in line]
    if validated:
        best = max(validated, key=lambda line: float(line[name]))
        text += (
            f"\nvalidation accuracy {validated[-1][name]:.4f} in the last epoch, {validated[-1]['epoch']:g}; "
            f"{best[name]:.4f} in the best one, {best['epoch']:g}"
        )
    return text
