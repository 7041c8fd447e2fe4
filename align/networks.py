"""The three networks of MTCNN with facenet-pytorch's weights, run by torch."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Literal, Protocol

import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from jaxtyping import Float
from torch import Tensor, nn

from facegm.align.area import CHANNELS
from facegm.errors import FacegmError

CACHE = 2**18
"""Input numbers that a network works on at a time on a CPU: what it makes of them then stays in the core's cache."""

Images = Float[np.ndarray, f"images height width {CHANNELS}"]


def normalized(averages: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Pixels, 0 to 255, on the networks' scale: (pixel - 127.5) / 128, in place."""
    averages -= np.float32(127.5)
    averages *= np.float32(0.0078125)
    return averages


class Networks(Protocol):
    """The three stages.

    Images are RGB and a channel of anything, (pixel - 127.5) / 128; offsets of a box are shares of its sides.
    """

    def propose(
        self, images: Images
    ) -> tuple[Float[np.ndarray, "images rows columns"], Float[np.ndarray, "images rows columns 4"]]:
        """P-Net on images of one size: probability of a face, and offsets of its box, every other pixel."""

    def refine(self, images: Images) -> tuple[Float[np.ndarray, " images"], Float[np.ndarray, "images 4"]]:
        """R-Net on 24x24 pixels: probability of a face, and offsets of its box."""

    def finish(
        self, images: Images
    ) -> tuple[Float[np.ndarray, " images"], Float[np.ndarray, "images 4"], Float[np.ndarray, "images 10"]]:
        """O-Net on 48x48 pixels: probability of a face, offsets of its box, and five x, then five y, of landmarks."""


Runtime = Literal["cpu", "cuda", "openvino"]
"""What computes the networks: torch on the CPU or on a GPU, or OpenVINO on the CPU."""


def load_runtime(runtime: Runtime) -> Networks:
    """Load the networks for a runtime.

    Raises:
        FacegmError: the runtime, or the GPU, is not there.
    """
    if runtime == "openvino":
        from facegm.align.openvino_networks import OpenVinoNetworks

        return OpenVinoNetworks()
    if runtime == "cuda" and not torch.cuda.is_available():
        raise FacegmError("runtime cuda: torch sees no GPU here; use the runtime cpu or openvino")
    return TorchNetworks(torch.device(runtime))


class TorchNetworks:
    """The networks in float32 on a device, channels last in memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._networks = {name: network.to(device) for name, network in load_networks().items()}

    def propose(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """See `Networks`."""
        offsets, probabilities = self._run("pnet", images)
        return probabilities[:, 1], offsets.transpose(0, 2, 3, 1)

    def refine(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """See `Networks`."""
        offsets, probabilities = self._run("rnet", images)
        return probabilities[:, 1], offsets

    def finish(self, images: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Networks`."""
        offsets, landmarks, probabilities = self._run("onet", images)
        return probabilities[:, 1], offsets, landmarks

    @torch.inference_mode()
    def _run(self, name: str, images: Images) -> list[np.ndarray]:
        # A GPU's shortened float32 (TF32) would move boxes by tenths of a pixel.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            outputs = [self._networks[name](part) for part in self._parts(torch.from_numpy(images))]
        return [torch.cat(parts).cpu().numpy() for parts in zip(*outputs, strict=True)]

    def _parts(self, images: Tensor) -> Iterator[Tensor]:
        most = max(1, CACHE // images[0].numel()) if self._device.type == "cpu" else 4096
        for part in images.split(most):
            yield part.to(self._device).permute(0, 3, 1, 2)


def load_networks() -> dict[str, nn.Module]:
    """The networks `pnet`, `rnet` and `onet`, for images of `CHANNELS` channels; the last counts for nothing."""
    return {name: _load(network, name) for network, name in ((PNet, "pnet"), (RNet, "rnet"), (ONet, "onet"))}


def _load(network: type[nn.Module], name: str) -> nn.Module:
    module = network(pretrained=False)
    with (files("facenet_pytorch") / "data" / f"{name}.pt").open("rb") as file:
        module.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    first = module.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    first.weight = nn.Parameter(nn.functional.pad(first.weight.detach(), (0, 0, 0, 0, 0, CHANNELS - first.in_channels)))
    first.in_channels = CHANNELS
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
