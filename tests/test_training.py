"""Training runs on a small store: same seed same run, exact resume, one process equals two, and what is refused."""

import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator
from torch import nn

from facegm.cli import main
from facegm.config import parse_config
from facegm.data.preprocessing import Preprocessing, network_input
from facegm.data.store import FaceStore
from facegm.embedding.model_file import load_embedder
from facegm.errors import FacegmError
from facegm.losses.config import LossConfig, LossName
from facegm.losses.geometry import optimal_distance
from facegm.losses.gm_module import GMLossConfig
from facegm.models.face_resnet import FaceResNetConfig
from facegm.training.checkpoint import checkpoints, load_newest_checkpoint, save_checkpoint
from facegm.training.config import DataConfig, OptimizerConfig, RunConfig, TrainConfig, ValidationConfig
from facegm.training.run import train_run
from facegm.training.run_folder import read_metrics

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]
STEPS = 20  # 10 epochs of 48 // 24 steps


def small_config(store: Path, **train: Any) -> RunConfig:
    course: dict[str, Any] = {
        "epochs": 10,
        "batch_size": 24,
        "precision": "float32",
        "log_every": 1,
        "checkpoint_every": 10,
    }
    return RunConfig(
        data=DataConfig(store=store, jitter=0.2),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceResNetConfig(width=0.1, embedding_dim=16),
        optimizer=OptimizerConfig(warmup_fraction=0.1),
        train=TrainConfig(**(course | train)),
    )


@pytest.fixture(scope="module")
def run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_run(small_config(small_store), folder)
    return folder


@contextmanager
def float64() -> Iterator[None]:
    """Training in double precision: what is left of a difference is then no rounding.

    In single precision it may be. A tie in a maximum over pixels that falls otherwise, in one sample at one step, moves
    the loss by 1e-5 at once, and some steps later by 1e-3; where that happens depends on the processor.
    """
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def float64_script(folder: Path) -> str:
    """What trains so under torchrun."""
    (folder / "float64.py").write_text(
        "import sys, torch\nfrom facegm.cli import main\ntorch.set_default_dtype(torch.float64)\nsys.exit(main())\n"
    )
    return "float64.py"


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_embedder(folder / "embedder.safetensors")[0].state_dict()


def assert_same_weights(a: Path, b: Path) -> None:
    assert all(torch.equal(tensor, weights(b)[name]) for name, tensor in weights(a).items())


def test_a_run_learns_and_leaves_its_records(run: Path, small_store: Path) -> None:
    metrics = read_metrics(run)
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    assert losses(run)[-1] < losses(run)[0]
    assert metrics[-1]["optimal_distance"] == pytest.approx(optimal_distance(6, 0.001))
    assert {"own_distance", "mean_distance", "posterior", "classification", "likelihood"} <= set(metrics[0])
    assert f"store: {small_store}" in (run / "config.yaml").read_text()
    assert "torch" in (run / "environment.json").read_text()
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, STEPS + 1))
    assert [path.name for path in checkpoints(run)] == ["step-00000010.pt", "step-00000020.pt"]
    assert "6 of 6 means" in (run / "geometry.svg").read_text()


