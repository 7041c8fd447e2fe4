"""Small ONNX models as other programs write them, and what they make of pixels by their formula."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PATCH = 8
"""Side of the squares that the model looks at, one by one; the input's side is a multiple."""


def write_outside_model(
    path: Path,
    *,
    size: int = 112,
    dim: int = 12,
    batch: int | str = "batch",
    layout: str = "nchw",
    scaling: tuple[float, float] | None = None,
    reshaped_to: list[int] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """A convolution of squares side by side, a ReLU, and one linear layer.

    Args:
        path: the file to write.
        size: side of the input.
        dim: length of the embedding.
        batch: of the input, as the graph states it.
        layout: of the input.
        scaling: centre and factor of a Sub and a Mul that the graph begins with.
        reshaped_to: shape of the output, where it is to be another.
        seed: of the weights.

    Returns:
        The numbers of the kernel [8, 3, PATCH, PATCH] and of the matrix [dim, 8 * squares], for `outside_embeddings`.
    """
    generator, cells = np.random.default_rng(seed), (size // PATCH) ** 2
    kernel = generator.normal(size=(8, 3, PATCH, PATCH)).astype(np.float32) / 8
    matrix = (generator.normal(size=(dim, 8 * cells)) / np.sqrt(cells)).astype(np.float32)
    constants = {"kernel": kernel, "matrix": matrix}
    nodes, x = [], "data"
    if scaling is not None:
        constants |= {"centre": np.float32(scaling[0]), "factor": np.float32(scaling[1])}
        nodes += [
            helper.make_node("Sub", [x, "centre"], ["centred"]),
            helper.make_node("Mul", ["centred", "factor"], ["y"]),
        ]
        x = "y"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [x], ["first"], perm=[0, 3, 1, 2]))
        x = "first"
    nodes += [
        helper.make_node("Conv", [x, "kernel"], ["map"], strides=[PATCH, PATCH]),
        helper.make_node("Relu", ["map"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["row"]),
        helper.make_node("Gemm", ["row", "matrix"], ["embedding"], transB=1),
    ]
    if reshaped_to is not None:
        constants["shape"] = np.array(reshaped_to, np.int64)
        nodes[-1].output[0] = "plain"
        nodes.append(helper.make_node("Reshape", ["plain", "shape"], ["embedding"]))
    image = [batch, 3, size, size] if layout == "nchw" else [batch, size, size, 3]
    graph = helper.make_graph(
        nodes,
        "outside",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    onnx.save_model(model, path)
    return np.concatenate([kernel.ravel(), matrix.ravel()])


def outside_embeddings(weights: np.ndarray, pixels: np.ndarray, dim: int = 12) -> np.ndarray:
    """What the model makes of its input, by sums over squares in float64.

    Args:
        weights: from `write_outside_model`.
        pixels: its input, scaled, [faces, size, size, 3] in the model's order of channels.
        dim: length of the embedding.
    """
    faces, size = pixels.shape[:2]
    side = size // PATCH
    kernel = weights[: 8 * 3 * PATCH**2].astype(np.float64).reshape(8, 3, PATCH, PATCH)
    matrix = weights[8 * 3 * PATCH**2 :].astype(np.float64).reshape(dim, 8, side, side)
    squares = pixels.astype(np.float64).reshape(faces, side, PATCH, side, PATCH, 3)
    maps = np.maximum(np.einsum("naybxc,kcyx->nkab", squares, kernel), 0)
    return np.asarray(np.einsum("nkab,dkab->nd", maps, matrix))
