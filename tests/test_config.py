"""Configurations: types decide, wrong keys are told the right ones, shipped files are whole."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.config import find_config, parse_config
from facegm.errors import UsageError
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.training.config import to_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["casia.yaml", "celeba291.yaml", "demo.yaml"])
def test_shipped_configurations_are_installed_and_valid(name: str) -> None:
    assert parse_config(find_config(name), FaceRunConfig).data.store.name == name.removesuffix(".yaml")


def test_casia_is_the_paper() -> None:
    config = parse_config(find_config("casia.yaml"), FaceRunConfig)
    assert (config.loss.name, config.loss.gm.alpha, config.loss.gm.likelihood_weight) == ("gm", 0.01, 0.001)
    assert (config.train.batch_size, config.train.epochs, config.optimizer.learning_rate) == (256, 20, 0.1)
    assert [share * config.train.epochs for share in config.optimizer.milestones] == [10, 14, 16]
    assert (config.preprocessing.face_size, config.preprocessing.crop_size, config.model.width) == (128, 120, 1.0)


def test_casia_leaves_out_those_who_are_in_lfw() -> None:
    excluded = parse_config(find_config("casia.yaml"), FaceRunConfig).data.exclude_identities
    assert len(set(excluded)) == len(excluded) == 17
    assert all(len(name) == 7 and name.isdigit() for name in excluded)  # as the folders are called, zeros kept
    assert {"0000513", "0166921", "3478560"} <= {*excluded}


def test_overrides_and_numbers_as_yaml_writes_them(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  store: faces\noptimizer:\n  learning_rate: 1e-2\n  clip_gradient: .inf\n")
    config = parse_config(path, FaceRunConfig, ["--train.epochs=3", "--model.width", "0.5"])
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
        ("data: {store: x}\n", ["--optimizer.lr=0.1"], r"--optimizer\.lr: no such .* mean optimizer\.learning_rate\?"),
        ("data: {store: x}\n", ["--lr", "0.1"], r"--lr: no such .* did you mean optimizer\.learning_rate\?"),
        ("data: {store: x}\noptimizer: {wd: 0}\n", [], r"optimizer\.wd: no such .* mean optimizer\.weight_decay\?"),
        ("data: {store: x}\n", ["--train.batch-size=3"], r"no such .* did you mean train\.batch_size\?"),
        ("data: {store: x}\n", ["--epochs=3"], r"--epochs: no such .* did you mean train\.epochs\?"),
        ("data: {store: x}\n", ["train.epochs=3"], r"unrecognized arguments: train\.epochs=3"),
        ("data: {store: x}\n", ["--train.epochs"], r"train\.epochs: expected one argument"),
        ("data: {store: x}\n", ["--train=3"], r"--train: a section, which takes no value; did you mean train\."),
        ("data: {store: x}\ntrain: [3]\n", [], r"run\.yaml: train: a section, which takes no value"),
        ("data: {store: x}\ntrain: {epochs: {a: 3}}\n", [], r"train\.epochs\.a: no such .* mean train\.epochs\?"),
        ("data: {store: x}\ntrain: {epochs: 3, epochs: 4}\n", [], r"epochs is given twice[\s\S]*line 2, column 20"),
        (
            "data: {store: x}\ntrain: {epochs: 3}\ntrain: {seed: 4}\n",
            [],
            r"train is given twice[\s\S]*line 3, column 1",
        ),
        ("data: {store: x}\ntrain: {epochs: true}\n", [], r"train\.epochs\"[\s\S]*Got value: True"),
        ("data: {store: x}\n", ["--optimizer.nesterov=maybe"], r"optimizer\.nesterov"),
        ("data: {store: x}\n", ["--data.residency=gpu"], r"data\.residency\"[\s\S]*'host', 'stream'"),
        ("data: {store: x}\n", ["--data.exclude_identities=7201"], r"data\.exclude_identities\"[\s\S]*'list'"),
        ("data: {store: x}\n", ["--data.exclude_identities=[7201"], r"must be a list such as \[0100123, 7201\]"),
        ("data: {store: }\n", [], r"data\.store"),
        ("data: {store: x}\n---\ntrain: {epochs: 2}\n", [], "not a readable YAML file: expected a single document"),
        ("data: {store: x}\n", ["--train.epochs=three"], r"train\.epochs"),
        ("data: {store: x}\ntrain: {epochs: two}\n", [], r"train\.epochs"),
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
        parse_config(write(tmp_path, text), FaceRunConfig, overrides)


IDENTITIES = "--data.exclude_identities"


@pytest.mark.parametrize(
    ("in_file", "overrides", "expected"),
    [
        ("[7201]", [], ["7201"]),
        ("[0100123, 1e3, 0x1f, 1_000, yes, null, ~, 2001-01-01, 12:30:00, 'it''s', \"a\\tb\", .inf]", [], None),
        ("[7201]", [f"{IDENTITIES}=[0012]"], ["0012"]),
        ("[]", [f"{IDENTITIES}=[7201]"], ["7201"]),
        ("[]", [IDENTITIES, "[7201, 0100123]"], ["7201", "0100123"]),
        ("[]", [f"{IDENTITIES}=[0100123, 1e3, true, 'a b']"], ["0100123", "1e3", "true", "a b"]),
        ("[]", [f"{IDENTITIES}=['7201']"], ["7201"]),
        ("[0012]", [f"{IDENTITIES}+=7201"], ["0012", "7201"]),
        ("[]", [f"{IDENTITIES}+=[7201, 007]"], ["7201", "007"]),
        ("[]", [f"{IDENTITIES}+", "007", f"{IDENTITIES}+=0100123"], ["007", "0100123"]),
        ("[]", [IDENTITIES, "[7]", "--train.epochs", "3"], ["7"]),
        ("", [], []),
    ],
)
def test_names_are_as_they_are_written(
    tmp_path: Path, in_file: str, overrides: list[str], expected: list[str] | None
) -> None:
    """Protects identities whose names look like numbers, dates or truth values, as those of CASIA-WebFace do."""
    path = write(tmp_path, f"data:\n  store: x\n  exclude_identities: {in_file}\n")
    if expected is None:
        as_written = ["0100123", "1e3", "0x1f", "1_000", "yes", "null", "~", "2001-01-01", "12:30:00"]
        expected = [*as_written, "it's", "a\tb", ".inf"]
    assert parse_config(path, FaceRunConfig, overrides).data.exclude_identities == expected


def test_paths_of_digits_are_paths(tmp_path: Path) -> None:
    text = "data: {store: 0123}\nvalidation: {store: 2024-01-01, pairs: 007}\ntrain: {init: null, freeze: [1]}\n"
    config = parse_config(write(tmp_path, text), FaceRunConfig)
    assert (config.data.store, config.validation.store, config.validation.pairs) == (
        *(Path("0123"), Path("2024-01-01"), Path("007")),
    )
    assert (config.train.init, config.train.freeze) == (None, ["1"])


def test_what_is_empty_has_its_defaults(tmp_path: Path) -> None:
    text = "data: {store: x, exclude_identities: }\ntrain:\nloss:\n  gm:\noptimizer: {}\nmodel: {width: }\n"
    config = parse_config(write(tmp_path, text), FaceRunConfig)
    assert config == FaceRunConfig(data=FaceDataConfig(store=Path("x")))


def test_parts_that_are_taken_over_by_yaml_may_be_changed(tmp_path: Path) -> None:
    text = "data: {store: x}\ntrain:\n  <<: {epochs: 3, seed: 9}\n  epochs: 5\n"
    config = parse_config(write(tmp_path, text), FaceRunConfig)
    assert (config.train.epochs, config.train.seed) == (5, 9)


def test_another_loss_is_one_line_and_keeps_the_settings_of_each() -> None:
    config = parse_config(
        find_config("casia.yaml"), FaceRunConfig, ["--loss.name=arcface", "--loss.arcface.margin=0.3"]
    )
    assert (config.loss.name, config.loss.chosen.margin, config.loss.gm.alpha) == ("arcface", 0.3, 0.01)


def test_an_unknown_configuration_names_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match=r"no such configuration file; shipped ones: casia\.yaml, celeba291\.yaml"):
        find_config("cassia.yaml")


def test_the_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = parse_config(
        write(tmp_path, "data: {store: /faces, exclude_identities: ['0166921']}\n"), FaceRunConfig, ["--train.seed=3"]
    )
    assert parse_config(write(tmp_path, to_yaml(config)), FaceRunConfig) == config


KEYS = ("data", "store", "exclude_identities", "train", "epochs", "init", "loss", "gm", "validation", "pairs", "x", 1)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.lists(st.integers())


@settings(deadline=None)
@given(st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from(KEYS) | st.text(), inner)))
def test_any_yaml_gives_a_configuration_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = write(tmp_path_factory.mktemp("yaml"), yaml.safe_dump(content))
    with contextlib.suppress(UsageError):  # and nothing else
        assert isinstance(parse_config(path, FaceRunConfig), FaceRunConfig)
