"""Servers for tests: an embedder that needs no detector, photos for it, and a server in a thread."""

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from facegm.align.face import FACE_SIZE, TEMPLATE
from facegm.align.found_face import Face, FaceQuality
from facegm.data.decoding import decode_image
from facegm.data.preprocessing import Preprocessing
from facegm.data.readers.photo import UnreadablePhotoError
from facegm.embedding.calibration import Calibration, MatchThreshold
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import save_embedder
from facegm.embedding.photo_faces import PhotoFaces
from facegm.embedding.reasons import Reason
from facegm.embedding.trained_network import TrainedNetwork
from facegm.gallery.gallery import Gallery
from facegm.models.face_network import FaceModelConfig, build_face_network
from facegm.serving.app import create_app
from facegm.serving.limits import Limits
from facegm.serving.server import bind, configuration
from facegm.serving.service import FaceService

CALIBRATION = Calibration(
    measured_on="squares",
    same=3000,
    different=3000,
    offset=6.0,
    slope=-8.0,
    cllr=0.3,
    minimum_cllr=0.28,
    calibration_error=0.01,
    thresholds=(
        MatchThreshold(false_match_rate=0.1, threshold=1.0, interval=(0.9, 1.1), false_matches=300),
        MatchThreshold(false_match_rate=0.001, threshold=0.5, interval=(None, 0.6), false_matches=3),
    ),
)
Color = tuple[int, int, int]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class SquaresEmbedder(FaceEmbedder):
    """Sees a face in each square of one colour on black; its embedding is the colour, scaled to unit length.

    What a server does with an embedder does not ask for a detector, which would take most of the time of its tests.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = build_face_network(FaceModelConfig(width=0.1, embedding_dim=3), 48)
        super().__init__(TrainedNetwork(network, Preprocessing(face_size=64, crop_size=48)), CALIBRATION)
        self.batches: list[int] = []
        """Photos that it was given together."""
        self.on_disk: list[bool] = []
        """Whether each photo lay in a file on the disk."""
        self.gate = threading.Event()
        """It waits for that before it looks at photos."""
        self.gate.set()

    def find_batch(  # type: ignore[override]
        self, photos: Sequence[BinaryIO], *, max_faces: int, formats: Sequence[str]
    ) -> list[PhotoFaces]:
        """See `FaceEmbedder`."""
        self.batches.append(len(photos))
        self.on_disk += [bool(getattr(photo, "_rolled", False)) for photo in photos]
        self.gate.wait(20)
        return [self._squares(photo, formats).at_most(max_faces) for photo in photos]

    def _squares(self, photo: BinaryIO, formats: Sequence[str]) -> PhotoFaces:
        try:
            pixels = decode_image(photo.read(), formats).pixels
        except UnreadablePhotoError as error:
            return PhotoFaces(name="photo", faces=(), size=None, reason=Reason.UNREADABLE, message=str(error))
        _, _, found, _ = cv2.connectedComponentsWithStats((pixels.max(axis=2) > 0).astype(np.uint8))
        faces = [_face(pixels, *square[:4]) for square in found[1:]]
        size = (pixels.shape[1], pixels.shape[0])
        return PhotoFaces(name="photo", faces=tuple(faces), size=size, reason=None, message="")


def _face(pixels: np.ndarray, left: int, top: int, width: int, height: int) -> Face:
    color = pixels[top, left].astype(np.float32)
    norm = float(np.linalg.norm(color))
    return Face(
        box=np.array([left, top, left + width, top + height], np.float64),
        landmarks=np.zeros((5, 2)),
        probability=0.999,
        chip=np.full((128, 128, 3), pixels[top, left], np.uint8),
        quality=FaceQuality(residual=1.0, profile=0.0, sharpness=100.0, contrast=50.0),
        embedding=color / norm,
        norm=norm,
    )


def squares(*colors: Color, side: int = 30) -> bytes:
    """A photo, as PNG, of squares beside each other."""
    pixels = np.zeros((side + 20, (side + 10) * max(1, len(colors)) + 10, 3), np.uint8)
    for number, color in enumerate(colors):
        left = 10 + (side + 10) * number
        pixels[10 : 10 + side, left : left + side] = color
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def application(
    embedder: FaceEmbedder | None = None,
    *,
    gallery: Gallery | None = None,
    limits: Limits | None = None,
    keep: Path | None = None,
    key: str | None = None,
) -> FastAPI:
    """An application as `facegm serve` makes it."""
    service = FaceService(embedder or SquaresEmbedder(), gallery, limits or Limits(), keep)
    return create_app(service, key=key)


def save_model(path: Path) -> None:
    """Save an untrained model with a small network."""
    torch.manual_seed(0)
    config, preprocessing = FaceModelConfig(width=0.1, embedding_dim=24), Preprocessing(face_size=64, crop_size=48)
    alignment = {"size": FACE_SIZE, "template": TEMPLATE.tolist()}
    save_embedder(path, build_face_network(config, 48), config, preprocessing, alignment)


class LocalClient(TestClient):
    """Asks an application as programs of this machine do: by its number, for without a key it takes no other name."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app, base_url="http://127.0.0.1:8000")


@contextmanager
def serving_process(*arguments: str | Path, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run `facegm serve` on a port that is free; gives the process and the port. It is killed if it is still there."""
    command = [sys.executable, "-P", "-m", "facegm", "serve", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, **environment}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"at http://127\.0\.0\.1:(\d+)", line):
                    yield process, int(found[1])
                    return
            raise AssertionError("".join(said))
        finally:
            process.kill()


@contextmanager
def served(app: FastAPI) -> Iterator[int]:
    """Serve an application by a thread; gives the port."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(configuration(app, timeout=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
