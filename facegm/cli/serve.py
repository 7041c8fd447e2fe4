"""`facegm serve`: a model and a gallery over HTTP."""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from facegm.cli.options import add_device, add_gallery, whole_number
from facegm.errors import FacegmError, UsageError
from facegm.serving.limits import Limits

KEY_VARIABLE = "FACEGM_API_KEY"
LIMITS = {
    "max_bytes": "bytes of a photo as it is sent",
    "max_pixels": "pixels of a photo, by its header, before it is decoded",
    "max_faces": "faces of a photo",
    "max_requests": "requests in progress; more are answered with 503 and when to come again",
    "max_batch": "photos of all clients that are looked at together",
    "timeout": "seconds from a request's first byte to its answer",
}


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm serve",
        description="Detect, embed, verify, enrol and search faces over HTTP; a page to try it at /, the interface "
        f"described at /docs. Whoever may use it must send what {KEY_VARIABLE} says, as the header X-API-Key; where "
        "that variable is not set, all may who reach the port. SIGTERM and Ctrl-C end it, after what it has begun.",
        allow_abbrev=False,
    )
    options.add_argument("model", type=Path, help="run folder, embedder.safetensors, or an ONNX model")
    add_gallery(options, required=False, what="the people who are enrolled; made where it is missing")
    options.add_argument("--host", default="127.0.0.1", help="address to serve at (default: this machine alone)")
    options.add_argument(
        "--port", type=whole_number(minimum=0), default=8000, help="0 for any that is free (default: %(default)s)"
    )
    options.add_argument("--keep", type=Path, metavar="DIR", help="keep the photos that come; without it none is kept")
    for name, bounded in LIMITS.items():
        options.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole_number(minimum=1),
            default=getattr(Limits, name),
            metavar="NUMBER",
            help=f"the most {bounded} (default: %(default)s)",
        )
    add_device(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Serve until a signal ends it."""
    options = parser().parse_args(arguments)
    limits = Limits(**{name: getattr(options, name) for name in LIMITS})
    _require_libraries()
    # Read when torch is loaded: its threads then sleep, and do not spin, while the server's others want the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from facegm.serving.start import start

    start(
        options.model,
        gallery=options.gallery,
        index=options.index,
        host=options.host,
        port=options.port,
        keep=options.keep,
        limits=limits,
        device=options.device,
        key=_key(os.environ.get(KEY_VARIABLE)),
    )


def _require_libraries() -> None:
    missing = [name for name in ("fastapi", "multipart", "uvicorn") if find_spec(name) is None]
    if missing:
        raise FacegmError(f"serving needs {' and '.join(missing)}: pip install 'facegm[serve]'")


def _key(given: str | None) -> str | None:
    """The API key, as the environment says it.

    Raises:
        UsageError: it is one that no header can hold.
    """
    if given is not None and (not given.isascii() or not given.isprintable() or given != given.strip() or not given):
        raise UsageError(
            f"{KEY_VARIABLE}: must be printable ASCII characters, not empty, with no space at either end, which HTTP "
            "strips; unset it to ask for no key"
        )
    return given
