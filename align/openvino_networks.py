"""The three networks of MTCNN run by OpenVINO on the CPU (the extra `facegm[openvino]`)."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from facegm.align.area import CHANNELS
from facegm.align.networks import CACHE, Images, load_networks
from facegm.errors import FacegmError

_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # else processors with bfloat16 use that, and boxes move by pixels
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # else all workers share the first core
}


SIDES = {"pnet": -1, "rnet": 24, "onet": 48}
"""Height and width of the images that a network takes; -1 for any."""


class OpenVinoNetworks:
    """The networks in float32 on one thread; see `facegm.align.networks.Networks`.

    Raises:
        FacegmError: OpenVINO is not installed.
    """

    def __init__(self) -> None:
        try:
            import openvino
        except ImportError as error:
            raise FacegmError("the runtime openvino needs OpenVINO: pip install 'facegm[openvino]'") from error
        core = openvino.Core()
        self._networks = {
            name: core.compile_model(_translated(network, SIDES[name]), "CPU", _SETTINGS)
            for name, network in load_networks().items()
        }

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

    def _run(self, name: str, images: Images) -> list[np.ndarray]:
        most = max(1, CACHE // images[0].size)
        network = self._networks[name]
        outputs = [
            [np.array(output) for output in network(images[start : start + most]).to_tuple()]
            for start in range(0, len(images), most)
        ]
        return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def _translated(network: nn.Module, side: int) -> Any:
    """An OpenVINO model of one of the networks, for images whose channels come last.

    Its layers stand in the order in which they are applied; those whose names hold an underscore are heads on the last
    one's output. OpenVINO's own converter would trace the network by what torch means to replace, and report its use.
    """
    from openvino import Model, opset1

    images = opset1.parameter([-1, side, side, CHANNELS], np.float32)
    x = opset1.transpose(images, [0, 3, 1, 2])
    heads: dict[str, Any] = {}
    for name, layer in network.named_children():
        _, _, head = name.partition("_")
        if not head:
            x = _applied(layer, x)
        elif isinstance(layer, nn.Softmax):
            heads[head] = opset1.softmax(heads[head], 1)
        else:
            heads[head] = _applied(layer, x)
    # As facenet-pytorch's networks do: the probability last.
    return Model([*(heads[head] for head in sorted(heads)[1:]), heads["1"]], [images])


def _applied(layer: nn.Module, x: Any) -> Any:
    from openvino import opset1

    if isinstance(layer, nn.Conv2d):
        products = opset1.convolution(x, _constant(layer.weight), [1, 1], [0, 0], [0, 0], [1, 1])
        assert layer.bias is not None
        return opset1.add(products, _constant(layer.bias.reshape(1, -1, 1, 1)))
    if isinstance(layer, nn.PReLU):
        return opset1.prelu(x, _constant(layer.weight))
    if isinstance(layer, nn.MaxPool2d):
        kernel, stride = [layer.kernel_size] * 2, [layer.stride] * 2
        return opset1.max_pool(x, stride, [0, 0], [0, 0], kernel, rounding_type="ceil")
    assert isinstance(layer, nn.Linear)
    if len(x.output(0).partial_shape) == 4:  # width, height, channels, in this order
        x = opset1.reshape(opset1.transpose(x, [0, 3, 2, 1]), [0, -1], special_zero=True)
    return opset1.add(opset1.matmul(x, _constant(layer.weight), False, True), _constant(layer.bias))


def _constant(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().numpy())
