"""A face network as an ONNX graph: pixels in, embedding out, without tracing."""

from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor, nn

from facegm.data.preprocessing import PIXEL_CENTER, PIXEL_SCALE
from facegm.embedding.translation import translate
from facegm.models.face_base import FaceNetwork
from facegm.models.quick_network import quick_copy

OPSET, IR_VERSION = 13, 7
"""Of 2020: whatever runs ONNX today reads them."""
INPUT, OUTPUT, BATCH = "faces", "embeddings", "batch"
"""Names in the graph; the batch has any length."""


def onnx_model(network: FaceNetwork, *, mirror: bool) -> Any:
    """An `onnx.ModelProto` of what an embedding is: the scaling of pixels, the network, the sum of the mirror images.

    Its input is float32 [batch, 3, side, side], RGB pixels of 0 to 255; its output float32 [batch, dim], not
    normalised. The scaling is in the first two nodes, a Sub and a Mul, by which insightface's reader too knows that
    there is none left to do.

    Args:
        network: on the CPU.
        mirror: whether an embedding is f(face) + f(mirrored face).
    """
    from onnx import TensorProto, helper

    side, graph = network.input_size, _Graph()
    centred = graph.add_node("Sub", INPUT, graph.constant(np.float32(PIXEL_CENTER)))
    images = graph.add_node("Mul", centred, graph.constant(np.float32(1 / PIXEL_SCALE)))
    if mirror:
        images = graph.add_node("Concat", images, graph.sliced(images, axes=[3], starts=[-1], steps=[-1]), axis=0)
    embeddings = translate(quick_copy(network), images, graph)
    if mirror:
        embeddings = graph.add(*graph.halves(embeddings))
    graph.nodes[-1].output[0] = OUTPUT
    faces = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH, 3, side, side])
    found = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, network.embedding_dim])
    return helper.make_model(
        helper.make_graph(graph.nodes, type(network).__name__, [faces], [found], graph.constants),
        producer_name="facegm",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )


class _Graph:
    """Nodes and constants so far; see `facegm.embedding.translation.Operations`, whose values are names here."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add_node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Append one with one output, and give its name."""
        from onnx import helper

        name = f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, [*inputs], [name], name, **attributes))
        return name

    def constant(self, values: Shaped[np.ndarray, "*shape"] | np.generic) -> str:
        """Keep a constant, and give its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name))
        return name

    def sliced(self, x: str, *, axes: list[int], starts: list[int], steps: list[int]) -> str:
        """From `starts` to the end (with a negative step, the beginning) of the axes."""
        ends = [np.iinfo(np.int64).max if step > 0 else np.iinfo(np.int64).min for step in steps]
        parts = (self.constant(np.array(numbers, np.int64)) for numbers in (starts, ends, axes, steps))
        return self.add_node("Slice", x, *parts)

    def halves(self, x: str) -> tuple[str, str]:
        """The first and the second half of a batch."""
        first = self.add_node("Split", x, axis=0)
        second = f"{first}_rest"
        self.nodes[-1].output.append(second)
        return first, second

    def convolve(self, layer: nn.Conv2d, x: str) -> str:
        top, left = (int(side) for side in layer.padding)
        return self.add_node(
            "Conv",
            x,
            self._parameter(layer.weight),
            *([] if layer.bias is None else [self._parameter(layer.bias)]),
            dilations=[*layer.dilation],
            group=layer.groups,
            kernel_shape=[*layer.kernel_size],
            pads=[top, left, top, left],
            strides=[*layer.stride],
        )

    def normalise(self, layer: nn.BatchNorm2d, x: str) -> str:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        parts = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
        return self.add_node("BatchNormalization", x, *map(self._parameter, parts), epsilon=layer.eps)

    def prelu(self, layer: nn.PReLU, x: str) -> str:
        return self.add_node("PRelu", x, self._parameter(layer.weight.reshape(-1, 1, 1)))

    def max_pool(self, layer: nn.MaxPool2d, x: str) -> str:
        return self.add_node("MaxPool", x, kernel_shape=[layer.kernel_size] * 2, strides=[layer.stride] * 2)

    def linear(self, layer: nn.Linear, x: str) -> str:
        return self.add_node("Gemm", x, self._parameter(layer.weight), self._parameter(layer.bias), transB=1)

    def add(self, a: str, b: str) -> str:
        return self.add_node("Add", a, b)

    def subsample(self, stride: int, x: str) -> str:
        return self.sliced(x, axes=[2, 3], starts=[0, 0], steps=[stride, stride])

    def flatten(self, x: str) -> str:
        return self.add_node("Flatten", x, axis=1)

    def _parameter(self, values: Tensor) -> str:
        return self.constant(values.detach().numpy())
