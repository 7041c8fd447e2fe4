"""The HTTP interface: what each address answers, whom and what it refuses, and what it keeps and says."""

import asyncio
import base64
import hashlib
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from malformed_requests import (
    BOUNDARY,
    Part,
    encoded,
    exchange,
    form,
    form_body,
    of_two_formats,
    png_bomb,
    resized_jpeg,
)
from PIL import Image
from serving import BLUE, CALIBRATION, GREEN, RED, LocalClient, SquaresEmbedder, application, served, squares

from facegm.data.decoding import MAX_PIXELS
from facegm.errors import UsageError
from facegm.serving.errors import STATUSES
from facegm.serving.guard import FORM_BYTES, MAX_PHOTOS
from facegm.serving.limits import LARGEST_PIXELS, Limits

DARK_RED = (220, 60, 0)
OF_OTHER_ORIGINS = tuple(
    {"Origin": origin} for origin in ("http://evil.example", "http://127.0.0.1:3000", "http://127.0.0.1", "null", "")
)


@pytest.fixture(scope="module")
def client() -> Iterator[LocalClient]:
    with LocalClient(application()) as client:
        yield client


def error_of(answer: Any) -> tuple[int, str]:
    assert set(answer.json()) == {"error", "message"}
    return answer.status_code, answer.json()["error"]


def test_health_and_model(client: LocalClient) -> None:
    assert client.get("/v1/health").json() == {"status": "ok"}
    model = client.get("/v1/model").json()
    embedder = SquaresEmbedder()
    assert model["description"] == embedder.describe()
    assert model["contract"] == embedder.contract.to_json()
    assert model["calibration"] == json.loads(json.dumps(CALIBRATION.to_json()))
    assert model["limits"] == Limits().to_json()
    assert model["gallery"] is False


def test_detect_tells_all_faces_and_none_is_a_success(client: LocalClient) -> None:
    found = client.post("/v1/detect", files={"photo": squares(RED, BLUE)}).json()
    assert (found["width"], found["height"]) == (90, 50)
    assert [face["box"] for face in found["faces"]] == [[10, 10, 40, 40], [50, 10, 80, 40]]
    assert set(found["faces"][0]) == {
        *("box", "landmarks", "probability", "quality", "norm", "likelihood", "is_abnormal")
    }
    assert client.post("/v1/detect", files={"photo": squares()}).json() == {"width": 50, "height": 50, "faces": []}


def test_embed_adds_embeddings_and_chips_come_where_they_are_asked_for(client: LocalClient) -> None:
    found = client.post("/v1/embed?chips=true", files={"photo": squares(RED, DARK_RED)}).json()
    expected = np.array(DARK_RED) / np.linalg.norm(DARK_RED)
    np.testing.assert_allclose(found["faces"][1]["embedding"], expected, atol=1e-6)
    kind, _, content = found["faces"][1]["chip"].partition(",")
    assert kind == "data:image/png;base64"
    chip = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    np.testing.assert_array_equal(chip, np.full((128, 128, 3), DARK_RED, np.uint8))


def test_verify_compares_by_the_models_own_threshold(client: LocalClient) -> None:
    photos = {"photo_a": squares(RED, GREEN), "photo_b": squares(DARK_RED)}
    found = client.post("/v1/verify", files=photos).json()
    distance = float(np.linalg.norm(np.array([1, 0, 0]) - np.array(DARK_RED) / np.linalg.norm(DARK_RED)))
    assert found["distance"] == pytest.approx(distance, abs=1e-6)
    assert (found["same"], found["threshold"]) == (True, 0.5)  # of the false-match rate 0.001
    assert found["probability"] == pytest.approx(1 / (1 + np.exp(-(6 - 8 * distance))))
    assert (found["a"]["chosen"], len(found["a"]["faces"]), found["b"]["width"]) == (0, 2, 50)

    unlike = {"photo_a": squares(RED), "photo_b": squares((150, 100, 0))}
    strict, loose = (
        client.post("/v1/verify", files=unlike, data={"false_match_rate": rate, "prior": "0.1"}).json()
        for rate in ("0.001", "0.1")
    )
    assert [(found["same"], found["threshold"]) for found in (strict, loose)] == [(False, 0.5), (True, 1.0)]
    log_odds = 6 - 8 * strict["distance"] + np.log(0.1 / 0.9)
    assert strict["probability"] == pytest.approx(1 / (1 + np.exp(-log_odds)))


