"""`facegm serve` as a process: it serves a model's file, ends by SIGTERM after what it began, and exits with 0."""

import io
import signal
import socket
import threading
import time
from pathlib import Path

import cv2
import matplotlib.cbook
import numpy as np
import pytest
from malformed_requests import Answer, Part, exchange, form, request
from PIL import Image
from serving import save_model, serving_process

from facegm import FaceEmbedder
from facegm.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "embedder.safetensors"
    save_model(path)
    return path


@pytest.fixture(scope="module")
def portrait() -> bytes:
    photo = cv2.imread(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    assert photo is not None
    _, jpeg = cv2.imencode(".jpg", photo[:400])
    return jpeg.tobytes()


def test_a_model_is_served_until_sigterm_which_finishes_what_was_begun(
    model: Path, portrait: bytes, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    slow = form("/v1/detect", [Part("photo", file.getvalue())])
    answers: list[Answer] = []
    with serving_process(model, "--gallery", tmp_path / "people.gallery") as (process, port):
        embedded = exchange(port, form("/v1/embed", [Part("photo", portrait)])).json()
        (expected,) = FaceEmbedder.load(model).find(portrait)
        assert expected.embedding is not None
        np.testing.assert_allclose(embedded["faces"][0]["embedding"], expected.embedding, atol=1e-5)
        enrolled = exchange(port, form("/v1/people/Grace", [Part("photo", portrait)])).json()
        assert (enrolled["name"], enrolled["samples"]) == ("Grace", 1)

        threads = [threading.Thread(target=lambda: answers.append(exchange(port, slow))) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.4)
        assert not answers, "they must be in progress; take a larger photo"
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        said, _ = process.communicate(timeout=30)
    assert [answer.status for answer in answers] == [200] * 3
    assert process.returncode == 0, said
    assert "every request that was begun has its answer" in said
    assert "Grace" not in said
    with pytest.raises(ConnectionRefusedError):
        exchange(port, request("/v1/health", method="GET"))


def test_the_key_of_the_environment_is_asked_for(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in ("", " ", "k\u00e9y", "a\nb", " k3y", "k3y ", "\u00a0k3y"):
        monkeypatch.setenv("FACEGM_API_KEY", wrong)
        assert main(["serve", str(model), "--port", "0"]) == 2
        assert "FACEGM_API_KEY" in capsys.readouterr().err
    with serving_process(model, FACEGM_API_KEY="k3y") as (process, port):
        address = request("/v1/model", method="GET")
        assert exchange(port, address).error() == "unauthorized"
        assert exchange(port, address.replace(b"\r\n\r\n", b"\r\nX-API-Key: k3y\r\n\r\n")).status == 200
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "k3y" not in said


def test_a_port_that_is_taken_is_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(model), "--port", str(port)]) == 1
    assert f"127.0.0.1 port {port}: " in capsys.readouterr().err


def test_what_serving_needs_is_named_where_it_is_missing(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("facegm.cli.serve.find_spec", lambda name: None if name == "uvicorn" else object())
    assert main(["serve", str(model)]) == 1
    assert "pip install 'facegm[serve]'" in capsys.readouterr().err
