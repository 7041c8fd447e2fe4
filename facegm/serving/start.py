"""From a model's file to a process that serves it."""

import logging
from contextlib import closing, nullcontext
from ipaddress import ip_address
from pathlib import Path

from facegm.embedding.embedder import FaceEmbedder
from facegm.gallery.engines import IndexName
from facegm.gallery.gallery import Gallery
from facegm.serving.app import create_app
from facegm.serving.limits import Limits
from facegm.serving.server import bind, serve, share_cores
from facegm.serving.service import FaceService

logger = logging.getLogger(__name__)


def start(
    model: Path,
    *,
    gallery: str | None,
    index: IndexName,
    host: str,
    port: int,
    keep: Path | None,
    limits: Limits,
    device: str,
    key: str | None,
) -> None:
    """Serve a model until a signal ends the process.

    Args:
        model: whatever `FaceEmbedder.load` takes.
        gallery: address of the people who are enrolled, made where it is missing; None: nobody can be enrolled.
        index: what searches a gallery that is a file.
        host: name or number of the interface to serve at.
        port: 0 for any that is free.
        keep: folder that the photos are kept in; None: no photo is kept.
        limits: what a request may ask for.
        device: `--device`.
        key: that requests must bring; None: nobody is asked for one.

    Raises:
        FacegmError: the address is taken, or model or gallery cannot be used.
    """
    share_cores()
    with closing(bind(host, port)) as listener:
        embedder = FaceEmbedder.load(model, device=device)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        with nullcontext() if gallery is None else Gallery.create(gallery, embedder.contract, index=index) as people:
            service = FaceService(embedder, people, limits, keep)
            service.warm_up()
            address, found = listener.getsockname()[:2]
            if key is None and not ip_address(address).is_loopback:
                logger.warning("no FACEGM_API_KEY is set: whoever reaches this port may use the model and the gallery")
            logger.info(
                f"serving {embedder.describe()} at http://{f'[{address}]' if ':' in address else address}:{found}"
            )
            serve(create_app(service, key=key), listener, timeout=limits.timeout)