@pytest.mark.parametrize(
    ("photo_a", "photo_b", "data", "expected", "named"),
    [
        (squares(), squares(RED), {}, (422, "no-face"), "photo_a"),
        (squares(RED), squares(), {}, (422, "no-face"), "photo_b"),
        (squares(RED), squares(RED, BLUE), {"policy": "only"}, (422, "several-faces"), "photo_b"),
        (squares(RED), b"text", {}, (422, "unreadable"), "photo_b"),
        (squares(RED), squares(RED), {"policy": "any"}, (400, "bad-request"), "policy"),
        (squares(RED), squares(RED), {"prior": "1"}, (400, "bad-request"), "prior"),
        (squares(RED), squares(RED), {"prior": "nan"}, (400, "bad-request"), "prior"),
        (squares(RED), squares(RED), {"false_match_rate": "0.3"}, (400, "bad-request"), "0.1, 0.001"),
    ],
)
def test_verify_says_what_is_wrong_and_with_which_photo(
    client: LocalClient, photo_a: bytes, photo_b: bytes, data: dict[str, str], expected: tuple[int, str], named: str
) -> None:
    answer = client.post("/v1/verify", files={"photo_a": photo_a, "photo_b": photo_b}, data=data)
    assert error_of(answer) == expected
    assert named in answer.json()["message"]


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        (b"", (422, "unreadable")),
        (b"text", (422, "unreadable")),
        (encoded(64, 64)[:300], (422, "unreadable")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n", (422, "unreadable")),
        (encoded(1, 1), (422, "too-small")),
        (encoded(19, 400), (422, "too-small")),
        (png_bomb(50_000), (413, "too-large")),
        (png_bomb(9_000), (413, "too-large")),
        (resized_jpeg(8000, 6000), (413, "too-large")),
        (resized_jpeg(60_000, 60_000), (413, "too-large")),
        (squares(*[RED] * 101, side=1), (422, "too-many-faces")),
    ],
)
def test_photos_that_cannot_be_taken_are_refused_with_a_reason(
    client: LocalClient, photo: bytes, expected: tuple[int, str]
) -> None:
    assert error_of(client.post("/v1/detect", files={"photo": photo})) == expected


def test_bytes_of_a_photo_and_of_a_request_are_bounded() -> None:
    photo = squares(RED)
    with LocalClient(application(limits=Limits(max_bytes=len(photo)))) as client:
        assert client.post("/v1/detect", files={"photo": photo}).status_code == 200
        assert error_of(client.post("/v1/detect", files={"photo": photo + b"\0"})) == (413, "too-large")
        stated = client.post("/v1/detect", files={"photo": bytes(200_000)})
        assert error_of(stated) == (413, "too-large")


def test_a_request_that_does_not_state_its_length_is_ended_where_it_grows_too_long() -> None:
    """No more of it is read, though the photo alone would be refused once all of it had come."""
    app, part, sent = application(limits=Limits(max_bytes=2**14)), 2**12, 0
    body = form_body([Part("photo", bytes(2**20))])

    async def unstated() -> AsyncIterator[bytes]:
        nonlocal sent
        for start in range(0, len(body), part):
            sent += part
            yield body[start : start + part]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/detect", content=unstated(), headers=headers)

    assert error_of(asyncio.run(ask())) == (413, "too-large")
    most = MAX_PHOTOS * 2**14 + FORM_BYTES
    assert most < sent <= most + part


def test_pixels_and_batches_are_bounded_by_what_is_asked_for() -> None:
    embedder = SquaresEmbedder()
    with LocalClient(application(embedder, limits=Limits(max_pixels=50 * 50, max_faces=1))) as client:
        assert client.post("/v1/detect", files={"photo": squares(RED)}).status_code == 200
        assert error_of(client.post("/v1/detect", files={"photo": squares(RED, RED)})) == (413, "too-large")
        assert embedder.batches == [1], "what is refused by its header is not decoded"


def test_a_file_of_two_formats_is_decoded_as_the_one_that_was_measured(client: LocalClient) -> None:
    """A photo that is small as a TIFF and huge as an FLI, which is not taken, is small."""
    found = client.post("/v1/detect", files={"photo": of_two_formats(2000, 2000)}).json()
    assert (found["width"], found["height"]) == (64, 64)


