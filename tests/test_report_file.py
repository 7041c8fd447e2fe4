"""Protects the reading of `report.json`: the judgement of every pair, and one clear error for all that is wrong."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_reports import config_of_run, few_people, judged, report_content

from facegm.errors import FacegmError
from facegm.eval.evaluation import evaluate
from facegm.eval.report import write_report as write_verification
from facegm.eval.report_file import find_report, read_report

PAIRS = few_people()
RIGHT = {"PCA 64": judged(PAIRS, 0.9, 0), "no PCA": judged(PAIRS, 0.8, 1)}
CONTENT = report_content(PAIRS, RIGHT, config_of_run(3), "abc")


def written(folder: Path, content: Any) -> Path:
    file = folder / "report.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_every_pair_is_judged_by_the_threshold_of_its_fold(tmp_path: Path) -> None:
    report = read_report(written(tmp_path, CONTENT))
    assert list(report.right) == ["PCA 64", "no PCA"]
    for name, expected in RIGHT.items():
        assert np.array_equal(report.right[name], expected)
    assert report.pairs.names_a == PAIRS.names_a
    assert report.pairs.names_b == PAIRS.names_b
    assert np.array_equal(report.pairs.same, PAIRS.same)
    assert np.array_equal(report.pairs.fold, PAIRS.fold)
    assert report.config == config_of_run(3)
    assert report.model_digest == "abc"


def test_embeddings_of_others_have_neither_configuration_nor_weights(tmp_path: Path) -> None:
    report = read_report(written(tmp_path, report_content(PAIRS, RIGHT, None, None)))
    assert report.config is None
    assert report.model_digest is None


def test_what_a_verification_writes_is_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names, image_of = list(PAIRS.images), {name: number for number, name in enumerate(PAIRS.images)}
    embeddings = rng.normal(size=(len(names), 24))
    for name, number in image_of.items():
        embeddings[number] += 1.5 * np.random.default_rng(list(name.split("/")[0].encode())).normal(size=24)
    verified = evaluate(PAIRS, names, embeddings)
    write_verification(tmp_path, verified)
    report = read_report(tmp_path / "report.json")
    assert report.pairs.digest == PAIRS.digest
    assert list(report.right) == [one.variant.name for one in verified.verifications]
    for one in verified.verifications:
        expected = [
            (distance < one.fold_threshold[fold]) == same
            for distance, fold, same in zip(one.distances, PAIRS.fold, PAIRS.same, strict=True)
        ]
        assert report.right[one.variant.name].tolist() == expected
    assert report.config is None


def test_a_pair_at_the_threshold_is_rejected(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    variant = content["variants"][0]
    pair = int(np.flatnonzero(PAIRS.same & RIGHT["PCA 64"])[0])
    variant["distances"][pair] = variant["folds"][int(PAIRS.fold[pair])]["threshold"]
    assert not read_report(written(tmp_path, content)).right["PCA 64"][pair]


def changed(*keys: str | int, value: Any) -> dict[str, Any]:
    content: Any = copy.deepcopy(CONTENT)
    part = content
    for key in keys[:-1]:
        part = part[key]
    if value is KeyError:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value
    return content  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        ("{", "cannot be read as a verification report"),
        ("[" * 100_000, "cannot be read as a verification report"),
        ([], "expected a mapping"),
        (changed("schema", value=KeyError), "an earlier version, .*; run `facegm verify-lfw` again"),
        (changed("schema", value=3), "schema: 3, but this facegm reads 2"),
        (changed("scored", value=KeyError), "scored: missing"),
        (changed("scored", "names_b", value=["a"]), r"scored\.names_b: 1 values, expected 240"),
        (changed("scored", "same", 7, value=2), r"scored\.same\[7\]: expected a whole number below 2"),
        (changed("scored", "same", 7, value=True), r"scored\.same\[7\]: expected a whole number"),
        (changed("scored", "fold", 7, value=-1), r"scored\.fold\[7\]: expected a whole number below 240"),
        (changed("scored", "fold", 7, value=5), r"scored\.fold: .* numbered from 0 without a gap"),
        (changed("scored", "names_a", 0, value=None), r"scored\.names_a\[0\]: expected text"),
        (changed("variants", value=[]), "variants: no score at all"),
        (changed("variants", 1, "variant", "name", value="PCA 64"), r"variants\[1\]\.variant\.name: the name of two"),
        (changed("variants", 1, "distances", value=KeyError), r"variants\[1\]\.distances: missing"),
        (changed("variants", 1, "distances", 3, value=float("nan")), r"distances\[3\]: expected a finite number"),
        (changed("variants", 1, "distances", 3, value="0.3"), r"distances\[3\]: expected a finite number"),
        (changed("variants", 0, "folds", 2, "threshold", value=None), r"folds\[2\]\.threshold: expected a finite"),
        (changed("variants", 0, "folds", 2, "threshold", value=0.5), r"folds\[2\]\.accuracy: .*judged rightly"),
        (changed("variants", 0, "folds", value=[]), r"variants\[0\]\.folds: 0 values, expected 4"),
        (changed("run", value=KeyError), "run: missing"),
        (changed("run", "config", value=[1]), r"run\.config: expected a mapping"),
        (changed("run", "model_digest", value=7), r"run\.model_digest: expected text"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(content: Any, trouble: str, tmp_path: Path) -> None:
    file = written(tmp_path, content)
    with pytest.raises(FacegmError, match=rf"^{file}: .*{trouble}"):
        read_report(file)


def test_the_report_of_a_folder_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "lfw").mkdir(parents=True)
    with pytest.raises(FacegmError, match=rf"^{run}: neither report.json nor lfw/report.json in it; run `facegm ver"):
        find_report(run)
    for file in (run / "lfw" / "report.json", run / "report.json"):
        file.touch()
        assert find_report(run) == file
        assert find_report(file) == file
    with pytest.raises(FacegmError, match=r"cannot be read as a verification report: .*No such file"):
        read_report(find_report(tmp_path / "nowhere"))
