"""Whether and how a network is compiled by torch.compile."""

import logging
import os
import shutil
from typing import Literal

import torch

from facegm.errors import FacegmError
from facegm.models.face_resnet import FaceResNet27

logger = logging.getLogger(__name__)

Compilation = Literal["auto", "on", "off"]
WORTH_IT = 5_000
"""Steps of a run from which on faster ones make up for half a minute at the start, of a small network too."""


def compile_network(network: FaceResNet27, asked: Compilation, steps: int, *, say: bool) -> None:
    """Compile the network in its place where that is asked for, or pays and is possible.

    Args:
        network: on its device.
        asked: `train.compile` of a configuration.
        steps: of the run.
        say: whether to log what was chosen where the choice is left to this function.

    Raises:
        FacegmError: it is asked for, and there is no compiler for what torch generates.
    """
    if asked == "off" or (asked == "auto" and steps < WORTH_IT):
        return
    compiler = _compiler(network.embedding.weight.device)
    if shutil.which(compiler) is None:
        reason = f"torch.compile needs a compiler, and {compiler} is not installed"
        if asked == "on":
            raise FacegmError(f"train.compile: {reason}; install it, or set train.compile=off")
        if say:
            logger.info(f"{reason}: steps will be slower than they could be")
        return
    network.compile()


def _compiler(device: torch.device) -> str:
    """Inductor generates C++ for a CPU; for a GPU Triton generates its code, and C to launch it."""
    return os.environ.get("CXX", "g++") if device.type == "cpu" else os.environ.get("CC", "gcc")
