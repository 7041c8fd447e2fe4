"""Training runs on a small store: same seed same run, exact resume, what they leave behind, and what is refused."""

import pickle
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from plain_embeddings import embed_faces
from quick_charts import geometry_drawn
from stores import NamedFaces
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator
from torch import nn

from facegm.cli import main
from facegm.config import parse_config
from facegm.data.preprocessing import Preprocessing, network_input
from facegm.embedding.model_file import load_embedder
from facegm.errors import FacegmError
from facegm.faces.config import FaceDataConfig, FaceRunConfig, ValidationConfig
from facegm.faces.run import train_run
from facegm.faces.samples import LabelledFaces
from facegm.losses.config import LossConfig, LossName
from facegm.losses.geometry import optimal_distance
from facegm.losses.gm_module import GMLossConfig
from facegm.models.face_network import FaceModelConfig
from facegm.training.checkpoint import checkpoints, load_newest_checkpoint, save_checkpoint
from facegm.training.config import OptimizerConfig, TrainConfig, to_yaml
from facegm.training.run_folder import read_metrics

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]
STEPS = 20  # 10 epochs of 48 // 24 steps


def small_config(store: Path, **train: Any) -> FaceRunConfig:
    course: dict[str, Any] = {
        "epochs": 10,
        "batch_size": 24,
        "precision": "float32",
        "log_every": 1,
        "checkpoint_every": 10,
    }
    return FaceRunConfig(
        data=FaceDataConfig(store=store, jitter=0.2),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.1, embedding_dim=16),
        optimizer=OptimizerConfig(warmup_fraction=0.1),
        train=TrainConfig(**(course | train)),
    )


@pytest.fixture(scope="module")
def run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run, with the chart of its means."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with geometry_drawn():
        train_run(small_config(small_store), folder)
    return folder


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
    store = NamedFaces(small_store)
    middle = preprocessing.center_crop(np.stack([preprocessing.resize(store.face(key)) for key in keys]))
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


class Judged(LabelledFaces):
    """Faces whose embeddings are judged as if they became better with each validation."""

    def __init__(self, store: Path, config: FaceRunConfig) -> None:
        super().__init__(NamedFaces(store), config.preprocessing)
        self.seen: list[np.ndarray] = []

    def score(self, embeddings: np.ndarray) -> dict[str, float]:
        self.seen.append(embeddings)
        return {"accuracy": 0.5 + len(self.seen) / 100}


def test_a_network_is_validated_while_it_is_trained(small_store: Path, tmp_path: Path) -> None:
    config = replace(small_config(small_store, epochs=5), validation=ValidationConfig(every_epochs=2))
    judged = Judged(small_store, config)
    train_run(config, tmp_path / "run", judged)
    found = {line["step"]: line.get("validation_accuracy") for line in read_metrics(tmp_path / "run")}
    assert {step: value for step, value in found.items() if value} == {4: 0.51, 8: 0.52, 10: 0.53}
    network, preprocessing, _ = load_embedder(tmp_path / "run" / "embedder.safetensors")
    store = NamedFaces(small_store)
    expected = embed_faces(network, preprocessing, np.stack([store.face(key) for key in judged.keys]))
    np.testing.assert_allclose(judged.seen[-1], expected, atol=1e-4)


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


@pytest.mark.parametrize("name", ["softmax", "center", "l_softmax", "rce", "cosface", "arcface"])
def test_every_loss_trains_by_its_name_alone(small_store: Path, tmp_path: Path, name: LossName) -> None:
    config = replace(small_config(small_store), loss=LossConfig(name=name))
    train_run(config, tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    assert "accuracy" in read_metrics(tmp_path / "run")[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--model.width=0.2", r"belongs to another run: model\.width was 0\.1, now 0\.2;"),
        ('--data.exclude_identities=["person_0"]', "the training data was 48 faces of 6 identities"),
        ("--train.seed=5", r"train\.seed was 0, now 5"),
        ("--optimizer.weight_decay=0.1", r"optimizer\.weight_decay was 0\.0005, now 0\.1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path, change: str, message: str) -> None:
    # As after an edit of the run's own configuration; checkpoints do not fit it any more.
    folder = tmp_path / "edited"
    shutil.copytree(run, folder)
    config = parse_config(folder / "config.yaml", FaceRunConfig, [change])
    (folder / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(FacegmError, match=message):
        train_run(config, folder)


def test_a_folder_of_another_run_is_refused(
    run: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(small_config(small_store, seed=3)))
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
