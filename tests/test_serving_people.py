"""The gallery over HTTP: who is enrolled, found and removed, and who is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import BLUE, GREEN, RED, LocalClient, SquaresEmbedder, application, squares

from facegm.gallery.gallery import Gallery

REDDISH, GREENISH = (240, 40, 0), (40, 240, 0)
YELLOW = (200, 200, 0)


@pytest.fixture
def gallery(tmp_path: Path, no_disk: None) -> Iterator[Gallery]:
    with Gallery.create(tmp_path / "people.gallery", SquaresEmbedder().contract) as gallery:
        yield gallery


@pytest.fixture
def client(gallery: Gallery) -> Iterator[LocalClient]:
    with LocalClient(application(gallery=gallery)) as client:
        yield client


def enroll(client: LocalClient, name: str, photo: bytes, **data: str) -> Any:
    return client.post(f"/v1/people/{name}", files={"photo": photo}, data=data)


def error_of(answer: Any) -> tuple[int, str]:
    assert set(answer.json()) == {"error", "message"}
    return answer.status_code, answer.json()["error"]


def test_who_is_enrolled_is_listed_and_in_the_file(client: LocalClient, gallery: Gallery) -> None:
    assert client.get("/v1/people").json() == {"people": []}
    first = enroll(client, "Ann", squares(RED)).json()
    second = enroll(client, "Ann", squares(REDDISH)).json()
    other = enroll(client, "Zoë%20Müller", squares(GREEN)).json()
    assert (first["name"], first["samples"], second["samples"]) == ("Ann", 1, 2)
    assert other["name"] == "Zoë Müller"
    people = [{"name": "Ann", "samples": 2}, {"name": "Zoë Müller", "samples": 1}]
    assert client.get("/v1/people").json() == {"people": people}
    assert [sample.id for sample in gallery.samples("Ann")] == [first["sample"], second["sample"]]
    assert client.get("/v1/model").json()["gallery"] is True


def test_search_names_the_nearest_people_and_how_far_they_are(client: LocalClient) -> None:
    for name, color in {"Ann": RED, "Bob": GREEN, "Cid": BLUE}.items():
        enroll(client, name, squares(color))
    found = client.post("/v1/search", files={"photo": squares(GREENISH, RED)}, data={"k": "2"}).json()
    query = np.array(GREENISH) / np.linalg.norm(GREENISH)
    expected = {"Bob": np.linalg.norm(query - [0, 1, 0]), "Ann": np.linalg.norm(query - [1, 0, 0])}
    assert [match["name"] for match in found["matches"]] == [*expected]
    for match, distance in zip(found["matches"], expected.values(), strict=True):
        assert match["distance"] == pytest.approx(distance, abs=1e-6)
        assert match["probability"] == pytest.approx(1 / (1 + np.exp(-(6 - 8 * distance))))
        assert match["same"] is bool(distance < 0.5)
    assert found["threshold"] == 0.5, "the model's, of a false-match rate of 0.001"
    assert (found["chosen"], len(found["faces"]), found["width"]) == (0, 2, 90)


def test_search_decides_at_the_rate_and_the_prior_that_are_asked_for(client: LocalClient) -> None:
    enroll(client, "Bob", squares(GREEN))
    photo, distance = squares((100, 150, 0)), float(np.linalg.norm(np.array([100, 150]) / np.hypot(100, 150) - [0, 1]))
    for rate, threshold in ((0.001, 0.5), (0.1, 1.0)):
        data = {"false_match_rate": str(rate), "prior": "0.01"}
        found = client.post("/v1/search", files={"photo": photo}, data=data).json()
        (match,) = found["matches"]
        assert (found["threshold"], match["same"]) == (threshold, distance < threshold)
        assert match["probability"] == pytest.approx(1 / (1 + np.exp(-(6 - 8 * distance + np.log(0.01 / 0.99)))))


@pytest.mark.parametrize(("field", "value"), [("false_match_rate", "0.3"), ("prior", "1"), ("prior", "nan")])
def test_search_refuses_what_it_cannot_decide_by(client: LocalClient, field: str, value: str) -> None:
    answer = client.post("/v1/search", files={"photo": squares(RED)}, data={field: value})
    assert error_of(answer) == (400, "bad-request")


def test_a_model_without_calibration_gives_no_verdict(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.CALIBRATION", None)
    with LocalClient(application(gallery=gallery)) as client:
        assert client.post("/v1/search", files={"photo": squares(RED)}).json()["threshold"] is None
        enroll(client, "Ann", squares(RED))
        (match,) = client.post("/v1/search", files={"photo": squares(REDDISH)}).json()["matches"]
    assert (match["same"], match["probability"]) == (None, None)


def test_who_is_removed_is_found_no_more(client: LocalClient) -> None:
    first = enroll(client, "Ann", squares(RED)).json()["sample"]
    enroll(client, "Ann", squares(REDDISH))
    bob = enroll(client, "Bob", squares(GREEN)).json()["sample"]
    assert error_of(client.delete(f"/v1/people/Ann/samples/{bob}")) == (404, "unknown-person"), "not a sample of Ann's"
    assert client.delete(f"/v1/people/Ann/samples/{first}").json() == {"name": "Ann", "removed": 1}
    assert client.get("/v1/people").json()["people"][0] == {"name": "Ann", "samples": 1}
    assert client.delete("/v1/people/Ann").json() == {"name": "Ann", "removed": 1}
    found = client.post("/v1/search", files={"photo": squares(RED)}).json()
    assert [match["name"] for match in found["matches"]] == ["Bob"]
    assert error_of(client.delete("/v1/people/Ann")) == (404, "unknown-person")
    assert error_of(client.delete("/v1/people/Bob/samples/99")) == (404, "unknown-person")


def test_enrolment_is_strict_unless_it_is_told_not_to_be(client: LocalClient) -> None:
    enroll(client, "Ann", squares(RED))
    assert error_of(enroll(client, "Ann", squares(RED))) == (409, "already-enrolled")
    within = enroll(client, "Bob", squares(REDDISH))  # the model's threshold at a false-match rate of 0.001 is 0.5
    assert error_of(within) == (409, "nearer-to-another")
    assert "Ann" in within.json()["message"]
    enroll(client, "Bob", squares(GREEN))
    assert error_of(enroll(client, "Bob", squares(REDDISH))) == (409, "nearer-to-another")
    assert client.get("/v1/people").json()["people"][1]["samples"] == 1
    assert enroll(client, "Bob", squares(REDDISH), strict="false").json()["samples"] == 2


@pytest.mark.parametrize(
    ("photo", "data", "expected"),
    [
        (squares(), {}, (422, "no-face")),
        (squares(RED, GREEN), {"policy": "only"}, (422, "several-faces")),
        (b"text", {}, (422, "unreadable")),
        (squares(RED), {"strict": "perhaps"}, (400, "bad-request")),
    ],
)
def test_photos_that_enrol_nobody(
    client: LocalClient, photo: bytes, data: dict[str, str], expected: tuple[int, str]
) -> None:
    assert error_of(enroll(client, "Ann", photo, **data)) == expected
    assert client.get("/v1/people").json() == {"people": []}


def test_which_face_of_several_is_said_in_the_call(client: LocalClient) -> None:
    assert enroll(client, "Ann", squares(RED, GREEN)).status_code == 200
    only = client.post("/v1/search", files={"photo": squares(RED, GREEN)}, data={"policy": "only"})
    assert error_of(only) == (422, "several-faces")


@pytest.mark.parametrize(
    "name",
    [
        *("x" * 201, "%00", "Ann%00", "Ann%0A", "%E2%80%AEAnn", "%20", "%20Ann", "Ann%1b[2J"),
        *("%ff", "Ann%C3", "%EF%BF%BD", "a%2Fb", "a%2fb"),
    ],
)
def test_names_that_are_none_are_refused_before_the_photo_is_looked_at(gallery: Gallery, name: str) -> None:
    embedder = SquaresEmbedder()
    with LocalClient(application(embedder, gallery=gallery)) as client:
        assert error_of(enroll(client, name, squares(RED))) == (400, "bad-request")
        assert error_of(client.delete(f"/v1/people/{name}")) == (400, "bad-request")
        assert error_of(client.delete(f"/v1/people/{name}/samples/1")) == (400, "bad-request")
    assert not embedder.batches


def test_a_slash_in_a_name_leads_to_no_other_address(client: LocalClient, gallery: Gallery) -> None:
    sample = enroll(client, "Ann", squares(RED)).json()["sample"]
    for name in (f"Ann%2Fsamples%2F{sample}", f"Ann/samples%2f{sample}"):
        assert error_of(client.delete(f"/v1/people/{name}")) == (400, "bad-request")
    assert gallery.people == {"Ann": 1}


@pytest.mark.parametrize("name", ["..", "a\\b", "C:", "~root", "'; DROP TABLE people; --", "%s%n", "<b>", "名前"])
def test_names_are_names_whatever_they_look_like(client: LocalClient, name: str) -> None:
    from urllib.parse import quote

    assert enroll(client, quote(name, safe="").replace("..", "%2e%2e"), squares(RED)).json()["name"] == name
    assert client.get("/v1/people").json() == {"people": [{"name": name, "samples": 1}]}


def test_without_a_gallery_there_are_no_people() -> None:
    with LocalClient(application()) as client:
        for answer in (
            client.get("/v1/people"),
            enroll(client, "Ann", squares(RED)),
            client.post("/v1/search", files={"photo": squares(RED)}),
            client.delete("/v1/people/Ann"),
        ):
            assert error_of(answer) == (404, "no-gallery")
