"""The three networks of MTCNN run by OpenVINO on the CPU (the extra `facegm[openvino]`)."""

from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facegm.align.area import CHANNELS
from facegm.align.networks import Images, Layers, NetworkName, load_layers

_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # else processors with bfloat16 use that, and boxes move by pixels
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # else all workers share the first core
}
_BATCH = 2**17
"""Input numbers that a network is given at a time: what it makes of them then stays in the core's cache."""
_SIDES: dict[NetworkName, int] = {"pnet": -1, "rnet": 24, "onet": 48}
"""Height and width of the images that a network takes; -1 for any."""


class OpenVinoNetworks:
    """The networks in float32 on one thread, which others wait for; see `facegm.align.networks.Networks`."""

    def __init__(self) -> None:
        import openvino

        self.most = _BATCH
        self._lock = Lock()
        core = openvino.Core()

        def compiled(name: NetworkName, batch: int = -1) -> Any:
            layers = load_layers(name, torch.device("cpu"))
            return core.compile_model(_translated(layers, batch, _SIDES[name]), "CPU", _SETTINGS)

        self._networks = {name: compiled(name) for name in _SIDES}
        sizes = {name: _BATCH // (side * side * CHANNELS) for name, side in _SIDES.items() if side > 0}
        self._full = {(name, size): compiled(name, size) for name, size in sizes.items()}
        """For as many images as are given at a time at most: a little faster where the number is known before."""

    def run(self, name: NetworkName, images: Images) -> list[np.ndarray]:
        """See `Networks`."""
        network = self._full.get((name, len(images)), self._networks[name])
        with self._lock:  # a compiled network has one place for inputs and outputs
            return list(network(images, share_inputs=True, share_outputs=False).to_tuple())


def _translated(layers: Layers, batch: int, side: int) -> Any:
    """An OpenVINO model of one of the networks, for images of a number and size, -1 for any.

    OpenVINO's own converter would trace the network by what torch means to replace, and report its use online.
    """
    from openvino import Model, opset1

    images = opset1.parameter([batch, side, side, CHANNELS], np.float32)
    x = opset1.transpose(images, [0, 3, 1, 2])
    for layer in layers.trunk:
        x = _applied(layer, x)
    outputs = []
    for head in layers.heads:
        output = x
        for layer in head:
            output = _applied(layer, output)
        outputs.append(output)
    return Model(outputs, [images])


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
    if isinstance(layer, nn.Softmax):
        return opset1.softmax(x, 1)
    assert isinstance(layer, nn.Linear)
    if len(x.output(0).partial_shape) == 4:
        x = opset1.reshape(opset1.transpose(x, [0, 3, 2, 1]), [0, -1], special_zero=True)
    return opset1.add(opset1.matmul(x, _constant(layer.weight), False, True), _constant(layer.bias))


def _constant(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().numpy())
