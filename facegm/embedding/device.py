"""Where an embedder's networks run."""

import logging
from functools import cache

import torch

from facegm.errors import FacegmError

logger = logging.getLogger(__name__)


def chosen_device(asked: str | torch.device) -> torch.device:
    """The device that is asked for, or with "auto" a GPU where torch sees one; which and why is logged once.

    Raises:
        FacegmError: torch knows no such device, or there is none here.
    """
    if asked == "auto":
        return _automatic_device()
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise FacegmError(f"device {asked!r}: take auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise FacegmError(f"device {asked}: {_seen(count)}; take auto or cpu")
        if str(device) == "cuda":  # each process under torchrun has its own
            return torch.device("cuda", torch.cuda.current_device())
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise FacegmError("device mps: torch sees no such GPU here; take auto or cpu")
    return device


@cache
def _automatic_device() -> torch.device:
    if torch.cuda.is_available():
        logger.info(f"device auto: {torch.cuda.get_device_name()}, a GPU that torch sees")
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        logger.info("device auto: mps, Apple's GPU")
        return torch.device("mps")
    logger.info(f"device auto: the CPU, for there is {_seen(0)}")
    return torch.device("cpu")


def _seen(count: int) -> str:
    if count:
        return f"torch sees {count} here, counted from 0"
    return "no GPU that torch sees" + ("" if torch.version.cuda else " (this torch is built without CUDA)")
