"""The server under load: 32 clients who send LFW's photos, with batching across clients and without.

Two servers, processes of their own, are loaded in turn, A B A B ..., a minute each in all. A client sends its next
photo when it has its answer; every photo must come back with as many faces as when nobody else asks. The model is the
first argument, or else an untrained MobileFaceNet, which is as fast as a trained one.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from threading import Thread

import numpy as np
import torch
from interleaved import write_results

from facegm.align.face import FACE_SIZE, TEMPLATE
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import save_embedder
from facegm.models.face_network import FaceModelConfig, build_face_network

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
CLIENTS, SECONDS, ROUNDS = 32, 60, 4
PHOTOS = 128
BOUNDARY = "facegm-bench"
WAYS = {"batching": 32, "no batching": 1}
"""Photos that a server looks at together."""


@dataclass
class Load:
    """What the clients of a server have seen."""

    sent: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds of each right answer."""


def main() -> None:
    photos = sorted((DATA / "lfw" / "lfw-deepfunneled").rglob("*.jpg"))
    bodies = [_form(path.read_bytes()) for path in photos[:: len(photos) // PHOTOS][:PHOTOS]]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = Path(sys.argv[1]) if len(sys.argv) > 1 else _untrained(folder)
        servers = {way: stack.enter_context(serving(model, batch)) for way, batch in WAYS.items()}
        expected = [_faces(HTTPConnection("127.0.0.1", servers["no batching"][0]), body) for body in bodies]
        loads = {way: Load() for way in WAYS}
        for _ in range(ROUNDS):
            for way, (port, _) in servers.items():
                put_load(loads[way], port, bodies, expected, SECONDS / ROUNDS)
        rows = [_row(way, loads[way], servers[way][1]) for way in WAYS]
    write_results("serve", rows)


@contextmanager
def serving(model: Path, batch: int) -> Iterator[tuple[int, int]]:
    """A server, as its port and process number; at the end it must go with exit code 0."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "facegm",
        "serve",
        str(model),
        "--port",
        "0",
        "--max-batch",
        str(batch),
        "--timeout",
        "120",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = next(int(found[1]) for line in process.stdout if (found := re.search(r"http://[^ ]*:(\d+)", line)))
        Thread(target=process.stdout.read, daemon=True).start()
        yield port, process.pid
        process.terminate()
        assert process.wait() == 0


def put_load(load: Load, port: int, bodies: Sequence[bytes], expected: Sequence[int], seconds: float) -> None:
    """Have all clients send photos for a while, and wait for the last answers."""
    numbers, began = count(), time.perf_counter()

    def client(_: int) -> tuple[int, list[float]]:
        connection, sent, latencies = HTTPConnection("127.0.0.1", port), 0, []
        while time.perf_counter() - began < seconds:
            number, start = next(numbers) % len(bodies), time.perf_counter()
            sent += 1
            if _faces(connection, bodies[number]) == expected[number]:
                latencies.append(time.perf_counter() - start)
        return sent, latencies

    with ThreadPoolExecutor(CLIENTS) as clients:
        for sent, latencies in clients.map(client, range(CLIENTS)):
            load.sent += sent
            load.latencies += latencies
    load.seconds += time.perf_counter() - began


def _faces(connection: HTTPConnection, body: bytes) -> int:
    """Number of faces that the server found in a photo, all with an embedding; -1: another answer."""
    connection.request("POST", "/v1/embed", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    return sum(len(face["embedding"]) > 0 for face in content["faces"]) if answer.status == 200 else -1


def _form(photo: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="photo.jpg"\r\n\r\n'
    return head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


def _untrained(folder: Path) -> Path:
    torch.manual_seed(0)
    config, preprocessing = FaceModelConfig(name="mobilefacenet"), Preprocessing(face_size=128, crop_size=112)
    path = folder / "embedder.safetensors"
    alignment = {"size": FACE_SIZE, "template": TEMPLATE.tolist()}
    save_embedder(path, build_face_network(config, preprocessing.crop_size), config, preprocessing, alignment)
    return path


def _row(way: str, load: Load, process: int) -> dict[str, object]:
    status = Path(f"/proc/{process}/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s*(\d+)", status)
    return {
        "way": way,
        "clients": CLIENTS,
        "seconds": round(load.seconds, 1),
        "sent": load.sent,
        "answered": len(load.latencies),
        "lost": load.sent - len(load.latencies),
        "photos_per_second": round(len(load.latencies) / load.seconds, 1),
        "p50_ms": round(1000 * float(np.percentile(load.latencies, 50)), 1),
        "p95_ms": round(1000 * float(np.percentile(load.latencies, 95)), 1),
        "peak_memory_mib": int(peak) // 1024,
    }


if __name__ == "__main__":
    main()