def test_no_limit_is_above_what_is_decoded_at_full_size() -> None:
    assert LARGEST_PIXELS == MAX_PIXELS
    with pytest.raises(UsageError, match="--max-pixels"):
        Limits(max_pixels=MAX_PIXELS + 1)


def test_a_full_server_says_when_to_come_again_and_clients_photos_are_looked_at_together() -> None:
    embedder = SquaresEmbedder()
    embedder.gate.clear()
    with (
        LocalClient(application(embedder, limits=Limits(max_requests=4, max_batch=3))) as client,
        ThreadPoolExecutor(8) as clients,
    ):
        asked = [clients.submit(client.post, "/v1/detect", files={"photo": squares(RED)}) for _ in range(8)]
        first = [done.result() for done in islice(as_completed(asked), 4)]
        for refused in first:
            assert error_of(refused) == (503, "busy")
            assert int(refused.headers["Retry-After"]) >= 1
        embedder.gate.set()
        assert sorted(done.result().status_code for done in asked) == [200] * 4 + [503] * 4
        assert sum(embedder.batches) == 4
        assert max(embedder.batches) in (2, 3)
        assert client.post("/v1/detect", files={"photo": squares(RED)}).status_code == 200, "there is room again"


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    embedder = SquaresEmbedder()
    embedder.gate.clear()
    with LocalClient(application(embedder, limits=Limits(timeout=2))) as client:
        assert error_of(client.post("/v1/detect", files={"photo": squares(RED)})) == (503, "timeout")
        embedder.gate.set()
        assert client.post("/v1/detect", files={"photo": squares(RED)}).status_code == 200


def test_a_failure_of_the_server_is_told_without_its_inside(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SquaresEmbedder):
        def find_batch(self, photos: Any, **_: Any) -> Any:  # noqa: ARG002
            raise RuntimeError("secret")

    with LocalClient(application(Broken())) as client:
        answer = client.post("/v1/detect", files={"photo": squares(RED)})
    assert error_of(answer) == (500, "internal")
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "address", "expected"),
    [
        ("GET", "/v1/nothing", (404, "not-found")),
        ("GET", "/nothing", (404, "not-found")),
        ("GET", "/v1/detect", (405, "method-not-allowed")),
        ("POST", "/v1/detect", (400, "bad-request")),
        ("GET", "/page/../guard.py", (404, "not-found")),
        ("GET", "/page/%2e%2e/guard.py", (404, "not-found")),
        ("GET", "/v1/detect/", (404, "not-found")),
    ],
)
def test_wrong_addresses_and_methods(client: LocalClient, method: str, address: str, expected: tuple[int, str]) -> None:
    assert error_of(client.request(method, address)) == expected


def test_the_key_is_asked_for_before_a_body_is_read() -> None:
    embedder = SquaresEmbedder()
    with LocalClient(application(embedder, key="s3cret")) as client:
        for headers in ({}, {"X-API-Key": "S3cret"}, {"X-API-Key": "s3cret "[:-2]}, {"X-API-Key": b"s3cret\xff"}):
            assert error_of(client.get("/v1/model", headers=headers)) == (401, "unauthorized")  # type: ignore[arg-type]
            answer = client.post("/v1/detect", content=b"no form", headers=headers)  # type: ignore[arg-type]
            assert error_of(answer) == (401, "unauthorized")
        assert client.get("/v1/model", headers={"X-API-Key": "s3cret"}).status_code == 200
        for address in ("/", "/docs", "/openapi.json", "/v1/health"):
            assert client.get(address).status_code == 200, address


