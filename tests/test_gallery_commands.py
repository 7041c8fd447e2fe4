"""`facegm enroll`, `search` and `gallery`: what becomes of each photo, what is printed, what is left on the disk."""

import json
from pathlib import Path
from typing import Any

import matplotlib.cbook
import pytest
import torch
from galleries import DrawnEmbedder, write_photos
from PIL import Image

from facegm.align.face import TEMPLATE
from facegm.cli import main
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.calibration import Calibration, MatchThreshold
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import save_embedder
from facegm.gallery.gallery import Gallery
from facegm.models.face_network import FaceModelConfig, build_face_network

CALIBRATION = Calibration(
    measured_on="pairs",
    same=100,
    different=100,
    offset=8.0,
    slope=-10.0,
    cllr=0.1,
    minimum_cllr=0.1,
    calibration_error=0.01,
    thresholds=(
        MatchThreshold(false_match_rate=0.001, threshold=0.5, interval=(0.4, 0.6), false_matches=1),
        MatchThreshold(false_match_rate=0.1, threshold=1.9, interval=(1.8, 1.95), false_matches=100),
    ),
)


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> DrawnEmbedder:
    made = DrawnEmbedder(CALIBRATION)
    monkeypatch.setattr(FaceEmbedder, "load", lambda *_, **__: made)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    """What a command prints with `--json`: one object, and nothing else."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def outcomes(found: dict[str, Any]) -> dict[str, str | None]:
    return {photo["photo"]: photo["reason"] for photo in found["photos"]}


def test_a_folder_of_people_is_enrolled_and_again_passed_over(
    tmp_path: Path, embedder: DrawnEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {
        "Ann/1.jpg": "Ann 1",
        "Ann/2.jpg": "Ann 2, Bob 9",  # a bystander
        "Ann/3.jpg": "Bob 7",  # filed wrongly; Bob is not there yet
        "Ann/copy.jpg": "Ann 1",
        "Bob/1.jpg": "Bob 1",
        "Bob/2.jpg": "-",
        "Bob/3.jpg": "?",
        "Bob/4.jpg": "Ann 5",
        "Cy/1.jpg": "Ann 6",
        "stray.jpg": "Ann 8",
    }
    photos, gallery = write_photos(tmp_path / "photos", contents), tmp_path / "people.gallery"
    found = run(capsys, "enroll", photos, "--gallery", gallery, "--model", "m")
    assert outcomes(found) == {
        "Ann/1.jpg": None,
        "Ann/2.jpg": None,
        "Ann/3.jpg": None,
        "Ann/copy.jpg": "already-enrolled",
        "Bob/1.jpg": "nearer-to-another",  # than the threshold says: a photo of him is filed under Ann
        "Bob/2.jpg": "no-face",
        "Bob/3.jpg": "unreadable",
        "Bob/4.jpg": "nearer-to-another",
        "Cy/1.jpg": "nearer-to-another",
        "stray.jpg": "unknown-person",
    }
    assert (found["enrolled"], found["already"], found["refused"]) == (3, 1, 6)
    assert (found["people"], found["samples"]) == (1, 3)
    (wrong,) = [photo["sample"] for photo in found["photos"] if photo["photo"] == "Ann/3.jpg"]
    run(capsys, "gallery", gallery, "remove", "--sample", wrong)

    embedder.looked_at.clear()
    again = run(capsys, "enroll", photos, "--gallery", gallery, "--model", "m")
    reasons = outcomes(again)
    assert [reasons[f"Ann/{name}.jpg"] for name in ("1", "2", "copy")] == ["already-enrolled"] * 3
    assert not {"Ann 1", "Ann 2, Bob 9"} & set(embedder.looked_at), "what is there is not looked at again"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["people.gallery"]


def test_an_interrupted_enrolment_goes_on(
    tmp_path: Path, embedder: DrawnEmbedder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {f"Ann/{number:03}.jpg": f"Ann {number}" for number in range(80)}
    photos, gallery = write_photos(tmp_path / "photos", contents), tmp_path / "people.gallery"
    find_batch = embedder.find_batch

    def interrupted(photos: list[bytes], **options: Any) -> Any:
        if b"Ann 70" in photos:
            raise KeyboardInterrupt
        return find_batch(photos, **options)

    monkeypatch.setattr(embedder, "find_batch", interrupted)
    assert main(["enroll", str(photos), "--gallery", str(gallery), "--model", "m"]) == 130
    with Gallery.open(gallery) as opened:
        assert opened.people == {"Ann": 64}
    monkeypatch.setattr(embedder, "find_batch", find_batch)
    embedder.looked_at.clear()
    found = run(capsys, "enroll", photos, "--gallery", gallery, "--model", "m")
    assert (found["enrolled"], found["already"]) == (16, 64)
    assert len(embedder.looked_at) == 16


def test_photos_of_one_person_by_name(
    tmp_path: Path, embedder: DrawnEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos", {"1.jpg": "Ann 1", "2.jpg": "Ann 2", "more/3.jpg": "Ann 3"})
    gallery = tmp_path / "people.gallery"
    sources = [photos / "1.jpg", photos / "2.jpg", photos / "1.jpg", photos / "more", photos / "missing.jpg"]
    found = run(capsys, "enroll", *sources, "--gallery", gallery, "--model", "m", "--name", "Ann Lee")
    assert outcomes(found) == {
        str(photos / "1.jpg"): None,
        str(photos / "2.jpg"): None,
        str(photos / "more" / "3.jpg"): None,
        str(photos / "missing.jpg"): "unreadable",
    }
    assert run(capsys, "gallery", gallery, "list")["people"] == [{"name": "Ann Lee", "samples": 3}]


def test_a_name_with_a_slash_is_refused(
    tmp_path: Path, embedder: DrawnEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = write_photos(tmp_path, {"1.jpg": "Ann 1"}) / "1.jpg"
    into = ["--gallery", str(tmp_path / "people.gallery"), "--model", "m"]
    assert main(["enroll", str(photo), *into, "--name", "a/b"]) == 2
    assert "'a/b': a name holds no slash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("policy", "name", "reason"),
    [("largest-central", "Ann", None), ("largest", "Bob", None), ("only", None, "several-faces")],
)
def test_the_policy_says_which_of_several_faces(
    policy: str,
    name: str | None,
    reason: str | None,
    tmp_path: Path,
    embedder: DrawnEmbedder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = write_photos(tmp_path, {"1.jpg": "Ann 1, Bob 9"}) / "1.jpg"  # of Bob's face the box is larger
    gallery = tmp_path / "people.gallery"
    for person in ("Ann", "Bob"):
        write_photos(tmp_path, {f"{person}.png": f"{person} 0"})
        run(capsys, "enroll", tmp_path / f"{person}.png", "--gallery", gallery, "--model", "m", "--name", person)
    code = 0 if reason is None else 1
    asked = ("--gallery", gallery, "--model", "m", "--policy", policy)
    (found,) = run(capsys, "search", photo, *asked, code=code)["photos"]
    assert found["reason"] == reason
    assert [face["name"] for face in found["faces"]] == ([] if name is None else [name])
    enrolled = run(capsys, "enroll", photo, *asked, "--name", str(name or "Ann"), code=code)
    assert outcomes(enrolled) == {str(photo): reason}
    assert embedder.embedded == 2 + 2 * (reason is None), "the chosen face alone"


def test_search_names_people_with_distance_probability_and_verdict(
    tmp_path: Path, embedder: DrawnEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    people = {f"{name}/{number}.jpg": f"{name} {number}" for name in ("Ann", "Bob", "Cy") for number in range(1, 4)}
    photos, gallery = write_photos(tmp_path / "photos", people), tmp_path / "people.gallery"
    run(capsys, "enroll", photos, "--gallery", gallery, "--model", "m")
    asked = write_photos(tmp_path, {"who.jpg": "Bob 8, Dee 1", "none.jpg": "-", "broken.jpg": "?"})
    names = [asked / f"{name}.jpg" for name in ("who", "none", "broken")]
    found = run(capsys, "search", *names, "--gallery", gallery, "--model", "m", "--k", "2")["photos"]
    assert [(photo["photo"], len(photo["faces"]), photo["reason"]) for photo in found] == [
        (str(names[0]), 2, None),
        (str(names[1]), 0, None),
        (str(names[2]), 0, "unreadable"),
    ]
    bob, dee = found[0]["faces"]
    assert (bob["name"], dee["name"]) == ("Bob", None)
    assert [len(face["matches"]) for face in (bob, dee)] == [2, 2]
    best = bob["matches"][0]
    assert best["name"] == "Bob"
    assert best["distance"] < 0.3
    assert best["probability"] == pytest.approx(CALIBRATION.probability(best["distance"]))
    assert best["same"]
    with_prior = ("--gallery", gallery, "--model", "m", "--prior", "0.01")
    rarer = run(capsys, "search", names[0], *with_prior)["photos"][0]["faces"][0]["matches"][0]
    assert rarer["probability"] == pytest.approx(CALIBRATION.probability(best["distance"], prior=0.01))
    assert not dee["matches"][0]["same"]
    with_rate = ("--gallery", gallery, "--model", "m", "--false-match-rate", "0.1")
    assert run(capsys, "search", names[0], *with_rate)["photos"][0]["faces"][1]["name"] is not None
    with_threshold = ("--gallery", gallery, "--model", "m", "--threshold", "0.001")
    assert run(capsys, "search", names[0], *with_threshold)["photos"][0]["faces"][0]["name"] is None


def test_what_people_read(tmp_path: Path, embedder: DrawnEmbedder, capsys: pytest.CaptureFixture[str]) -> None:
    people = {"Ann/1.jpg": "Ann 1", "Ann/2.jpg": "-", "Bob/1.jpg": "Bob 1"}
    photos, gallery = write_photos(tmp_path / "photos", people), tmp_path / "people.gallery"
    with_model = ["--gallery", str(gallery), "--model", "m"]
    assert main(["enroll", str(photos), *with_model]) == 0
    said = capsys.readouterr().out
    assert "2 photos enrolled, 0 there already, 1 refused; now 2 people, 2 samples" in said
    assert "Ann/2.jpg: no-face: no face found" in said
    write_photos(tmp_path, {"who.jpg": "Bob 2, Dee 1"})
    assert main(["search", str(tmp_path / "who.jpg"), *with_model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("who.jpg: 2 faces")
    assert lines[1].endswith("Bob at the threshold 0.500")
    assert lines[2].strip().startswith("Bob: distance 0.")
    assert lines[4].endswith("nobody at the threshold 0.500")
    assert main(["gallery", str(gallery), "list"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["1", "Ann"], ["1", "Bob"]]


def test_people_are_listed_renamed_merged_added_and_removed(
    tmp_path: Path, embedder: DrawnEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    galleries = [tmp_path / f"{number}.gallery" for number in range(2)]
    for number, gallery in enumerate(galleries):
        contents = {f"{name}/{number}.jpg": f"{name} {number}" for name in ("Ann", f"Bob{number}")}
        photos = write_photos(tmp_path / str(number), contents)
        run(capsys, "enroll", photos, "--gallery", gallery, "--model", "m")

    def people() -> dict[str, int]:
        return {person["name"]: person["samples"] for person in run(capsys, "gallery", galleries[0], "list")["people"]}

    assert run(capsys, "gallery", galleries[0], "add", galleries[1])["samples"] == 4
    assert people() == {"Ann": 2, "Bob0": 1, "Bob1": 1}
    run(capsys, "gallery", galleries[0], "merge", "Bob1", "Bob0")
    run(capsys, "gallery", galleries[0], "rename", "Bob0", "Bob")
    assert people() == {"Ann": 2, "Bob": 2}
    samples = run(capsys, "gallery", galleries[0], "list", "Bob")["samples"]
    assert [sample["source"] for sample in samples] == ["Bob0/0.jpg", "Bob1/1.jpg"]
    run(capsys, "gallery", galleries[0], "remove", "--sample", samples[0]["id"])
    run(capsys, "gallery", galleries[0], "remove", "Ann")
    assert people() == {"Bob": 1}


def test_a_model_that_is_not_calibrated_gives_no_verdict(
    tmp_path: Path, embedder: DrawnEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder.calibration = None
    photos, gallery = write_photos(tmp_path / "photos", {"Ann/1.jpg": "Ann 1"}), tmp_path / "people.gallery"
    run(capsys, "enroll", photos, "--gallery", gallery, "--model", "m")
    asked = ["search", str(photos / "Ann" / "1.jpg"), "--gallery", str(gallery), "--model", "m"]
    (face,) = run(capsys, *asked)["photos"][0]["faces"]
    assert face["name"] is None
    assert face["matches"][0] == {"name": "Ann", "sample": 1, "distance": 0.0, "same": None, "probability": None}
    assert main(asked) == 0
    assert "not been calibrated; give --threshold DISTANCE" in capsys.readouterr().out


def test_real_photos_by_a_real_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        config, preprocessing = FaceModelConfig(width=0.1, embedding_dim=24), Preprocessing(face_size=64, crop_size=48)
        alignment = {"size": 128, "template": TEMPLATE.tolist()}
        network = build_face_network(config, 48)
        save_embedder(tmp_path / f"{seed}.safetensors", network, config, preprocessing, alignment)
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as photo:
        photo.save(tmp_path / "grace.jpg")
        photo.resize((photo.width * 3 // 4, photo.height * 3 // 4)).save(tmp_path / "again.png")
    with_gallery = ("--gallery", tmp_path / "people.gallery", "--device", "cpu", "--model")
    run(capsys, "enroll", tmp_path / "grace.jpg", "--name", "Grace", *with_gallery, tmp_path / "0.safetensors")
    found = run(
        capsys, "search", tmp_path / "grace.jpg", tmp_path / "again.png", *with_gallery, tmp_path / "0.safetensors"
    )
    same, again = [photo["faces"][0]["matches"][0] for photo in found["photos"]]
    assert same["name"] == again["name"] == "Grace"
    assert same["distance"] < 1e-6 < again["distance"] < 0.3
    asked = ["search", tmp_path / "grace.jpg", *with_gallery, tmp_path / "1.safetensors"]
    assert main([*map(str, asked)]) == 1
    assert "people.gallery: holds another model's embeddings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["enroll", "photos/1.jpg", "--gallery", "g", "--model", "m"], 2, "give --name NAME of whom the photos show"),
        (["enroll", "photos", "photos", "--gallery", "g", "--model", "m"], 2, "give --name NAME"),
        (["enroll", "photos/1.jpg", "--gallery", "g", "--model", "m", "--name", " "], 2, "printable characters"),
        (["enroll", "nothing", "--gallery", "g", "--model", "m"], 1, "nothing: no such folder"),
        (["enroll", "none.jpg", "--gallery", "g", "--model", "m", "--name", "Ann"], 1, "no photo was enrolled"),
        (["search", "photos/1.jpg", "--gallery", "missing", "--model", "m"], 1, "missing: no such gallery"),
        (["search", "photos/1.jpg", "--gallery", "photos/1.jpg", "--model", "m"], 1, "photos/1.jpg: not a gallery"),
        (["gallery", "missing", "list"], 1, "missing: no such gallery"),
        (["gallery", "people.gallery"], 2, "required: ACTION"),
        (["gallery", "people.gallery", "list", "Zoe"], 1, "nobody is called Zoe"),
        (["gallery", "people.gallery", "remove", "Zoe"], 1, "nobody is called Zoe"),
        (["gallery", "people.gallery", "remove"], 2, "one of the arguments name --sample is required"),
        (["gallery", "people.gallery", "remove", "--sample", "99"], 1, "no sample 99"),
        (["gallery", "people.gallery", "remove", "--sample", str(2**63)], 1, f"no sample {2**63}"),
        (["gallery", "people.gallery", "list", "\udcff"], 2, r"name '\udcff': expected 1 to 200 printable characters"),
        (["gallery", "people.gallery", "rename", "Ann", "\udcff"], 2, r"name '\udcff': expected"),
        (["gallery", "people.gallery", "rename", "Ann", "Bob"], 1, "Bob is there already; merge the two"),
        (["gallery", "people.gallery", "add", "missing"], 1, "missing: no such gallery"),
    ],
)
def test_wrong_use_speaks(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    embedder: DrawnEmbedder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(
        tmp_path, {"photos/1.jpg": "Ann 1", "none.jpg": "-", "two/Ann/1.jpg": "Ann 1", "two/Bob/1.jpg": "Bob 1"}
    )
    assert main(["enroll", "two", "--gallery", "people.gallery", "--model", "m"]) == 0
    assert main(arguments) == code
    assert message in capsys.readouterr().err
