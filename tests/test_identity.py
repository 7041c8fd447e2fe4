"""By what a checkpoint knows its run: what may change, what may not, and what older versions have left."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_resume import assert_equal, log_of
from face_runs import exported, small_config

from facegm.errors import FacegmError
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.run import train_run
from facegm.identity import FREE, differences, identity_of
from facegm.losses.angular import ArcFaceConfig
from facegm.losses.config import LossConfig
from facegm.losses.gm_module import GMLossConfig
from facegm.training.checkpoint import checkpoints, load_newest_checkpoint
from facegm.training.config import to_yaml


@dataclass(frozen=True, kw_only=True)
class Section:
    rate: float = 0.5
    steps: list[float] = field(default_factory=lambda: [0.1, 0.2])
    threads: int = field(default=1, metadata=FREE)


@dataclass(frozen=True, kw_only=True)
class Config:
    file: Path
    place: Path = field(default=Path("here"), metadata=FREE)
    section: Section = field(default_factory=Section)
    spare: Section = field(default_factory=Section, metadata=FREE)


@dataclass(frozen=True, kw_only=True)
class LaterSection(Section):
    power: int = 2


@dataclass(frozen=True, kw_only=True)
class LaterConfig(Config):
    """With a key more in a section, and two sections more, one of which has defaults of its own here."""

    section: LaterSection = field(default_factory=LaterSection)
    new: Section = field(default_factory=Section)
    slow: Section = field(default_factory=lambda: Section(rate=0.01))


CONFIG = Config(file=Path("a"))
SAVED = identity_of(CONFIG)


def test_the_identity_is_all_that_is_not_free_as_plain_values() -> None:
    assert SAVED == {"file": "a", "section.rate": 0.5, "section.steps": [0.1, 0.2]}


@pytest.mark.parametrize(
    "same",
    [
        Config(file=Path("a"), place=Path("there")),
        Config(file=Path("a"), section=Section(threads=8)),
        Config(file=Path("a"), spare=Section(rate=0.7)),
        LaterConfig(file=Path("a")),
        LaterConfig(file=Path("a"), section=LaterSection(threads=3)),
    ],
)
def test_what_is_free_may_change_and_what_was_added_since_has_its_default(same: Config) -> None:
    assert differences(SAVED, same) == []


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Config(file=Path("b")), "file was a, now b"),
        (Config(file=Path("a"), section=Section(steps=[0.1])), "section.steps was [0.1, 0.2], now [0.1]"),
        (LaterConfig(file=Path("a"), section=LaterSection(power=3)), "section.power was 2, now 3"),
        (LaterConfig(file=Path("a"), new=Section(rate=0.6)), "new.rate was 0.5, now 0.6"),
        (LaterConfig(file=Path("a"), slow=Section()), "slow.rate was 0.01, now 0.5"),
    ],
)
def test_what_was_changed_is_named_with_both_values(other: Config, expected: str) -> None:
    assert differences(SAVED, other) == [expected]


def test_a_key_that_is_no_more_is_named() -> None:
    assert differences(identity_of(LaterConfig(file=Path("a"), new=Section(rate=0.6))), CONFIG) == [
        f"{key} was {value}, now no key of this version"
        for key, value in {
            "section.power": 2,
            "new.rate": 0.6,
            "new.steps": [0.1, 0.2],
            "slow.rate": 0.01,
            "slow.steps": [0.1, 0.2],
        }.items()
    ]


def test_settings_of_a_loss_that_is_not_in_use_do_not_matter() -> None:
    config = FaceRunConfig(data=FaceDataConfig(store=Path("x")))
    saved = identity_of(config)
    assert "loss.gm.alpha" in saved
    assert not any(key.startswith("loss.arcface") for key in saved)
    other = replace(config, loss=replace(config.loss, arcface=ArcFaceConfig(margin=0.3)))
    assert differences(saved, other) == []
    gm = replace(config, loss=LossConfig(gm=GMLossConfig(alpha=0.5)))
    assert differences(saved, gm) == ["loss.gm.alpha was 0.01, now 0.5"]
    arcface = replace(other, loss=replace(other.loss, name="arcface"))
    assert differences(saved, arcface) == ["loss.name was gm, now arcface", "loss.arcface.margin was 0.5, now 0.3"]


def test_a_run_from_before_networks_had_names_is_one_of_a_resnet27() -> None:
    config = FaceRunConfig(data=FaceDataConfig(store=Path("x")))
    saved = identity_of(config)
    assert saved.pop("model.name") == "resnet27"
    assert differences(saved, config) == []
    other = replace(config, model=replace(config.model, name="mobilefacenet"))
    assert differences(saved, other) == ["model.name was resnet27, now mobilefacenet"]


# ------------------------------------------------------------------------------------------------- checkpoints


def averaged(store: Path, **train: Any) -> FaceRunConfig:
    return small_config(store, ema_decay=0.8, **train)


@pytest.fixture(scope="module")
def whole(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_run(averaged(small_store), folder)
    return folder


@pytest.fixture
def half(whole: Path, tmp_path: Path) -> Path:
    """The run as it was half-way."""
    shutil.copytree(whole, tmp_path / "half")
    checkpoints(tmp_path / "half")[-1].unlink()
    (tmp_path / "half" / "embedder.safetensors").unlink()
    return tmp_path / "half"


def in_format_3(state: dict[str, Any], config: FaceRunConfig) -> dict[str, Any]:
    """As the version before wrote it, whose average was of the network alone and counted its steps."""
    network = {
        name.removeprefix("network."): tensor
        for name, tensor in state["average"]["task"].items()
        if name.startswith("network.")
    }
    keys = ("nesterov: false\n", "decay_all: false\n", "freeze: []\n", "sync_batch_norm: false\n")
    text = to_yaml(config)
    for line in (*keys, "capture: false\n", "init: null\n", "name: resnet27\n"):  # which there were not
        assert line in text
        text = text.replace(f"  {line}", "")
    return {
        "format": 3,
        "step": state["step"],
        "task": state["task"],
        "optimizer": state["optimizer"],
        "scaler": state["scaler"],
        "average": {"network": network, "steps": state["step"]},
        "identity": {"model": str(config.model), "loss": str(config.loss), "the training data": state["data"]},
        "config": text,
        "position": state["position"],
    }


@pytest.mark.usefixtures("one_thread")
def test_a_checkpoint_of_the_version_before_is_gone_on_with(half: Path, whole: Path, small_store: Path) -> None:
    state, config = load_newest_checkpoint(half), averaged(small_store)
    assert state is not None
    torch.save(in_format_3(state, config), checkpoints(half)[-1])
    with pytest.raises(FacegmError, match=r"the checkpoint belongs to another run: train\.seed was 0, now 7; restore"):
        train_run(averaged(small_store, seed=7), half)
    train_run(config, half)
    assert log_of(half) == log_of(whole)
    assert_equal(exported(half), exported(whole))


@pytest.mark.usefixtures("one_thread")
def test_a_run_is_refused_by_what_it_does_not_share_and_goes_on_by_what_may_change(
    half: Path, whole: Path, small_store: Path, tmp_path: Path
) -> None:
    config = averaged(small_store)
    few = replace(config, data=replace(config.data, exclude_identities=["person_0"]))
    with pytest.raises(FacegmError, match=r"the training data was 48 faces of 6 identities .*, now 40 faces of 5"):
        train_run(few, half)
    shutil.copytree(small_store, tmp_path / "moved")
    free = averaged(tmp_path / "moved", log_every=2, checkpoint_every=3, keep_checkpoints=9)
    train_run(free, half)
    assert_equal(exported(half), exported(whole))
    assert [path.stem for path in checkpoints(half)] == ["step-00000006", "step-00000009", "step-00000012"]
