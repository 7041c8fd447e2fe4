"""Any ONNX model as a network that embeds aligned faces: looked at before it is trusted, run by ONNX Runtime."""

import logging
from collections.abc import Iterable
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from facegm.data.preprocessing import Preprocessing
from facegm.embedding.contract import EmbeddingContract, preprocessing_digest
from facegm.embedding.device import chosen_device
from facegm.embedding.embedding_network import ALIGNMENT, seen_as
from facegm.embedding.engine import GPU_BATCH, PIXELS
from facegm.embedding.onnx_file import OnnxFile
from facegm.embedding.onnx_preprocessing import OnnxPreprocessing
from facegm.embedding.processes import OncePerProcess, process_threads
from facegm.errors import FacegmError

logger = logging.getLogger(__name__)
_NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""Types of inputs that models take, as ONNX Runtime calls them."""


@dataclass(frozen=True, kw_only=True)
class InputSide:
    """How an ONNX model is shown faces."""

    crops: Preprocessing | OnnxPreprocessing
    """What of an aligned face it sees, and whether an embedding is the sum of the mirror images."""
    pixels: OnnxPreprocessing
    """What is done to these pixels outside the graph."""
    adds_mirror: bool = False
    """Whether the graph itself adds up the mirror images."""


class OnnxNetwork:
    """See `facegm.embedding.embedding_network.EmbeddingNetwork`.

    Args:
        file: the model.
        side: how it is shown faces.
        label: its name in reports.
        device: the CPU, or a CUDA device where ONNX Runtime has one.
        contract: of the network that it was exported from; None for a model of another program, whose contract is made
            of its own weights.

    Raises:
        FacegmError: ONNX Runtime cannot run it, or not on that device, or it is no model from one image to one
            embedding.
    """

    def __init__(
        self,
        file: OnnxFile,
        side: InputSide,
        label: str,
        *,
        device: torch.device | str = "cpu",
        contract: EmbeddingContract | None = None,
    ) -> None:
        self.file, self.side, self.device = file, side, torch.device(device)
        self._label, self._parameters, self._takes_batches = label, file.parameters, True
        self._begin()
        engine = self._engine.get()
        self.names = engine.names
        self.dim, self._takes_batches = self._looked_at(engine)
        engine.takes_batches = self._takes_batches
        self.contract = contract or EmbeddingContract(
            weights=file.digest,
            preprocessing=preprocessing_digest({"preprocessing": asdict(side.crops), "alignment": ALIGNMENT}),
            dim=self.dim,
        )

    @property
    def is_mirrored(self) -> bool:
        """See `EmbeddingNetwork`."""
        return self.side.crops.mirror

    @property
    def batch_size(self) -> int:
        """See `EmbeddingNetwork`."""
        return GPU_BATCH if self.device.type != "cpu" else max(1, PIXELS // self.side.pixels.size**2)

    def to(self, device: torch.device) -> "OnnxNetwork":
        """See `EmbeddingNetwork`."""
        if self.device == device:
            return self
        there = copy(self)
        there.device = device
        there._begin()
        return there

    def describe(self) -> str:
        """See `EmbeddingNetwork`."""
        size, crops = self.side.pixels.size, self.side.crops
        seen = (
            seen_as(crops)
            if isinstance(crops, Preprocessing)
            else f"{size}x{size} pixels, mirror: {'sum' if crops.mirror else 'none'}"
        )
        return f"{self._label}, {self._parameters:,} parameters, {self.dim} dimensions, {seen}"

    def crops(self, faces: Iterable[UInt8[np.ndarray, "side side 3"]]) -> UInt8[np.ndarray, "batch crop crop 3"]:
        """See `EmbeddingNetwork`."""
        return self.side.crops.middle_crops(faces)

    def engine_for(self, faces: int, current: "OnnxEngine | None") -> "OnnxEngine":  # noqa: ARG002 - one for all
        """See `EmbeddingNetwork`."""
        return current or self._engine.get()

    def embed(
        self, engine: "OnnxEngine", crops: UInt8[np.ndarray, "batch crop crop 3"], *, mirror: bool
    ) -> Float[np.ndarray, "batch dim"]:
        """See `EmbeddingNetwork`."""
        if self.side.adds_mirror and not mirror:
            raise FacegmError(
                f"{self.file.path}: the graph adds up a face and its mirror image, which cannot be embedded apart; "
                "take the model that it was exported from"
            )
        embeddings = engine.run(self.side.pixels.network_input(crops))
        if mirror and not self.side.adds_mirror:
            embeddings += engine.run(self.side.pixels.network_input(crops[:, :, ::-1]))
        return embeddings

    def _begin(self) -> None:
        """Begin with nothing that a process has to make for itself."""
        self._engine = OncePerProcess(
            lambda: OnnxEngine(self.file, self.device, takes_batches=self._takes_batches),
            is_on_gpu=self.device.type == "cuda",
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _looked_at(self, engine: "OnnxEngine") -> tuple[int, bool]:
        """Embed two pictures of noise.

        Returns:
            The embedding's length, and whether the model takes more than one face at a time.

        Raises:
            FacegmError: it cannot be run, or what comes out is no embedding.
        """
        pixels = self.side.pixels
        engine.require_input(pixels)
        noise = np.random.default_rng(0).integers(0, 256, (2, pixels.size, pixels.size, 3), np.uint8)
        images = pixels.network_input(noise)
        alone = [engine.run(images[i : i + 1]) for i in range(2)]
        for embedding in alone:
            if embedding.ndim != 2 or embedding.shape[0] != 1 or embedding.shape[1] < 2:
                raise FacegmError(
                    f"{self.file.path}: makes {list(embedding.shape)} of one face, where an embedding is [1, dim]"
                )
            if not np.isfinite(embedding).all():
                raise FacegmError(f"{self.file.path}: makes embeddings that are not finite")
        return int(alone[0].shape[1]), engine.takes_batches and _is_batch_of(alone, engine, images)


class OnnxEngine:
    """A session of ONNX Runtime, on as many threads of the CPU as torch; none of the model's own code is run.

    Raises:
        FacegmError: the model cannot be run, or not on that device.
    """

    def __init__(self, file: OnnxFile, device: torch.device, *, takes_batches: bool = True) -> None:
        import onnxruntime

        self._path = file.path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = process_threads()
        options.log_severity_level = 4  # what it would say comes in its exceptions
        providers = _providers(device)
        try:
            self._session = onnxruntime.InferenceSession(file.data, options, providers=providers)
        except Exception as error:  # a dozen classes of its own, which have nothing else in common
            raise FacegmError(f"{file.path}: ONNX Runtime cannot run it ({error})") from error
        if device.type == "cuda" and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise FacegmError(
                f"{file.path}: ONNX Runtime could not use {device}; see its requirements, or take the CPU"
            )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            names = (", ".join(one.name for one in some) for some in (inputs, outputs))
            raise FacegmError("{}: from {} to {}, where one image and one embedding are".format(file.path, *names))
        self.names: tuple[str, str] = (inputs[0].name, outputs[0].name)
        self._shape, self._type = inputs[0].shape, inputs[0].type
        if self._type not in _NUMBERS:
            raise FacegmError(f"{file.path}: takes {self._type}, where pixels are {' or '.join(_NUMBERS)}")
        batch = self._shape[0] if self._shape else None
        if isinstance(batch, int) and batch > 1:
            raise FacegmError(f"{file.path}: takes just {batch} faces at a time; export it for one, or for any number")
        self.takes_batches = takes_batches and batch != 1

    def require_input(self, pixels: OnnxPreprocessing) -> None:
        """Check that the model takes what it is to be given.

        Raises:
            FacegmError: it does not.
        """
        image = (3, pixels.size, pixels.size) if pixels.layout == "nchw" else (pixels.size, pixels.size, 3)
        taken = self._shape
        if len(taken) != 4 or any(isinstance(a, int) and a != b for a, b in zip(taken[1:], image, strict=True)):
            raise FacegmError(
                f"{self._path}: takes {taken}, and would be given {['batch', *image]}; name its size and layout in its "
                "preprocessing"
            )

    def run(self, images: Float[np.ndarray, "batch _ _ _"]) -> Float[np.ndarray, "batch dim"]:
        """What the model makes of images, in float32.

        Raises:
            FacegmError: it fails.
        """
        images, step = images.astype(_NUMBERS[self._type]), len(images) if self.takes_batches else 1
        parts = [images[start : start + step] for start in range(0, len(images), step)]
        try:
            found = [self._session.run(None, {self.names[0]: part})[0] for part in parts]
        except Exception as error:  # as above
            raise FacegmError(f"{self._path}: ONNX Runtime fails ({error})") from error
        return np.concatenate(found).astype(np.float32, copy=False)


def _is_batch_of(alone: list[np.ndarray], engine: OnnxEngine, images: np.ndarray) -> bool:
    """Whether a model makes of images together what it makes of each: some name their batch, and take one alone."""
    try:
        together = engine.run(images)
    except FacegmError:
        return False
    each = np.concatenate(alone)
    return together.shape == each.shape and bool(np.abs(together - each).max() <= 1e-2 * np.abs(each).max())


def onnx_device(asked: str | torch.device) -> torch.device:
    """The device that is asked for; with "auto" the CPU where ONNX Runtime has no other, which is logged.

    Raises:
        FacegmError: there is no such device here.
    """
    if asked == "auto" and not _has_cuda():
        logger.info("device auto: the CPU, for ONNX Runtime has no other here")
        return torch.device("cpu")
    return chosen_device(asked)


def _has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _providers(device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if device.type != "cuda" or not _has_cuda():
        raise FacegmError(
            f"ONNX Runtime has no {device} here: for GPUs of NVIDIA install onnxruntime-gpu in place of onnxruntime, "
            "or take the CPU"
        )
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]
