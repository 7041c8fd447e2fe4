"""Configurations: types decide, wrong keys are told the right ones, shipped files are whole."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from facegm.config import find_config, parse_config
from facegm.errors import UsageError
from facegm.training.config import RunConfig


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["casia.yaml", "celeba291.yaml", "demo.yaml"])
def test_shipped_configurations_are_installed_and_valid(name: str) -> None:
    assert parse_config(find_config(name)).data.store.name == name.removesuffix(".yaml")


def test_casia_is_the_paper() -> None:
    config = parse_config(find_config("casia.yaml"))
    assert (config.loss.name, config.loss.gm.alpha, config.loss.gm.likelihood_weight) == ("gm", 0.01, 0.001)
    assert (config.train.batch_size, config.train.epochs, config.optimizer.learning_rate) == (256, 20, 0.1)
    assert [share * config.train.epochs for share in config.optimizer.milestones] == [10, 14, 16]
    assert (config.preprocessing.face_size, config.preprocessing.crop_size, config.model.width) == (128, 120, 1.0)


def test_overrides_and_numbers_as_yaml_writes_them(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  store: faces\noptimizer:\n  learning_rate: 1e-2\n  clip_gradient: .inf\n")
    config = parse_config(path, ["--train.epochs=3", "--model.width", "0.5"])
    assert (config.train.epochs, config.model.width, config.optimizer.learning_rate) == (3, 0.5, 0.01)
    assert config.data.store == Path("faces")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("data: {store: x}\ntrain: {epoch: 3}\n", [], r"train\.epoch: no such .* did you mean train\.epochs\?"),
        ("data: {store: x}\nloss: {alpha: 1.0}\n", [], r"loss\.alpha: no such .* did you mean loss\.gm\.alpha\?"),
        ("data: {store: x}\nloss: {name: arkface}\n", [], r"loss\.name\"[\s\S]*'arcface'"),
        ("data: {store: x}\nloss: {l_softmax: {margin: 5}}\n", [], r"loss\.l_softmax\.margin: 5, must be 2, 3 or 4"),
        ("data: {store: x}\nseed: 3\n", [], r"seed: no such .* did you mean train\.seed\?"),
        ("data: {store: x}\n", ["--train.epohcs=3"], r"--train\.epohcs: no such .* did you mean train\.epochs\?"),
        ("data: {store: x}\n", ["--train.epochs=three"], r"train\.epochs"),
        ("data: {store: x}\ntrain: {epochs: 2.5}\n", [], r"train\.epochs"),
        (
            "data: {store: x}\nloss: {gm: {likelihood_weight: 0.5}}\n",
            [],
            r"loss\.gm\.likelihood_weight: 0\.5, .* below 0\.5",
        ),
        ("data: {store: x}\noptimizer: {milestones: [0.5, 0.4]}\n", [], r"optimizer\.milestones: .* rising"),
        ("data: {store: x}\npreprocessing: {crop_size: 200}\n", [], r"preprocessing\.crop_size: 200"),
        ("train: {epochs: 2}\n", [], r"data\.store"),
        ("data: {store: x}\npreprocessing: {crop_size: 40}\n", [], r"crop_size: 40, the network needs at least 48"),
        ("data: {store: x}\nloss: {gm: {alpha: .nan}}\n", [], r"loss\.gm\.alpha: nan"),
        ("data: {store: x}\n", ["--train.seed=99999999999999999999"], r"train\.seed"),
        ("- a\n- b\n", [], "expected sections data, preprocessing"),
        ("data: [unclosed\n", [], "not a readable YAML file"),
        ("", [], "expected sections"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_config(write(tmp_path, text), overrides)


def test_another_loss_is_one_line_and_keeps_the_settings_of_each() -> None:
    config = parse_config(find_config("casia.yaml"), ["--loss.name=arcface", "--loss.arcface.margin=0.3"])
    assert (config.loss.name, config.loss.chosen.margin, config.loss.gm.alpha) == ("arcface", 0.3, 0.01)


def test_an_unknown_configuration_names_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match=r"no such configuration file; shipped ones: casia\.yaml, celeba291\.yaml"):
        find_config("cassia.yaml")


def test_the_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = parse_config(
        write(tmp_path, "data: {store: /faces, exclude_identities: ['0166921']}\n"), ["--train.seed=3"]
    )
    assert parse_config(write(tmp_path, config.to_yaml())) == config


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_any_yaml_gives_a_configuration_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = write(tmp_path_factory.mktemp("yaml"), yaml.safe_dump(content))
    with contextlib.suppress(UsageError):  # and nothing else
        assert isinstance(parse_config(path), RunConfig)
