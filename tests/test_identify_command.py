"""`facegm identify` from ready embeddings and from a model and a store to its report, and what it refuses."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_runs import MODEL, SMALL
from pages import Page

from facegm.align.face import TEMPLATE
from facegm.cli import main
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import save_embedder
from facegm.eval.identification_split import draw_split
from facegm.eval.identify import Spread
from facegm.eval.rates import Rate
from facegm.models.face_network import build_face_network
from facegm.store.reader import FaceStore

IMAGES, PEOPLE = 90, 30


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A file of noisy embeddings of people with three images each, of any length."""
    rng = np.random.default_rng(0)
    number = rng.permutation(np.arange(IMAGES) % PEOPLE)
    embeddings = rng.normal(size=(PEOPLE, 12))[number] + 0.9 * rng.normal(size=(IMAGES, 12))
    paths = [f"lfw/P{person}/{image}.jpg" for image, person in enumerate(number)]
    np.savez(tmp_path / "ready.npz", paths=np.array(paths), embeddings=embeddings * rng.uniform(0.1, 9, (IMAGES, 1)))
    return tmp_path / "ready.npz"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained network."""
    torch.manual_seed(0)
    path = tmp_path / "embedder.safetensors"
    network = build_face_network(MODEL, SMALL.crop_size)
    save_embedder(path, network, MODEL, SMALL, {"size": 128, "template": TEMPLATE.tolist()})
    return path


def identify(*arguments: str | Path) -> tuple[dict[str, Any], list[dict[str, str]], Page]:
    """The command's numbers, its table and its page."""
    assert main(["identify", *map(str, arguments)]) == 0
    output = Path(arguments[0]).parent / "identify"
    with (output / "identification.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    page = Page.of((output / "identification.html").read_text("utf-8"))
    return json.loads((output / "identification.json").read_text("utf-8")), rows, page


def naive_identified(ready: Path, seed: int) -> tuple[int, int, float]:
    """Mates that rank first, those that do so below a tenth of the strangers' nearest distances, and that threshold."""
    with np.load(ready) as file:
        unit = file["embeddings"] / np.linalg.norm(file["embeddings"], axis=1, keepdims=True)
        people = [path.split("/")[1] for path in file["paths"].tolist()]
    split = draw_split(np.unique(people, return_inverse=True)[1], gallery_images=2, non_mated=0.4, seed=seed)
    gallery: dict[str, list[np.ndarray]] = {}
    for row in split.enrolled.tolist():
        gallery.setdefault(people[row], []).append(unit[row])
    templates = {
        person: np.mean(rows, axis=0) / np.linalg.norm(np.mean(rows, axis=0)) for person, rows in gallery.items()
    }
    first, strangers = [], []
    for row in split.probes.tolist():
        distances = {person: float(1 - template @ unit[row]) for person, template in templates.items()}
        nearest = min(distances, key=lambda person: distances[person])
        if people[row] not in templates:
            strangers.append(distances[nearest])
        elif nearest == people[row]:
            first.append(distances[nearest])
    threshold = sorted(strangers)[len(strangers) // 10]
    return len(first), sum(bool(distance < threshold) for distance in first), threshold


def test_rates_of_each_split_are_those_of_a_plain_search(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, rows, page = identify(ready, "--gallery-images", "2", "--non-mated", "0.4", "--repeats", "3", "--seed", "5")
    said = capsys.readouterr().out
    assert (found["images"], found["people"], len(found["splits"])) == (IMAGES, PEOPLE, 3)
    assert found["settings"] == {"gallery_images": 2, "non_mated": 0.4, "repeats": 3, "seed": 5}
    ranks, opened = [], []
    for seed, split in enumerate(found["splits"], 5):
        first, identified, threshold = naive_identified(ready, seed)
        assert (split["seed"], split["templates"], split["mated_probes"], split["non_mated_probes"]) == (
            seed,
            18,
            18,
            36,
        )
        assert split["closed_set"][0] == {"rank": 1, **Rate(count=first, trials=18).describe()}
        open_set = split["open_set"][0]
        assert open_set["false_positive_bound"] == 0.1
        assert open_set["rate"] == pytest.approx(identified / 18)
        assert open_set["interval"] == pytest.approx(Rate(count=identified, trials=18).interval)
        assert (open_set["false_positives"], open_set["is_rough"]) == (3, True)
        assert open_set["threshold"] == pytest.approx(threshold, abs=1e-6)
        assert split["open_set"][1]["rate"] is None, "36 strangers cannot carry 1 %"
        ranks.append(first / 18)
        opened.append(identified / 18)
        of_split = [row for row in rows if row["seed"] == str(seed)]
        assert [(row["measure"], row["rank"]) for row in of_split] == [
            ("closed-set", "1"),
            ("closed-set", "5"),
            ("closed-set", "10"),
            ("open-set", "1"),
        ]
        assert float(of_split[0]["rate"]) == pytest.approx(first / 18)
        assert (of_split[3]["identified"], of_split[3]["false_positives"]) == (str(identified), "3")
    assert 0 < min(opened) <= max(opened) < max(ranks) <= 1
    assert found["closed_set"][0]["over_splits"]["mean"] == pytest.approx(np.mean(ranks))
    assert found["closed_set"][0]["over_splits"]["standard_deviation"] == pytest.approx(np.std(ranks, ddof=1))
    assert found["open_set"][0]["over_splits"]["mean"] == pytest.approx(np.mean(opened))
    assert found["open_set"][1]["over_splits"] is None
    rank_1 = f"{np.mean(ranks):.2%}"
    assert f"rank 1: {rank_1} ± {np.std(ranks, ddof=1):.2%}" in said
    assert "TPIR at FPIR 0.01: not measurable" in said
    assert rank_1.replace("%", "\N{NO-BREAK SPACE}%") in page.text
    assert page.text.count("not measurable") >= 2
    assert page.tags.count("svg") == 1


def test_without_people_left_out_there_is_no_open_set(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, rows, page = identify(ready, "--non-mated", "0", "--repeats", "1")
    assert found["splits"][0]["open_set"] == []
    assert found["closed_set"][0]["over_splits"]["standard_deviation"] is None
    assert {row["measure"] for row in rows} == {"closed-set"}
    assert "Nobody was left out of the gallery" in page.text
    assert "±" not in capsys.readouterr().out


def test_a_model_embeds_the_faces_of_known_people(model: Path, small_store: Path) -> None:
    found, _, page = identify(model, "--photos", small_store, "--non-mated", "0.3", "--repeats", "2")
    assert (found["images"], found["people"]) == (48, 6)
    assert found["facts"]["failures to acquire"].startswith("1 photos without a face are in no rate; 0 fallback crops")
    assert str(small_store) in page.text
    # The same embeddings, made ready by the embedder, give the same rates.
    store = FaceStore(small_store)
    rows = [row for row, key in enumerate(store.keys) if key != "person_0/x.jpg"]
    embeddings = FaceEmbedder.load(model).embed_aligned([store.read_face(row) for row in rows])
    (model.parent / "ready").mkdir()
    file = model.parent / "ready" / "all.npz"
    np.savez(file, paths=np.array([store.keys[row] for row in rows]), embeddings=embeddings)
    ready, _, _ = identify(file, "--non-mated", "0.3", "--repeats", "2")
    assert ready["closed_set"] == found["closed_set"]
    assert ready["open_set"] == found["open_set"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a.jpg", "b.jpg"], "a.jpg is in no folder, which would say who is on it"),
        (["a/1.jpg", "a/2.jpg"], "2 images of one person or none"),
        (["a/1.jpg", "b/2.jpg"], "of 1 people none has more images than the 1 for the gallery"),
    ],
)
def test_images_of_which_no_one_knows_who_is_on_them_are_refused(
    paths: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "ready.npz", paths=np.array(paths), embeddings=np.eye(2))
    assert main(["identify", str(tmp_path / "ready.npz")]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ready.npz"]


def test_a_spread_is_written_in_percent() -> None:
    assert str(Spread(mean=0.25, standard_deviation=0.011)) == "25.00% ± 1.10%"
    assert str(Spread(mean=0.25, standard_deviation=None)) == "25.00%"
