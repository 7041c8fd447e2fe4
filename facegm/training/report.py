"""What is done beside the steps: lines of the log, checkpoints, validations, embeddings to look at, the export."""

import logging
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from facegm.schedule import Progress
from facegm.training.checkpoint import Resumed, save
from facegm.training.devices import Usage, autocast
from facegm.training.distributed import Processes
from facegm.training.finite import FiniteGuard
from facegm.training.log import VALIDATION, ProgressLog, RunningMeans, Stopwatch, best_validation, summary
from facegm.training.run_folder import forget_metrics_after, read_metrics
from facegm.training.setup import TrainingSetup

if TYPE_CHECKING:
    from facegm.training.loop import Trainer

logger = logging.getLogger(__name__)
EVALUATION_BATCH = 256
"""Images that a process evaluates at a time."""


class Report:
    """All processes gather numbers, save and validate; the main one writes.

    A step's checkpoint comes before its validation, which may fail or be interrupted, and its line of the log last: a
    run that goes on from a checkpoint whose line is missing does again what lies between.

    Args:
        run: the run folder.
        setup: what is trained.
        trainer: its state.
        processes: this process among those of the run.
        resumed: where the run goes on.
        guard: is shown the mean loss, and asked whether all steps were finite before anything of them is kept.
    """

    def __init__(
        self,
        run: Path,
        setup: TrainingSetup[Any],
        trainer: "Trainer[Any]",
        processes: Processes,
        resumed: Resumed,
        guard: FiniteGuard,
    ) -> None:
        self._run, self._setup, self._trainer, self._processes, self._guard = run, setup, trainer, processes, guard
        self._means = RunningMeans()
        self._usage = Usage(setup.task, setup.samples, processes.world_size)
        self._stopwatch = Stopwatch(resumed.step, setup.plan.batch_size)
        self._saved_step = resumed.step
        self._log: ProgressLog | None = None
        is_missing = bool(resumed.numbers)
        if processes.is_main:
            forget_metrics_after(run, resumed.step)
            is_missing = is_missing and all(line["step"] != resumed.step for line in read_metrics(run))
            self._log = ProgressLog(run, setup.plan, resumed.step if is_missing else resumed.step + 1)
        self._missing = resumed.numbers if processes.gather(str(is_missing))[0] == str(True) else {}

    def __enter__(self) -> "Report":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log:
            self._log.close()

    def catch_up(self) -> None:
        """Do what a run that was interrupted has left undone after its last checkpoint."""
        if self._missing:
            self._conclude(self._saved_step, self._missing, {})
            self._stopwatch.restart(self._saved_step)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Take in what a step has given."""
        self._means.add(terms)

    def write(self, step: int) -> None:
        """Do what is due after a step, counted from 1."""
        numbers = self._numbers(step)
        if self._setup.is_saved(step):
            self._save(step, numbers)
        self._conclude(step, numbers, self._means.vectors)
        self._stopwatch.restart(step)

    def write_stopped(self, step: int) -> None:
        """Save a run that is left after a step; where that step would be validated, the run that goes on does so."""
        if step == self._saved_step:
            return
        numbers = self._numbers(step) if self._means.steps else {}
        self._save(step, numbers)
        if self._log and numbers and not self._setup.is_validated(step):
            self._log.write(step, numbers, self._means.vectors)

    def finish(self) -> None:
        """Export a run that is at its end, and sum it up."""
        if self._processes.is_main:
            exported = self._setup.export(self._trainer.trained, False)
            logger.info(f"{summary(self._run, self._setup.plan)}\ndone: {exported}")
        self._processes.wait()

    def _numbers(self, step: int) -> dict[str, float]:
        """Of the steps since the last line, all processes together."""
        progress = Progress(step - 1, self._setup.plan.steps)
        rate = self._stopwatch.images_per_second(step)
        self._guard.settle()
        numbers = self._means.take(self._processes)
        self._guard.check(step, numbers["loss"])
        numbers |= self._setup.task.settings(progress)
        numbers |= {"learning_rate": self._setup.optimizer.rate(progress), "images_per_second": round(rate, 1)}
        return numbers | self._usage.numbers(rate)

    def _save(self, step: int, numbers: dict[str, float]) -> None:
        save(self._run, self._setup, self._trainer, step, numbers, is_main=self._processes.is_main)
        self._saved_step = step

    def _conclude(self, step: int, numbers: dict[str, float], vectors: dict[str, Tensor]) -> None:
        """What follows a checkpoint, ending with the line of the log."""
        setup, trained = self._setup, self._trainer.trained
        if setup.validation is not None and setup.is_validated(step):
            if step == setup.plan.steps and self._processes.is_main:
                setup.export(trained, False)  # a validation that fails shall not cost it
            with autocast(self._processes.device, self._trainer.dtype):
                found = trained.evaluate(setup.validation, batch_size=EVALUATION_BATCH, workers=setup.workers)
            numbers = numbers | {f"{VALIDATION}{name}": value for name, value in found.items()}
            if self._processes.is_main and found["accuracy"] > best_validation(self._run):
                setup.export(trained, True)
        if self._log:
            if setup.project is not None and setup.is_projected(step):
                self._log.project(step, setup.project(trained))
            self._log.write(step, numbers, vectors)
