"""Protects what a run begins with: weights of another one, frozen parts, and a look at where its time goes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exact_resume import assert_equal
from face_runs import exported, small_config, write_config
from safetensors.torch import save_file

from facegm.cli import main
from facegm.errors import FacegmError
from facegm.faces.run import train_run
from facegm.training.checkpoint import checkpoints, load_newest_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights are averaged."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_run(small_config(small_store, ema_decay=0.8), folder)
    return folder


def first_weights(run: Path) -> dict[str, torch.Tensor]:
    """What a run of one step with a learning rate of nearly nothing began with."""
    state = load_newest_checkpoint(run)
    assert state is not None
    return dict(state["task"])


def begin(folder: Path, store: Path, *options: str) -> dict[str, torch.Tensor]:
    command = write_config(folder, small_config(store, epochs=1, batch_size=48))
    assert main([*command, "--optimizer.learning_rate=1e-30", *options]) == 0
    return first_weights(folder / "run")


def test_a_run_begins_with_the_weights_of_an_exported_one(
    whole: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    file = whole / "embedder.safetensors"
    with caplog.at_level("INFO"):
        weights = begin(tmp_path, small_store, "--init", str(file))
    for name, weight in exported(whole).items():
        torch.testing.assert_close(weights[f"network.{name}"], weight, rtol=0, atol=1e-25)
    assert f"{file}: begins at random, being not in it: loss.means" in caplog.text
    assert "in another shape" not in caplog.text


def test_a_run_begins_with_all_of_a_checkpoint_its_average_where_it_has_one(
    whole: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    file = checkpoints(whole)[-1]
    expected = torch.load(file, weights_only=True)["average"]["task"]
    with caplog.at_level("INFO"):
        weights = begin(tmp_path, small_store, f"--train.init={file}")
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-25)
    assert "begins at random" not in caplog.text


def test_what_is_in_another_shape_is_named_and_random(
    whole: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    file = checkpoints(whole)[-1]
    with caplog.at_level("INFO"):
        weights = begin(tmp_path, small_store, "--init", str(file), '--data.exclude_identities=["person_0"]', *FORTY)
    expected = torch.load(file, weights_only=True)["average"]["task"]
    assert f"{file}: begins at random, being in another shape: loss.means ([6, 16] there, [5, 16] here)" in caplog.text
    assert weights["loss.means"].shape == (5, 16)
    for name in expected.keys() - {"loss.means"}:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-25)


FORTY = ["--train.batch_size=40"]
"""Faces, without those of an identity."""


def test_a_run_that_goes_on_does_not_begin_with_those_weights_again(
    whole: Path, small_store: Path, tmp_path: Path
) -> None:
    init = checkpoints(whole)[-1]
    train_run(small_config(small_store, init=init), tmp_path / "straight")
    train_run(small_config(small_store, init=init), tmp_path / "half")
    checkpoints(tmp_path / "half")[-1].unlink()
    train_run(small_config(small_store, init=init), tmp_path / "half")
    assert_equal(exported(tmp_path / "half"), exported(tmp_path / "straight"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"train\.init: .*weights\.safetensors: no such file; name an exported model or a checkpoint"),
        (b"nothing", r"weights\.safetensors: damaged or not a safetensors file"),
        ({"unknown": torch.zeros(3)}, r"nothing in it has the names and shapes of FaceResNet27"),
    ],
    ids=["missing", "damaged", "of something else"],
)
def test_weights_that_cannot_be_begun_with_are_refused(
    small_store: Path, tmp_path: Path, content: bytes | dict[str, torch.Tensor] | None, message: str
) -> None:
    file = tmp_path / "weights.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file(content, file)
    with pytest.raises(FacegmError, match=message):
        train_run(small_config(small_store, init=file), tmp_path / "run")
    assert not checkpoints(tmp_path / "run")


def test_frozen_parts_stay_as_they_were_to_the_bit(whole: Path, small_store: Path, tmp_path: Path) -> None:
    init, beginnings = checkpoints(whole)[-1], ("network.trunk.5.", "network.embedding", "loss")
    config = small_config(small_store, init=init, freeze=list(beginnings))
    train_run(replace(config, optimizer=replace(config.optimizer, weight_decay=0.1)), tmp_path / "run")
    before, after = torch.load(init, weights_only=True)["average"]["task"], first_weights(tmp_path / "run")
    frozen = {name for name in before if name.startswith(beginnings)}
    assert len(frozen) == 7
    for name in before:
        assert torch.equal(after[name], before[name]) == (name in frozen), name


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["network.head", "loss"], r"train\.freeze: network\.head: no such part; there are network\."),
        (["network", "loss"], r"train\.freeze: nothing is left to train"),
    ],
)
def test_what_cannot_be_frozen_is_refused(small_store: Path, tmp_path: Path, freeze: list[str], message: str) -> None:
    with pytest.raises(FacegmError, match=message):
        train_run(small_config(small_store, freeze=freeze), tmp_path / "run")


def test_a_profile_of_some_steps_is_left_in_the_run_folder(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*write_config(tmp_path, small_config(small_store, log_every=12)), "--profile"]) == 0
    (trace,) = (tmp_path / "run" / "profile").glob("*.pt.trace.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"ProfilerStep#8", "aten::convolution", "Optimizer.step#LazySGD.step"} <= names
