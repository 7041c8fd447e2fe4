"""What a run says of itself: means over the steps since the last line, and its speed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facegm.data.draws import DrawPlan
from facegm.training import log
from facegm.training.distributed import Processes
from facegm.training.log import ProgressLog, RunningMeans, Stopwatch
from facegm.training.run_folder import read_metrics

ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))
PLAN = DrawPlan(labels=np.zeros(50, np.int64), batch_size=10, epochs=4, seed=0)


def test_a_line_has_the_means_over_all_steps_since_the_last_one() -> None:
    means = RunningMeans()
    for loss, accuracy in ((1.0, 0.5), (2.0, 0.0), (6.0, 1.0)):
        terms = {"loss": loss, "accuracy": accuracy}
        means.add({name: torch.tensor(value) for name, value in terms.items()} | {"distances": torch.full((4,), loss)})
    assert means.steps == 3
    assert means.take(ALONE) == pytest.approx({"loss": 3.0, "accuracy": 0.5})
    assert means.vectors["distances"].tolist() == [6.0] * 4, "those of the last step"
    means.add({"loss": torch.tensor(8.0), "accuracy": torch.tensor(0.25)})
    assert means.take(ALONE) == pytest.approx({"loss": 8.0, "accuracy": 0.25})
    assert not means.vectors


def test_means_lose_no_digits_over_many_steps() -> None:
    """In single precision the sum would stop to grow where a term is less than its last digit."""
    means = RunningMeans()
    means.add({"loss": torch.tensor(2.0**25)})
    for _ in range(99):
        means.add({"loss": torch.tensor(1.0)})
    assert means.take(ALONE)["loss"] == (2**25 + 99) / 100


def test_means_are_not_changed_with_what_they_were_given() -> None:
    """Protects a step that is replayed as a graph, whose terms lie always in the same memory."""
    means, loss = RunningMeans(), torch.tensor(1.0, dtype=torch.float64)
    for value in (1.0, 3.0):
        means.add({"loss": loss.fill_(value)})
    loss.fill_(100.0)
    assert means.take(ALONE)["loss"] == 2.0


@contextmanager
def opened(run: Path, first_step: int = 1) -> Iterator[ProgressLog]:
    progress_log = ProgressLog(run, PLAN, first_step)
    yield progress_log
    progress_log.close()


def test_speed_and_time_left_are_those_of_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects from a validation that would count as slow steps, and as much time to come."""
    now = 0.0
    monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: now))
    stopwatch = Stopwatch(0, PLAN.batch_size)
    with caplog.at_level("INFO"), opened(tmp_path) as progress_log:
        for step, seconds, seconds_beside in ((5, 10, 570), (10, 20, 0)):
            now += seconds
            progress_log.write(step, {"loss": 1.0, "images_per_second": stopwatch.images_per_second(step)}, {})
            now += seconds_beside
            stopwatch.restart(step)
    assert [line["images_per_second"] for line in read_metrics(tmp_path)] == [5.0, 2.5]
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [1.0, 2.0]
    assert ["0:00:30 left" in caplog.messages[0], "0:00:40 left" in caplog.messages[1]] == [True, True]
