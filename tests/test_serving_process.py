"""`facegm serve` as a process: it serves a model's file, ends by SIGTERM after what it began, and exits with 0."""

import io
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from malformed_requests import Answer, Part, exchange, form, request
from PIL import Image

from facegm.align.face import FACE_SIZE, TEMPLATE
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import save_embedder
from facegm.models.face_network import FaceModelConfig, build_face_network


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "embedder.safetensors"
    config, preprocessing = FaceModelConfig(width=0.1, embedding_dim=24), Preprocessing(face_size=64, crop_size=48)
    alignment = {"size": FACE_SIZE, "template": TEMPLATE.tolist()}
    save_embedder(path, build_face_network(config, 48), config, preprocessing, alignment)
    return path


def start(*arguments: str | Path) -> tuple["subprocess.Popen[str]", int]:
    command = [sys.executable, "-P", "-m", "facegm", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"at http://127\.0\.0\.1:(\d+)", line)
    if found is None:
        pytest.fail(line + process.communicate()[0])
    return process, int(found[1])


def test_sigterm_finishes_what_it_began(model: Path, tmp_path: Path) -> None:
    process, port = start(model, "--gallery", tmp_path / "people.gallery")
    assert exchange(port, request("/v1/health", method="GET")).status == 200
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    photo = form("/v1/detect", [Part("photo", file.getvalue())])
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(exchange(port, photo))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert not answers, "they must be in progress; take a larger photo"
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    said, _ = process.communicate(timeout=30)
    assert [answer.status for answer in answers] == [200] * 3
    assert process.returncode == 0, said
    assert "every request that was begun has its answer" in said
    with pytest.raises(ConnectionRefusedError):
        exchange(port, request("/v1/health", method="GET"))
