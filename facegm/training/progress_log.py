"""What a run says of itself: one aligned console line, TensorBoard and `metrics.jsonl`."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from facegm.data.draws import DrawPlan
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
)
"""Term, its short name, width and digits on the console line, where the loss has it."""


class Projection(NamedTuple):
    """What TensorBoard's projector shows."""

    embeddings: Float[Tensor, "samples dim"]
    names: list[str]
    """The class of each sample."""
    pictures: Float[Tensor, "samples 3 side side"]
    """RGB, 0 to 1."""


class ProgressLog:
    """Logs of the main process.

    Args:
        run: the run folder.
        plan: the numbers of the run.
        first_step: steps done before, in an earlier part of a resumed run.
    """

    def __init__(self, run: Path, plan: DrawPlan, first_step: int) -> None:
        self._run, self._plan = run, plan
        self._last_step, self._last_time = first_step, time.monotonic()
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> "ProgressLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._board.close()

    @contextmanager
    def beside_training(self) -> Iterator[None]:
        """Leave out of the images per second, and so of the time left, what is done within."""
        start = time.monotonic()
        yield
        self._last_time += time.monotonic() - start

    def write(self, step: int, terms: dict[str, float], distributions: dict[str, Tensor]) -> None:
        """Log the terms of the step that is done, counted from 1, and to TensorBoard also histograms."""
        now, steps = time.monotonic(), self._plan.steps
        seconds_a_step = (now - self._last_time) / (step - self._last_step)
        rate = self._plan.batch_size / seconds_a_step
        self._last_step, self._last_time = step, now
        for name, value in (terms | {"images_per_second": rate}).items():
            self._board.add_scalar(name, value, step)
        for name, values in distributions.items():
            self._board.add_histogram(name, values, step)
        epoch = round(step / self._plan.steps_per_epoch, 4)
        append_metrics(self._run, {"step": step, "epoch": epoch, **terms, "images_per_second": round(rate, 1)})
        known = [term for term in CONSOLE_TERMS if term[0] in terms]
        shown = "  ".join(f"{title} {terms[name]:{width}.{digits}f}" for name, title, width, digits in known)
        left = timedelta(seconds=round((steps - step) * seconds_a_step))
        logger.info(f"step {step:>{len(str(steps))}}/{steps}  {shown}  {rate:6.0f} img/s  {left} left")

    def project(self, step: int, projection: Projection) -> None:
        """Give embeddings after a step, counted from 1, to TensorBoard's projector."""
        # An interrupted run may have been here before; TensorBoard would only warn of it.
        shutil.rmtree(Path(self._board.log_dir, f"{step:05}"), ignore_errors=True)
        embeddings, names, pictures = projection
        self._board.add_embedding(embeddings, metadata=names, label_img=pictures, global_step=step)


def summary(run: Path, plan: DrawPlan) -> str:
    """One line on a run that is at its end; its time is that of training, without interruptions and validations."""
    lines = read_metrics(run)
    steps_before = [0, *(line["step"] for line in lines)]
    seconds = sum(
        (line["step"] - before) * plan.batch_size / line["images_per_second"]
        for before, line in zip(steps_before, lines, strict=False)
    )
    images = plan.steps * plan.batch_size
    known = [term for term in CONSOLE_TERMS if term[0] in lines[-1] and term[0] != "learning_rate"]
    terms = ", ".join(f"{title} {lines[-1][name]:.{digits}f}" for name, title, _, digits in known)
    return (
        f"{plan.steps:,} steps of {plan.batch_size} images in {timedelta(seconds=round(seconds))}, "
        f"{images / seconds:,.0f} img/s; at the end {terms}"
    )