def test_own_distances_and_embeddings_are_shown(run: Path, small_store: Path) -> None:
    """Protects TensorBoard's histogram against the mean logged beside it, and the projector's points and pictures."""
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={HISTOGRAMS: 0}).Reload()
    for event, line in zip(board.Histograms("own_distances"), read_metrics(run), strict=True):
        assert event.histogram_value.num == 24
        assert event.histogram_value.sum / 24 == pytest.approx(line["own_distance"], rel=1e-5)
    folders = sorted(path.parent.parent for path in (run / "tensorboard").glob("*/*/tensors.tsv"))
    assert [folder.name for folder in folders] == ["00005", "00010", "00015", "00020"]
    (at_end,) = folders[-1].iterdir()
    embeddings = np.loadtxt(at_end / "tensors.tsv")
    names = (at_end / "metadata.tsv").read_text().split()
    assert names == [f"person_{k}" for k in range(6) for _ in range(8)]
    network, preprocessing, _ = load_embedder(run / "embedder.safetensors")
    keys = [f"person_{k}/person_{k}_{photo:04}.jpg" for k in range(6) for photo in range(1, 9)]
    store = FaceStore(small_store)
    middle = preprocessing.center_crop(np.stack([preprocessing.resize(store.read_face(key)) for key in keys]))
    expected = network(network_input(torch.from_numpy(middle)))
    np.testing.assert_allclose(embeddings, expected.detach().numpy(), atol=1e-4)
    sprite = cv2.imread(str(at_end / "sprite.png"))
    assert sprite is not None
    thumbnail = nn.functional.adaptive_avg_pool2d(torch.from_numpy(middle[0]).permute(2, 0, 1).float(), 32)
    assert abs(sprite[:32, :32, ::-1] - thumbnail.permute(1, 2, 0).numpy()).max() <= 1


