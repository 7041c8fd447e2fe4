"""`facegm verify --plda` and `--calibrate`: other people to fit on, and what an embedder is told of its distances."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_runs import write_pairs
from scipy.stats import multivariate_normal

from facegm.align.config import AlignConfig
from facegm.align.face import TEMPLATE
from facegm.align.pipeline import align_photos
from facegm.cli import main
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import save_embedder
from facegm.models.face_network import FaceModelConfig, build_face_network

DIM, PEOPLE, PHOTOS, FOLDS = 3, 8, 4, 2


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Of people of a folder each: photos 1 and 2, 3 and 4 of each, and as many pairs of neighbours."""
    rows = [f"p{k}/{i}.jpg,p{k}/{i + 1}.jpg,1,{k % FOLDS}" for k in range(PEOPLE) for i in (1, 3)]
    rows += [f"p{k}/{i}.jpg,p{(k + 2) % PEOPLE}/{i}.jpg,0,{k % FOLDS}" for k in range(PEOPLE) for i in (1, 2)]
    (tmp_path / "pairs.csv").write_text("\n".join(["path_a,path_b,same,fold", *rows]))
    return tmp_path / "pairs.csv"


def write_embeddings(file: Path, prefix: str, seed: int, people: int = PEOPLE) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    names = [f"{prefix}{k}/{i + 1}.jpg" for k in range(people) for i in range(PHOTOS)]
    embeddings = np.repeat(3 * rng.normal(size=(people, DIM)), PHOTOS, axis=0) + rng.normal(size=(len(names), DIM))
    np.savez(file, paths=np.array(names), embeddings=embeddings)
    return names, embeddings


def verify(*arguments: str | Path) -> int:
    return main(["verify", *map(str, arguments)])


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


def test_the_ratio_is_that_of_gaussians_fitted_on_the_others(pairs: Path, tmp_path: Path) -> None:
    """By joint densities of both embeddings, with covariances from plain sums."""
    names, embeddings = write_embeddings(tmp_path / "ready.npz", "p", seed=0)
    _, others = write_embeddings(tmp_path / "others.npz", "q", seed=1, people=30)
    given = ("--embeddings", tmp_path / "ready.npz", "--pairs", pairs, "--output", tmp_path / "report")
    assert verify(*given, "--plda", tmp_path / "others.npz") == 0
    (found,) = (one for one in report_of(tmp_path / "report")["variants"] if one["variant"].get("ridge") == 0.1)

    of_person = others.reshape(-1, PHOTOS, DIM)
    within = sum(np.cov(one, rowvar=False) for one in of_person) / len(of_person)
    between = np.cov(of_person.mean(axis=1), rowvar=False) - within / PHOTOS
    within = within + 0.1 * np.trace(within) / DIM * np.eye(DIM)
    total, zero = within + between, np.zeros((DIM, DIM))
    mean = np.tile(others.mean(axis=0), 2)
    together = multivariate_normal(mean, np.block([[total, between], [between, total]]))
    apart = multivariate_normal(mean, np.block([[total, zero], [zero, total]]))
    of = dict(zip(names, embeddings, strict=True))
    rows = [line.split(",") for line in pairs.read_text().splitlines()[1:]]
    both = np.array([np.concatenate([of[a], of[b]]) for a, b, *_ in rows])
    np.testing.assert_allclose(-np.array(found["distances"]), together.logpdf(both) - apart.logpdf(both), rtol=1e-6)


def test_people_of_the_pairs_are_not_fitted_on(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_embeddings(tmp_path / "ready.npz", "p", seed=0)
    given = ("--embeddings", tmp_path / "ready.npz", "--pairs", pairs, "--output", tmp_path / "report")
    assert verify(*given, "--plda", tmp_path / "ready.npz") == 1
    assert "8 of its people have the name of a person of the pairs: p0, p1" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_model_is_scored_on_a_store_of_others_and_told_what_its_distances_mean(
    small_store: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, preprocessing = tmp_path / "embedder.safetensors", Preprocessing(face_size=64, crop_size=48)
    config = FaceModelConfig(width=0.1, embedding_dim=16)
    network = build_face_network(config, 48)
    save_embedder(model, network, config, preprocessing, {"size": 128, "template": TEMPLATE.tolist()})
    for person in range(6):
        shutil.copytree(small_store / f"faces/person_{person}", tmp_path / f"photos/other_{person}")
    align_photos(tmp_path / "photos", tmp_path / "others", AlignConfig(is_aligned=True, workers=1))
    write_pairs(tmp_path / "pairs.txt")
    given = (model, "--photos", small_store, "--pairs", tmp_path / "pairs.txt", "--output", tmp_path / "report")
    before, photo = FaceEmbedder.load(model), np.zeros((128, 128, 3), np.uint8)
    assert verify(*given, "--plda", tmp_path / "others", "--calibrate") == 0

    report = report_of(tmp_path / "report")
    (plda,) = (one["variant"] for one in report["variants"] if one["variant"].get("ridge") == 0.1)
    assert (plda["images"], plda["people"]) == (48, 6)
    after = FaceEmbedder.load(model)
    assert before.calibration is None
    assert after.calibration is not None
    assert (after.calibration.same, after.calibration.different) == (12, 12)
    assert after.calibration.measured_on == f"{small_store.name}, pairs.txt"
    (of_distances,) = (one for one in report["variants"] if one["variant"]["name"] == "no PCA")
    assert after.calibration.cllr == pytest.approx(of_distances["calibration"]["cllr"])
    np.testing.assert_array_equal(before.embed_aligned([photo]), after.embed_aligned([photo]))


def test_what_compares_no_photos_is_not_calibrated(pairs: Path, tmp_path: Path) -> None:
    write_embeddings(tmp_path / "ready.npz", "p", seed=0)
    assert verify("--embeddings", tmp_path / "ready.npz", "--pairs", pairs, "--calibrate") == 2
