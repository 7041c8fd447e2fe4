"""A face network run by OpenVINO on the CPU (the extra `facegm[openvino]`): convolutions with what follows in one."""

from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from facegm.models.face_base import FaceNetwork
from facegm.models.face_resnet import ResidualUnit
from facegm.models.iresnet import IResidualUnit
from facegm.models.mobilefacenet import Bottleneck
from facegm.models.quick_network import quick_copy


def is_installed() -> bool:
    """Whether OpenVINO is here."""
    return find_spec("openvino") is not None


class OpenVinoEngine:
    """See `facegm.embedding.engine.Engine`: on as many threads as torch, in bfloat16 on a CPU that is fast in it.

    Threads take turns: a compiled network has one place for inputs and outputs.
    """

    def __init__(self, network: FaceNetwork) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else processes beside each other share the first cores
        }
        self._lock = Lock()
        self._compiled = openvino.Core().compile_model(_translated(quick_copy(network)), "CPU", settings)

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch dim"]:
        """See `Engine`."""
        pixels = images.contiguous().numpy()
        with self._lock:
            (embeddings,) = self._compiled(pixels, share_inputs=True, share_outputs=False).to_tuple()
        return torch.from_numpy(np.asarray(embeddings))


def _translated(network: FaceNetwork) -> Any:
    """The network as an OpenVINO model.

    OpenVINO's own converter would trace the network by what torch means to replace, and report its use online.
    """
    from openvino import Model, opset1

    images = opset1.parameter([-1, 3, network.input_size, network.input_size], np.float32)
    features = opset1.reshape(_applied(network.trunk, images), [0, -1], special_zero=True)
    return Model([_applied(network.embedding, features)], [images])


def _applied(layer: nn.Module, x: Any) -> Any:
    from openvino import opset1

    match layer:
        case nn.Sequential():
            for part in layer:
                x = _applied(part, x)
            return x
        case ResidualUnit() | Bottleneck():
            corrected = _applied(layer.body, x)
            return opset1.add(x, corrected) if getattr(layer, "is_residual", True) else corrected
        case IResidualUnit():
            kept = opset1.strided_slice(x, [0] * 4, [0] * 4, [1, 1, layer.stride, layer.stride], [1] * 4, [1] * 4)
            return opset1.add(_applied(layer.shortcut, kept), _applied(layer.body, x))
        case nn.Conv2d():
            return _convolved(layer, x)
        case nn.BatchNorm2d():
            assert layer.running_mean is not None
            assert layer.running_var is not None
            parts = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
            return opset1.batch_norm_inference(x, *map(_constant, parts), layer.eps)
        case nn.PReLU():
            return opset1.prelu(x, _constant(layer.weight))
        case nn.MaxPool2d():
            return opset1.max_pool(x, [layer.stride] * 2, [0, 0], [0, 0], [layer.kernel_size] * 2)
        case nn.Linear():
            return opset1.add(opset1.matmul(x, _constant(layer.weight), False, True), _constant(layer.bias))
        case nn.Identity():
            return x
    raise TypeError(f"no translation of {type(layer).__name__}")


def _convolved(layer: nn.Conv2d, x: Any) -> Any:
    from openvino import opset1

    weight, dilation, padding = layer.weight, list(layer.dilation), [int(side) for side in layer.padding]
    if layer.groups == 1:
        x = opset1.convolution(x, _constant(weight), list(layer.stride), padding, padding, dilation)
    else:
        grouped = weight.unflatten(0, (layer.groups, -1))
        x = opset1.group_convolution(x, _constant(grouped), list(layer.stride), padding, padding, dilation)
    return x if layer.bias is None else opset1.add(x, _constant(layer.bias.reshape(1, -1, 1, 1)))


def _constant(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().numpy())