def test_pages_of_other_sites_may_not_send_requests() -> None:
    with LocalClient(application()) as client:
        assert client.get("/v1/model").status_code == 200
        assert client.get("/v1/model", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
        for host in ("[::1]:80", "localhost", "LOCALHOST:8000", "192.168.1.9:8000", "[fe80::1]"):
            for more in ({}, {"Origin": f"http://{host}"}):
                assert client.get("/v1/model", headers={"Host": host, **more}).status_code == 200, host
        for host in ("evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "[::1", "", "0"):
            assert error_of(client.get("/v1/model", headers={"Host": host})) == (403, "foreign-site"), host
        for headers in ({"Sec-Fetch-Site": "cross-site"}, *OF_OTHER_ORIGINS):
            assert error_of(client.get("/v1/model", headers=headers)) == (403, "foreign-site"), headers
    with LocalClient(application(key="key")) as client:  # as behind a proxy
        named = {"Host": "faces.example", "X-API-Key": "key"}
        for more in ({}, {"Origin": "https://faces.example"}):
            assert client.get("/v1/model", headers=named | more).status_code == 200
        for more in OF_OTHER_ORIGINS:
            assert error_of(client.get("/v1/model", headers=named | more)) == (403, "foreign-site")


def test_the_form_of_another_site_reaches_no_server_of_the_local_network() -> None:
    """To a plain http address a browser says of a page no more than its origin."""
    embedder = SquaresEmbedder()
    with LocalClient(application(embedder)) as client:
        headers = {"Host": "192.168.1.9:8000", "Origin": "http://evil.example"}
        foreign = client.post("/v1/detect", files={"photo": squares(RED)}, headers=headers)
    assert error_of(foreign) == (403, "foreign-site")
    assert not embedder.batches


def test_pages_load_nothing_of_others(client: LocalClient) -> None:
    for address in ("/", "/docs"):
        answer = client.get(address)
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "https://" not in answer.text.replace("https://example", "")
        assert not re.findall(r"""(?:src|href)=["'](?!/|#|data:)""", answer.text)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "*" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    style = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)[0]
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert "style=" not in answer.text, "the policy lets no style in but that one"


def test_every_operation_has_examples_and_its_errors(client: LocalClient) -> None:
    described = client.get("/openapi.json").json()
    documents = client.get("/docs").text
    for address, operations in described["paths"].items():
        assert address in documents
        for operation in operations.values():
            assert operation["summary"]
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            assert described["components"]["schemas"][schema["$ref"].split("/")[-1]]["examples"]
            for status, answer in operation["responses"].items():
                if status != "200":
                    examples = answer["content"]["application/json"]["examples"]
                    assert examples, (address, status)
                    assert all(STATUSES[code][0] == int(status) for code in examples)
    assert "HTTPValidationError" not in json.dumps(described)


def test_photos_are_kept_only_where_that_is_asked_for(tmp_path: Path) -> None:
    photo = squares(RED)
    with LocalClient(application()) as client:
        client.post("/v1/detect", files={"photo": ("../ann.png", photo)})
    assert not list(tmp_path.iterdir())
    with LocalClient(application(keep=tmp_path)) as client:
        for _ in range(2):
            client.post("/v1/detect", files={"photo": ("../ann.png", photo)})
        client.post("/v1/detect", files={"photo": b"no photo"})
    (kept,) = tmp_path.iterdir()
    assert kept.name == hashlib.sha256(photo).hexdigest()
    assert kept.read_bytes() == photo


def test_the_log_tells_neither_names_nor_photos(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with LocalClient(application()) as client:
        client.post("/v1/detect", files={"photo": ("ann.png", squares(RED))})
        client.get("/v1/nobody-knows/Ann%20Smith?name=Ann")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("facegm")]
    assert re.fullmatch(r"POST /v1/detect 200 \d+ ms", lines[0])
    assert re.fullmatch(r"GET - 404 \d+ ms", lines[1])
    assert "Ann" not in "".join(lines)


def test_requests_that_come_too_slowly_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegm.serving.protocol.HEAD_SECONDS", 1)
    whole = form("/v1/detect", [Part("photo", squares(RED))])
    with served(application(limits=Limits(timeout=1))) as port:
        assert exchange(port, whole[:-10]).error() == "too-slow"
        for part in (b"", b"GET /v1/hea"):
            with pytest.raises(ConnectionError, match="hung up"):
                exchange(port, part, timeout=15)
        assert exchange(port, whole).status == 200


def test_a_large_photo_waits_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is found as a small one is, and enrolled by the digest of all of it."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    noise[:, ::2] = 0
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    assert len(file.getvalue()) > 2**20
    embedder = SquaresEmbedder()
    with LocalClient(application(embedder, limits=Limits(max_faces=10**6))) as client:
        found = client.post("/v1/detect", files={"photo": file.getvalue()}).json()
        assert (found["width"], found["height"]) == (700, 700)
    assert embedder.on_disk == [True]