def test_a_finished_run_is_summed_up(run: Path, small_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        train_run(small_config(small_store), run)  # at its end already
    seconds = sum(24 / line["images_per_second"] for line in read_metrics(run))
    assert f"20 steps of 24 images in {timedelta(seconds=round(seconds))}, {480 / seconds:,.0f} img/s" in caplog.text
    assert f"at the end loss {losses(run)[-1]:.4f}" in caplog.text


def test_a_network_is_validated_while_it_is_trained(small_store: Path, tmp_path: Path) -> None:
    seen: list[tuple[bool, int]] = []

    def validate(network: nn.Module, preprocessing: Preprocessing) -> dict[str, float]:
        seen.append((network.training, preprocessing.crop_size))
        return {"validation_accuracy": 0.5 + len(seen) / 100}

    config = replace(small_config(small_store, epochs=5), validation=ValidationConfig(every_epochs=2))
    train_run(config, tmp_path / "run", validate)
    found = {line["step"]: line.get("validation_accuracy") for line in read_metrics(tmp_path / "run")}
    assert {step: value for step, value in found.items() if value} == {4: 0.51, 8: 0.52, 10: 0.53}
    assert [crop for _, crop in seen] == [48] * 3


def test_same_seed_same_run_and_another_seed_another(run: Path, small_store: Path, tmp_path: Path) -> None:
    train_run(small_config(small_store), tmp_path / "again")
    train_run(small_config(small_store, seed=1), tmp_path / "other")
    assert losses(tmp_path / "again") == losses(run)
    assert_same_weights(tmp_path / "again", run)
    assert losses(tmp_path / "other") != losses(run)


def test_ten_steps_and_resume_equal_twenty(run: Path, small_store: Path, tmp_path: Path) -> None:
    # What a kill after the first checkpoint leaves: step 10 saved, later lines of the log, a half-written file.
    folder = tmp_path / "resumed"
    train_run(small_config(small_store), folder)
    (folder / "checkpoints" / "step-00000020.pt").unlink()
    (folder / "checkpoints" / ".step-00000020.pt.partial").write_bytes(b"half")
    (folder / "embedder.safetensors").unlink()
    train_run(small_config(small_store), folder)
    assert losses(folder) == losses(run)
    assert_same_weights(folder, run)


def test_streamed_faces_train_like_resident_ones(run: Path, small_store: Path, tmp_path: Path) -> None:
    config = small_config(small_store)
    train_run(replace(config, data=replace(config.data, residency="stream", workers=2)), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(run)


def test_bfloat16_trains_near_float32(run: Path, small_store: Path, tmp_path: Path) -> None:
    train_run(small_config(small_store, precision="bfloat16", epochs=1), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(run)[:2], rel=0.02)
    assert losses(tmp_path / "run") != losses(run)[:2]


def test_a_kill_while_saving_leaves_nothing_for_ever(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, keep=1)
    (tmp_path / "checkpoints" / ".step-00000003.pt.partial").write_bytes(b"half")
    save_checkpoint(tmp_path, 2, {}, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.pt"]


def test_resuming_a_finished_run_changes_nothing(small_store: Path, tmp_path: Path) -> None:
    config = small_config(small_store, epochs=1)
    train_run(config, tmp_path / "run")
    before = losses(tmp_path / "run")
    train_run(config, tmp_path / "run")
    assert losses(tmp_path / "run") == before


def gm_config(store: Path, *, shard_means: bool) -> RunConfig:
    """30 steps."""
    return replace(small_config(store, epochs=15), loss=LossConfig(gm=GMLossConfig(shard_means=shard_means)))


@pytest.fixture(scope="module")
def exact_run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that has all means, in double precision."""
    folder = tmp_path_factory.mktemp("runs") / "exact"
    with float64():
        train_run(gm_config(small_store, shard_means=False), folder)
    return folder


@pytest.mark.parametrize("processes", [2, 4])
def test_gloo_processes_equal_one(
    exact_run: Path, small_store: Path, tmp_path: Path, torchrun: Torchrun, processes: int
) -> None:
    (tmp_path / "config.yaml").write_text(gm_config(small_store, shard_means=False).to_yaml())
    script = [float64_script(tmp_path), "train", "--config", "config.yaml", "--output", "run"]
    done = torchrun(processes, script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(losses(exact_run)) == 30
    assert losses(tmp_path / "run") == pytest.approx(losses(exact_run), abs=1e-9)


@pytest.fixture(scope="module")
def sharded_run(small_store: Path, tmp_path_factory: pytest.TempPathFactory, torchrun: Torchrun) -> Path:
    """One run of four processes that share the means of six identities: two, one, two and one."""
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "config.yaml").write_text(gm_config(small_store, shard_means=True).to_yaml())
    done = torchrun(4, [float64_script(folder), "train", "--config", "config.yaml", "--output", "run"], folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_processes_that_share_the_means_equal_one_that_has_all(exact_run: Path, sharded_run: Path) -> None:
    assert losses(sharded_run) == pytest.approx(losses(exact_run), abs=1e-9)
    for name in ("mean_distance", "own_distance", "posterior", "gradient_norm"):
        found, expected = ([line[name] for line in read_metrics(folder)] for folder in (sharded_run, exact_run))
        assert found == pytest.approx(expected, rel=1e-9)
    state, expected_state = load_newest_checkpoint(sharded_run), load_newest_checkpoint(exact_run)
    assert state is not None
    assert expected_state is not None
    torch.testing.assert_close(state["task"], expected_state["task"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state["optimizer"], expected_state["optimizer"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_checkpoint_of_four_processes_resumes_on_other_numbers(
    exact_run: Path, sharded_run: Path, tmp_path: Path, torchrun: Torchrun, processes: int
) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(sharded_run, folder)
    (folder / "checkpoints" / "step-00000030.pt").unlink()
    done = torchrun(processes, [float64_script(tmp_path), "train", "--resume", "resumed"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps 20 to 30" in done.stdout
    assert losses(folder) == pytest.approx(losses(exact_run), abs=1e-9)


@pytest.mark.parametrize("name", ["softmax", "center", "l_softmax", "rce", "cosface", "arcface"])
def test_every_loss_trains_by_its_name_alone(small_store: Path, tmp_path: Path, name: LossName) -> None:
    config = replace(small_config(small_store), loss=LossConfig(name=name))
    train_run(config, tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    assert "accuracy" in read_metrics(tmp_path / "run")[-1]


def test_centers_are_the_same_on_two_processes_as_on_one(small_store: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    config = replace(small_config(small_store), loss=LossConfig(name="center"))
    with float64():
        train_run(config, tmp_path / "one")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = torchrun(2, [float64_script(tmp_path), "train", "--config", "config.yaml", "--output", "two"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-9)


def test_ranks_with_other_data_stop_with_one_message(small_store: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    script = """
import os
from pathlib import Path
from facegm.config import parse_config
from facegm.training.run import train_run

seed = os.environ["RANK"]
train_run(parse_config(Path("config.yaml"), [f"--train.seed={seed}"]), Path("run"))
"""
    (tmp_path / "config.yaml").write_text(small_config(small_store).to_yaml())
    (tmp_path / "unequal.py").write_text(script)
    done = torchrun(2, ["unequal.py"], tmp_path)
    assert done.returncode != 0
    assert "the processes of this run differ in data or configuration" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--model.width=0.2", r"belongs to another run: model was .*width=0\.1"),
        ('--data.exclude_identities=["person_0"]', "the training data was 48 faces of 6 identities"),
        ("--train.seed=5", r"train\.seed was 0, now 5"),
        ("--optimizer.weight_decay=0.1", "optimizer was .*weight_decay=0"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path, change: str, message: str) -> None:
    # As after an edit of the run's own configuration; checkpoints do not fit it any more.
    folder = tmp_path / "edited"
    shutil.copytree(run, folder)
    config = parse_config(folder / "config.yaml", [change])
    (folder / "config.yaml").write_text(config.to_yaml())
    with pytest.raises(FacegmError, match=message):
        train_run(config, folder)


def test_a_folder_of_another_run_is_refused(
    run: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(small_config(small_store, seed=3).to_yaml())
    assert main(["train", "--config", str(tmp_path / "config.yaml"), "--output", str(run)]) == 1
    assert "holds a run of another configuration (train.seed: 0, now 3)" in capsys.readouterr().err


def test_what_may_change_can_be_edited_in_the_folder(
    run: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a run that moves with its store: the path is edited, and keys that were not there yet are defaults."""
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(small_store, tmp_path / "moved")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["store"] = "moved"
    del config["train"]["compile"]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "run"]) == 0
    assert main(["train", "--config", "run/config.yaml", "--output", "run"]) == 0


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(Malicious()), pickle.dumps({"format": 1})])
def test_a_damaged_or_malicious_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000010.pt").write_bytes(content)
    with pytest.raises(FacegmError, match=r"step-00000010\.pt: damaged or not a facegm checkpoint"):
        load_newest_checkpoint(tmp_path)


