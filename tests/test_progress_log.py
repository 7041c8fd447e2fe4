"""What a run says of its speed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from facegm.data.draws import DrawPlan
from facegm.training import progress_log
from facegm.training.progress_log import ProgressLog
from facegm.training.run_folder import read_metrics


def test_speed_and_time_left_are_those_of_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects from a validation that would count as slow steps, and as much time to come."""
    now = 0.0
    monkeypatch.setattr(progress_log, "time", SimpleNamespace(monotonic=lambda: now))
    plan = DrawPlan(labels=np.zeros(50, np.int64), batch_size=10, epochs=4, seed=0)
    with caplog.at_level("INFO"), ProgressLog(tmp_path, plan, first_step=0) as log:
        now += 10
        with log.beside_training():
            now += 500
        log.write(5, {"loss": 1.0}, {})
        with log.beside_training():
            now += 70
        now += 20
        log.write(10, {"loss": 1.0}, {})
    assert [line["images_per_second"] for line in read_metrics(tmp_path)] == [5.0, 2.5]
    assert ["0:00:30 left" in caplog.messages[0], "0:00:40 left" in caplog.messages[1]] == [True, True]
