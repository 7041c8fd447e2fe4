"""Protects validation while training: it scores the pairs as the protocol does, and never costs what was trained."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_resume import assert_equal
from face_runs import MODEL, SMALL, exported, small_config
from plain_embeddings import embed_faces
from stores import NamedFaces

from facegm.cli import main
from facegm.errors import FacegmError
from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA
from facegm.eval.sets.pairs import read_pairs
from facegm.eval.validation import PairsValidation
from facegm.faces.config import FaceRunConfig, ValidationConfig
from facegm.faces.run import train_run
from facegm.faces.samples import LabelledFaces
from facegm.faces.task import FaceTask
from facegm.losses.config import LossConfig
from facegm.training.checkpoint import checkpoints
from facegm.training.config import to_yaml
from facegm.training.run_folder import read_metrics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two folds of three pairs of one person, and three of two."""
    lines = ["2\t3"]
    for fold in range(2):
        lines += [f"person_{k}\t{1 + fold}\t{5 + fold}" for k in range(3 * fold, 3 * fold + 3)]
        lines += [f"person_{k}\t{3 + fold}\tperson_{(k + 1) % 6}\t{7 + fold}" for k in range(3 * fold, 3 * fold + 3)]
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("training", [True, False])
def test_the_pairs_are_scored_as_by_the_protocol(small_store: Path, pairs: Path, training: bool) -> None:
    torch.manual_seed(0)
    task = FaceTask(replace(MODEL, dropout=0.5), LossConfig(), SMALL, classes=6).train(training)
    found = task.evaluate(PairsValidation(small_store, pairs, SMALL), batch_size=5)
    assert task.training is task.network.training is training

    store, read = NamedFaces(small_store), read_pairs(pairs)
    left, right = (
        np.concatenate([embed_faces(task.network.eval(), SMALL, store.face(name)[None]) for name in names])
        for names in (read.names_a, read.names_b)
    )
    expected = verify(left, right, read.same, read.fold, variant=NO_PCA)
    assert found == {
        "accuracy": pytest.approx(expected.accuracy),
        "standard_error": pytest.approx(expected.standard_error),
    }


def test_a_pair_without_a_face_is_refused_before_training(small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("2\t1\n" + "person_0\t1\t99\nperson_0\t1\tperson_1\t1\n" * 2)
    with pytest.raises(FacegmError, match=r"person_0/person_0_0099\.jpg: not in the store"):
        PairsValidation(small_store, tmp_path / "pairs.txt", SMALL)


def test_pairs_of_one_fold_are_refused_before_anything_is_made(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects from LFW's View 1, of which no threshold can be chosen: training would end, and then fail."""
    view_1 = tmp_path / "pairsDevTest.txt"
    view_1.write_text("2\nperson_0\t1\t2\nperson_1\t1\t2\nperson_0\t1\tperson_1\t1\nperson_2\t1\tperson_3\t1\n")
    (tmp_path / "config.yaml").write_text(to_yaml(small_config(small_store)))
    command = ["train", "--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "run")]
    assert main([*command, f"--validation.store={small_store}", f"--validation.pairs={view_1}"]) == 1
    assert f"validation.pairs: {view_1} has one fold" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- runs


def validated_config(store: Path) -> FaceRunConfig:
    """Three epochs of two steps, each saved and validated."""
    return replace(small_config(store, epochs=3, keep_checkpoints=9), validation=ValidationConfig(every_epochs=1))


class Judged(LabelledFaces):
    """Faces whose embeddings are judged as was decided before; NaN for what cannot be judged."""

    def __init__(self, store: Path, accuracies: Sequence[float]) -> None:
        super().__init__(NamedFaces(store), SMALL)
        self._accuracies = list(accuracies)

    def score(self, embeddings: np.ndarray) -> dict[str, float]:
        del embeddings
        accuracy = self._accuracies.pop(0)
        if math.isnan(accuracy):
            raise FacegmError("a validation that fails")
        return {"accuracy": accuracy}


def weights_after(run: Path, step: int) -> dict[str, Any]:
    state = torch.load(run / "checkpoints" / f"step-{step:08d}.pt", weights_only=True)["task"]
    return {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}


def validated(run: Path) -> dict[int, float]:
    return {line["step"]: line["validation_accuracy"] for line in read_metrics(run) if "validation_accuracy" in line}


def test_a_validation_that_fails_costs_nothing_and_is_made_up_for(small_store: Path, tmp_path: Path) -> None:
    """Protects what was trained: the same call, when the trouble is mended, repeats the validation alone."""
    config, run = validated_config(small_store), tmp_path / "run"
    with pytest.raises(FacegmError, match="a validation that fails"):
        train_run(config, run, Judged(small_store, [0.6, math.nan]))
    assert [path.stem for path in checkpoints(run)] == ["step-00000002", "step-00000004"]
    assert validated(run) == {2: 0.6}

    with pytest.raises(FacegmError, match="a validation that fails"):
        train_run(config, run, Judged(small_store, [0.7, math.nan]))
    assert validated(run) == {2: 0.6, 4: 0.7}
    assert_equal(exported(run), weights_after(run, 6))

    before = checkpoints(run)[-1].stat()
    train_run(config, run, Judged(small_store, [0.65]))
    assert validated(run) == {2: 0.6, 4: 0.7, 6: 0.65}
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert checkpoints(run)[-1].stat() == before


def test_the_last_and_the_best_epoch_are_kept_and_named_also_by_a_run_that_was_interrupted(
    small_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, run = validated_config(small_store), tmp_path / "run"
    with pytest.raises(FacegmError, match="a validation that fails"):
        train_run(config, run, Judged(small_store, [0.8125, 0.9375, math.nan]))
    with caplog.at_level("INFO"):
        train_run(config, run, Judged(small_store, [0.875]))
    assert "validation accuracy 0.8750 in the last epoch, 3; 0.9375 in the best one, 2" in caplog.text
    best, last = exported(run, "embedder-best.safetensors"), exported(run)
    assert_equal(best, weights_after(run, 4))
    assert_equal(last, weights_after(run, 6))
    assert any(not torch.equal(best[name], last[name]) for name in best)
