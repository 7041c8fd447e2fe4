"""A process that serves: its socket, its threads, and its end."""

import logging
import signal
import socket

import cv2
import torch
import uvicorn
from fastapi import FastAPI

from facegm.data.machine import cores
from facegm.errors import FacegmError, UsageError
from facegm.serving.protocol import HEAD_BYTES, Protocol

logger = logging.getLogger(__name__)
MAX_PORT = 65535
LAST_SECONDS = 5
"""That a request in progress has more than its time limit, when the server is to end."""


def share_cores() -> None:
    """Have the thread that embeds use the cores of this process, and no more: torch does not know a container's."""
    torch.set_num_threads(cores())
    cv2.setNumThreads(cores())


def bind(host: str, port: int) -> socket.socket:
    """Take an address.

    Args:
        host: name or number of an interface.
        port: 0 for any that is free.

    Raises:
        UsageError: a port beyond 65535.
        FacegmError: the address is taken, or is none of this machine's.
    """
    if port > MAX_PORT:
        raise UsageError(f"--port {port}: at most {MAX_PORT}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise FacegmError(f"{host} port {port}: {error}; choose another by --host and --port") from error


def configuration(app: FastAPI, *, timeout: int) -> uvicorn.Config:
    """How uvicorn is to serve an application; see `serve`."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=timeout + LAST_SECONDS,
    )


def serve(app: FastAPI, listener: socket.socket, *, timeout: int) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what was begun.

    Args:
        app: the application.
        listener: where clients come.
        timeout: seconds that a request may take.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each form that is refused
    # uvicorn ends by raising the signal that ended it once more.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        uvicorn.Server(configuration(app, timeout=timeout)).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    logger.info("ended; every request that was begun has its answer")
