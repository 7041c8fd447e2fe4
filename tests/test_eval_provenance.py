"""Protects what a report says of the run behind it: weights, settings, training identities that are in the test set."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from facegm.config import find_config, parse_config
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import save_embedder
from facegm.errors import FacegmError
from facegm.eval.reports.provenance import CASIA_IN_LFW, CONFIG_FILE, Provenance, provenance_of, training_identities
from facegm.eval.sets.pairs import Pairs
from facegm.faces.config import FaceRunConfig
from facegm.models.face_network import FaceModelConfig, build_face_network
from facegm.store.format import FORMAT, manifest_writer, to_table
from facegm.training import run_folder
from facegm.training.config import to_yaml

PAIRS = Pairs(
    ("Ann/Ann_0001.jpg", "Ann/Ann_0001.jpg"), ("Ann/Ann_0002.jpg", "Bob/Bob_0001.jpg"), np.array([True, False]),
    np.array([0, 1]),
)  # fmt: skip
UNKNOWN = Pairs(("1.jpg", "2.jpg"), ("3.jpg", "4.jpg"), np.array([True, False]), np.array([0, 1]))


def store_of(folder: Path, identities: Sequence[str]) -> Path:
    """A store whose manifest names these identities, and one whose only photo has no face."""
    folder.mkdir()
    rows = [{"key": f"{name}/1.jpg", "identity": name, "status": "aligned", "offset": 0} for name in identities]
    rows.append({"key": "Faceless/1.jpg", "identity": "Faceless", "status": "failed", "reason": "empty", "offset": 0})
    with manifest_writer(folder) as manifest:
        manifest.write_table(to_table(rows))
    (folder / "store.json").write_text(json.dumps({"format": FORMAT, "size": 128}))
    return folder


def saved_network(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config, preprocessing = FaceModelConfig(width=0.1, embedding_dim=8), Preprocessing(face_size=64, crop_size=48)
    save_embedder(path, build_face_network(config, 48), config, preprocessing, {"size": 128})
    return path


def test_what_a_run_folder_tells(tmp_path: Path) -> None:
    """The configuration is the resolved one, infinity included, which JSON does not have."""
    store = store_of(tmp_path / "store", ["Ann", "Cid", "Dee"])
    overrides = [f"--data.store={store}", "--data.exclude_identities=[Cid]", "--optimizer.clip_gradient=.inf"]
    config = parse_config(find_config("celeba291.yaml"), FaceRunConfig, overrides)
    run = tmp_path / "run"
    run.mkdir()
    (run / run_folder.CONFIG_FILE).write_text(to_yaml(config))
    file = saved_network(run / "embedder.safetensors")
    found = provenance_of(run, {"format": FORMAT, "size": 128}, PAIRS)
    assert found == provenance_of(file, {"format": FORMAT, "size": 128}, PAIRS)
    assert found.training is not None
    assert found.training.excluded == ("Cid",)
    assert found.training.count == 2
    assert found.training.in_pairs == ("Ann",)
    said = json.loads(json.dumps(found.describe(), allow_nan=False))
    assert said["config"]["data"]["exclude_identities"] == ["Cid"]
    assert said["config"]["optimizer"]["clip_gradient"] == "inf"
    assert said["config"]["train"]["batch_size"] == config.train.batch_size
    assert said["store"] == {"format": FORMAT, "size": 128}
    assert said["training"]["in_pairs"] == ["Ann"]


def test_the_hash_is_of_the_weights_alone(tmp_path: Path) -> None:
    first = provenance_of(saved_network(tmp_path / "a.safetensors"), {}, PAIRS)
    same = provenance_of(saved_network(tmp_path / "b.safetensors"), {}, PAIRS)
    other = provenance_of(saved_network(tmp_path / "c.safetensors", seed=1), {}, PAIRS)
    assert first.model_digest == same.model_digest != other.model_digest
    assert first.training is None
    assert first.config is None


def test_names_are_compared_where_both_sides_have_them(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", ["Ann", "Bob", "Cid"])
    none_left_out = training_identities({"store": str(store)}, PAIRS)
    assert (none_left_out.count, none_left_out.in_pairs) == (3, ("Ann", "Bob"))
    assert none_left_out.sentence() == (
        "No identity was left out of training. The network was trained on 3 identities. 2 of them have the name of a "
        "person of the pairs: Ann, Bob."
    )
    both = training_identities({"store": str(store), "exclude_identities": ["Ann", "Bob", "Zoe"]}, PAIRS)
    assert (both.count, both.in_pairs) == (1, ())
    assert "3 identities were left out of training" in both.sentence()
    assert "None of them has the name of a person of the pairs." in both.sentence()
    unknown = training_identities({"store": str(store)}, UNKNOWN)
    assert unknown.in_pairs is None
    assert "Who is on the pairs is not known" in unknown.sentence()


def test_a_store_that_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = training_identities({"store": str(tmp_path / "gone"), "exclude_identities": ["Ann"]}, PAIRS)
    assert (found.count, found.in_pairs, found.casia_in_lfw) == (None, None, None)
    assert "The store of the training faces is not here" in found.sentence()
    assert str(tmp_path / "gone") in caplog.text


def test_casia_says_whether_those_in_lfw_were_trained_on(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", ["0000045", "0166921", "1056413"])
    without = training_identities({"store": str(store), "exclude_identities": [*CASIA_IN_LFW]}, PAIRS)
    assert without.casia_in_lfw == ()
    assert "17 identities of CASIA-WebFace have the name of a person in LFW; none of them was" in without.sentence()
    everyone = training_identities({"store": str(store), "exclude_identities": ["1056413"]}, PAIRS)
    assert everyone.casia_in_lfw == ("0166921",)
    assert "1 of them was trained on" in everyone.sentence()
    assert training_identities({"store": str(store_of(tmp_path / "b", ["Cid", "Dee"]))}, PAIRS).casia_in_lfw is None


def test_casia_yaml_leaves_out_just_those() -> None:
    config = parse_config(find_config("casia.yaml"), FaceRunConfig)
    assert sorted(config.data.exclude_identities) == sorted(CASIA_IN_LFW)


def test_names_of_a_run_folder_agree() -> None:
    assert CONFIG_FILE == run_folder.CONFIG_FILE


def test_a_folder_with_another_configuration_is_named(tmp_path: Path) -> None:
    saved_network(tmp_path / "embedder.safetensors")
    for text in ("model: {}\n", "data: 3\n", "- 1\n", "data: [\n"):
        (tmp_path / CONFIG_FILE).write_text(text)
        with pytest.raises(FacegmError, match=r"config\.yaml: not the configuration of a run"):
            provenance_of(tmp_path, {}, PAIRS)


def test_nothing_is_known_of_embeddings_that_are_brought() -> None:
    assert Provenance().describe() == {"config": None, "model_digest": None, "store": None, "training": None}
