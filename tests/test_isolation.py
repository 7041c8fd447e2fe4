"""What tests compute on: one thread each, so that they run side by side, and no GPU but for those that need one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]

SEEN = """
import json, os, sys
import torch
print(json.dumps([torch.cuda.device_count(), torch.get_num_threads(), os.environ["CUDA_VISIBLE_DEVICES"]]))
"""


def test_neither_a_test_nor_what_it_starts_sees_a_gpu_or_takes_more_than_a_core(
    torchrun: Torchrun, tmp_path: Path
) -> None:
    (tmp_path / "seen.py").write_text(SEEN)
    new_python = subprocess.run([sys.executable, "seen.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    ranks = torchrun(2, ["seen.py"], tmp_path)
    assert ranks.returncode == 0, ranks.stderr
    for said in (new_python.stdout, *ranks.stdout.splitlines()):
        assert json.loads(said) == [0, 1, ""]
    assert (torch.cuda.device_count(), torch.get_num_threads(), cv2.getNumThreads()) == (0, 1, 1)


@pytest.mark.parametrize(
    ("asked", "visible"), [("", ""), ("not slow and not gpu", ""), ("slow", ""), ("gpu or slow", ""), ("gpu", "3")]
)
def test_gpus_are_seen_where_nothing_but_their_tests_is_run(
    asked: str, visible: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    conftest = pytestconfig.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))
    assert conftest is not None
    conftest.pytest_configure(SimpleNamespace(option=SimpleNamespace(markexpr=asked)))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_processes_in_place_of_torchruns_end_together(torchrun: Torchrun, tmp_path: Path) -> None:
    """Protects tests from waiting for ranks that wait for one which has failed."""
    (tmp_path / "failing.py").write_text(
        "import os, sys, time\n"
        "print('rank', os.environ['RANK'], *sys.argv[1:], flush=True)\n"
        "sys.exit('bad luck') if os.environ['RANK'] == '1' else time.sleep(1000)\n"
    )
    done = torchrun(3, ["failing.py", "--option"], tmp_path)
    assert done.returncode == 1
    assert "bad luck" in done.stderr
    assert "rank 1 --option" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failing.py"]