def test_of_a_torn_checkpoint_the_one_before_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 20):
        save_checkpoint(tmp_path, step, {"task": {}}, keep=2)
    torn = tmp_path / "checkpoints" / "step-00000020.pt"
    torn.write_bytes(torn.read_bytes()[:-200])
    state = load_newest_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 10
    assert f"{torn}: damaged" in caplog.text


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(
    small_store: Path, tmp_path: Path, precision: str
) -> None:
    config = small_config(small_store, checkpoint_every=2, precision=precision)
    wild = replace(config, optimizer=OptimizerConfig(learning_rate=1e30, clip_gradient=float("inf")))
    with pytest.raises(
        FacegmError, match=r"at step \d+ the loss or its gradient became (nan|inf).* lower optimizer\.learning_rate"
    ) as stop:
        train_run(wild, tmp_path / "run")
    (listing,) = (tmp_path / "run").glob("not-finite-step-*.txt")
    assert str(listing) in str(stop.value)
    assert len(listing.read_text().splitlines()) == 24
    state = load_newest_checkpoint(tmp_path / "run")
    assert state is None or all(tensor.isfinite().all() for tensor in state["task"].values())


def test_what_the_loss_cannot_do_here_is_refused_before_anything_is_written(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    config = replace(small_config(small_store), loss=LossConfig(gm=GMLossConfig(implementation="fused")))
    with pytest.raises(FacegmError, match=r"loss\.gm: implementation: fused, but the device is cpu"):
        train_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FacegmError, match="exists and is not a run folder; give another --output"):
        train_run(small_config(small_store), tmp_path)
