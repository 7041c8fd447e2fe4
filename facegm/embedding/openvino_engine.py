"""A face network run by OpenVINO on the CPU (the extra `facegm[openvino]`): convolutions with what follows in one."""

from importlib.util import find_spec
from threading import local
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from facegm.embedding.processes import process_threads
from facegm.embedding.translation import translate
from facegm.models.face_base import FaceNetwork
from facegm.models.quick_network import quick_copy


def is_installed() -> bool:
    """Whether OpenVINO is here."""
    return find_spec("openvino") is not None


class OpenVinoEngine:
    """See `facegm.embedding.engine.Engine`: on as many threads as torch, in bfloat16 on a CPU that is fast in it.

    Each thread that asks has its own place for inputs and outputs. All of them share one stream of computation, so that
    a single one has the whole CPU; a stream for each gained 2% with two threads, and cost a single one a quarter.
    """

    def __init__(self, network: FaceNetwork) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": process_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else processes beside each other share the first cores
        }
        self._compiled = openvino.Core().compile_model(_translated(quick_copy(network)), "CPU", settings)
        self._of_thread = local()

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch dim"]:
        """See `Engine`."""
        pixels = images.contiguous().numpy()
        (embeddings,) = self._request().infer(pixels, share_inputs=True, share_outputs=False).to_tuple()
        return torch.from_numpy(np.asarray(embeddings))

    def _request(self) -> Any:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return self._of_thread.request


def _translated(network: FaceNetwork) -> Any:
    """The network as an OpenVINO model.

    OpenVINO's own converter would trace the network by what torch means to replace, and report its use online.
    """
    from openvino import Model, opset1

    images = opset1.parameter([-1, 3, network.input_size, network.input_size], np.float32)
    return Model([translate(network, images, _Operations())], [images])


class _Operations:
    """See `facegm.embedding.translation.Operations`: OpenVINO's first set."""

    def __init__(self) -> None:
        from openvino import opset1

        self._set = opset1

    def convolve(self, layer: nn.Conv2d, x: Any) -> Any:
        weight, dilation, padding = layer.weight, list(layer.dilation), [int(side) for side in layer.padding]
        if layer.groups == 1:
            x = self._set.convolution(x, _constant(weight), list(layer.stride), padding, padding, dilation)
        else:
            grouped = weight.unflatten(0, (layer.groups, -1))
            x = self._set.group_convolution(x, _constant(grouped), list(layer.stride), padding, padding, dilation)
        return x if layer.bias is None else self._set.add(x, _constant(layer.bias.reshape(1, -1, 1, 1)))

    def normalise(self, layer: nn.BatchNorm2d, x: Any) -> Any:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        parts = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
        return self._set.batch_norm_inference(x, *map(_constant, parts), layer.eps)

    def prelu(self, layer: nn.PReLU, x: Any) -> Any:
        return self._set.prelu(x, _constant(layer.weight))

    def max_pool(self, layer: nn.MaxPool2d, x: Any) -> Any:
        return self._set.max_pool(x, [layer.stride] * 2, [0, 0], [0, 0], [layer.kernel_size] * 2)

    def linear(self, layer: nn.Linear, x: Any) -> Any:
        return self._set.add(self._set.matmul(x, _constant(layer.weight), False, True), _constant(layer.bias))

    def add(self, a: Any, b: Any) -> Any:
        return self._set.add(a, b)

    def subsample(self, stride: int, x: Any) -> Any:
        return self._set.strided_slice(x, [0] * 4, [0] * 4, [1, 1, stride, stride], [1] * 4, [1] * 4)

    def flatten(self, x: Any) -> Any:
        return self._set.reshape(x, [0, -1], special_zero=True)


def _constant(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().numpy())
