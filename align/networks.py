"""The three networks of MTCNN with facenet-pytorch's weights, run by torch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from threading import Lock
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from jaxtyping import Float
from torch import Tensor, nn

from facegm.align.area import CHANNELS
from facegm.errors import FacegmError

CPU_BATCH = 2**19
"""Input numbers that a network is given at a time on a CPU: each call costs something, little from there on."""
GPU_BATCH = 2**24
"""The same on a GPU, where it bounds memory."""

NetworkName = Literal["pnet", "rnet", "onet"]
_CLASSES: dict[NetworkName, type[nn.Module]] = {"pnet": PNet, "rnet": RNet, "onet": ONet}

_CUDNN_LOCK = Lock()

Images = Float[np.ndarray, f"images height width {CHANNELS}"]


def normalize(averages: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Pixels, 0 to 255, on the networks' scale: (pixel - 127.5) / 128, in place."""
    averages -= np.float32(127.5)
    averages *= np.float32(0.0078125)
    return averages


class Networks(Protocol):
    """The three networks, whatever computes them."""

    @property
    def most(self) -> int:
        """How many numbers they are best given at a time."""

    def run(self, name: NetworkName, images: Images) -> list[np.ndarray]:
        """Run one of the networks.

        Args:
            name: P-Net takes images of one size, R-Net of 24x24 and O-Net of 48x48 pixels.
            images: RGB and a channel of anything, `normalize`d.

        Returns:
            Of each image [images, 2] probabilities of no face and of a face; [images, 4] offsets of the box as shares
            of its sides; from O-Net [images, 10] landmarks, five x, then five y, as shares of them. From P-Net each has
            two more dimensions, the rows and columns of the squares looked at.
        """


Runtime = Literal["cpu", "cuda", "openvino"]
"""What computes the networks: torch on the CPU or on a GPU, or OpenVINO on the CPU."""


def require_runtime(runtime: Runtime) -> None:
    """Check that this machine has what a runtime needs.

    Raises:
        FacegmError: OpenVINO is not installed, or there is no GPU.
    """
    if runtime == "openvino" and find_spec("openvino") is None:
        raise FacegmError("the runtime openvino needs OpenVINO: pip install 'facegm[openvino]'")
    if runtime == "cuda" and not torch.cuda.is_available():
        raise FacegmError("runtime cuda: torch sees no GPU here; use the runtime cpu or openvino")


def load_runtime(runtime: Runtime, gpu: int = 0) -> Networks:
    """Load the networks for a runtime; with `cuda`, onto the GPU of that number.

    Raises:
        FacegmError: the runtime, or the GPU, is not there.
    """
    require_runtime(runtime)
    if runtime == "openvino":
        from facegm.align.openvino_networks import OpenVinoNetworks

        return OpenVinoNetworks()
    return TorchNetworks(torch.device("cuda", gpu) if runtime == "cuda" else torch.device("cpu"))


@contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """Without a GPU's shortened float32 (TF32), which would move boxes by tenths of a pixel.

    The setting is the whole process's: threads that set it at a time would set it back to each other's, and change what
    networks that did not set it give. So all that find and embed faces take turns here.
    """
    if device.type == "cpu":
        yield
        return
    with _CUDNN_LOCK, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


class TorchNetworks:
    """The networks in float32 on a device, on a CPU in oneDNN's own memory layout."""

    def __init__(self, device: torch.device) -> None:
        self.most = CPU_BATCH if device.type == "cpu" else GPU_BATCH
        self._device = device
        self._in_onednn = device.type == "cpu" and torch.backends.mkldnn.is_available()
        self._layers = {name: load_layers(name, device) for name in _CLASSES}

    @torch.inference_mode()
    def run(self, name: NetworkName, images: Images) -> list[np.ndarray]:
        """See `Networks`."""
        with exact_convolutions(self._device):
            return [output.cpu().numpy() for output in self._outputs(self._layers[name], torch.from_numpy(images))]

    def _outputs(self, layers: "Layers", images: Tensor) -> list[Tensor]:
        x = images.to(self._device).permute(0, 3, 1, 2)
        if self._in_onednn:
            x = x.to_mkldnn()
        for layer in layers.trunk:
            if isinstance(layer, nn.Linear) and x.dim() == 4:
                x = _dense(x).permute(0, 3, 2, 1).flatten(1)  # as the weights were made for
            x = layer(x)
        return [_dense(nn.Sequential(*head)(x)) for head in layers.heads]


class Layers(NamedTuple):
    """A network's layers: some one after the other, and then several heads on the last one's output."""

    trunk: Sequence[nn.Module]
    heads: Sequence[Sequence[nn.Module]]
    """Probabilities, offsets, and O-Net's landmarks."""


def load_layers(name: NetworkName, device: torch.device) -> Layers:
    """Load a network for images of `CHANNELS` channels, of which the last counts for nothing."""
    network = _CLASSES[name](pretrained=False)
    with (files("facenet_pytorch") / "data" / f"{name}.pt").open("rb") as file:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    first = network.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    first.weight = nn.Parameter(nn.functional.pad(first.weight.detach(), (0, 0, 0, 0, 0, CHANNELS - first.in_channels)))
    first.in_channels = CHANNELS
    network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    # The modules stand in the order in which they are applied; conv4_2 is the second head, softmax4_1 ends the first.
    trunk: list[nn.Module] = []
    heads: dict[str, list[nn.Module]] = {}
    for layer_name, layer in network.named_children():
        _, _, head = layer_name.partition("_")
        (heads.setdefault(head, []) if head else trunk).append(layer)
    return Layers(trunk, [heads[head] for head in sorted(heads)])


def _dense(x: Tensor) -> Tensor:
    return x.to_dense() if x.is_mkldnn else x
