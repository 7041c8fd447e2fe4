"""A file of an ONNX model: what it holds, by what it is known, and the description that facegm puts into it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from facegm.data.files import replace_atomically
from facegm.errors import FacegmError

SUFFIX = ".onnx"
KEY = "facegm"
"""Of the description among the model's `metadata_props`."""
_METADATA, _COMPUTES = 14, (7, 8, 25)
"""Numbers of fields of an `onnx.ModelProto`: metadata_props; graph, opset_import and functions."""


def is_onnx(path: Path) -> bool:
    """Whether a model's file is one of ONNX, by its suffix."""
    return path.suffix.lower() == SUFFIX


def require_runtime() -> None:
    """Refuse to go on without ONNX and its runtime.

    Raises:
        FacegmError: they are not installed.
    """
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        raise FacegmError('ONNX models need onnx and onnxruntime: pip install "facegm[onnx]"')


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A whole model in memory."""

    path: Path
    """For messages."""
    data: bytes
    """Serialized `onnx.ModelProto`."""

    @classmethod
    def read(cls, path: Path) -> "OnnxFile":
        """Read a model, without running any of it.

        Raises:
            FacegmError: no such file, one that is damaged or no ONNX model, one that keeps weights in other files, or
                ONNX is not installed.
        """
        require_runtime()
        if not path.is_file():
            raise FacegmError(f"{path}: no such model file; `facegm export` writes one")
        file = cls(path, path.read_bytes())
        if _has_weights_elsewhere(file.model):
            raise FacegmError(
                f"{path}: keeps weights in other files, which are not read; write it as one: "
                "onnx.save_model(onnx.load(FILE), NEW_FILE)"
            )
        return file

    @cached_property
    def model(self) -> Any:
        """The `onnx.ModelProto`.

        Raises:
            FacegmError: it is none.
        """
        from google.protobuf.message import DecodeError
        from onnx import ModelProto

        try:
            model = ModelProto.FromString(self.data)
        except DecodeError as error:
            raise FacegmError(f"{self.path}: damaged or not an ONNX model ({error})") from error
        if not model.graph.node:
            raise FacegmError(f"{self.path}: damaged or not an ONNX model (there is no graph)")
        return model

    def forget_model(self) -> None:
        """Free `model`, which holds the weights once more; it is parsed anew where it is asked for again."""
        self.__dict__.pop("model", None)

    @cached_property
    def _fields(self) -> "list[_Field]":
        try:
            return [*_fields(self.data)]
        except ValueError as error:
            raise FacegmError(f"{self.path}: damaged or not an ONNX model ({error})") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what computes: the graph with its weights and the sets of its operations.

        The bytes of the file are taken, since a serialization by another version of protobuf may differ.
        """
        digest = hashlib.sha256()
        for field in self._fields:
            if field.number in _COMPUTES:
                digest.update(self.data[field.start : field.end])
        return digest.hexdigest()

    @property
    def description(self) -> dict[str, Any] | None:
        """What facegm has written into it; None in a file of another program.

        Raises:
            FacegmError: it cannot be read.
        """
        texts = [entry.value for entry in self.model.metadata_props if entry.key == KEY]
        if not texts:
            return None
        try:
            return dict(json.loads(texts[-1]))
        except (TypeError, ValueError) as error:
            raise FacegmError(f"{self.path}: its description under `{KEY}` is damaged ({error})") from error

    @property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        return sum(_product(tensor.dims) for tensor in self.model.graph.initializer)

    def described(self, description: Mapping[str, Any]) -> "OnnxFile":
        """The same model with another description; every other byte stays as it is."""
        from onnx import ModelProto, StringStringEntryProto

        def is_description(field: _Field) -> bool:
            """A field alone is a message too."""
            if field.number != _METADATA:
                return False
            return bool(ModelProto.FromString(self.data[field.start : field.end]).metadata_props[0].key == KEY)

        kept = [self.data[field.start : field.end] for field in self._fields if not is_description(field)]
        entry = StringStringEntryProto(key=KEY, value=json.dumps(description))
        return OnnxFile(self.path, b"".join([*kept, ModelProto(metadata_props=[entry]).SerializeToString()]))

    def write(self, path: Path) -> None:
        """Create or replace a file, at once or not at all."""
        replace_atomically(path, self.data)


class _Field(NamedTuple):
    """A field of a serialized message."""

    number: int
    start: int
    """Of its bytes, with what says its number and length."""
    end: int


def _fields(data: bytes) -> Iterator[_Field]:
    """The outermost fields of a serialized message that has been parsed without an error.

    Raises:
        ValueError: a field of a kind that ONNX has none of.
    """
    position = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                _, position = _varint(data, position)
            case 1:
                position += 8
            case 2:
                length, position = _varint(data, position)
                position += length
            case 5:
                position += 4
            case kind:
                raise ValueError(f"a field of kind {kind}")
        yield _Field(tag >> 3, start, position)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _has_weights_elsewhere(model: Any) -> bool:
    """Whether any tensor of a model, also of graphs in its nodes, lies in another file."""
    from onnx import TensorProto

    def tensors_of(nodes: Any) -> Iterator[Any]:
        for node in nodes:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
                for graph in (attribute.g, *attribute.graphs):
                    yield from of_graph(graph)

    def of_graph(graph: Any) -> Iterator[Any]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from tensors_of(graph.node)

    found = [*of_graph(model.graph), *(one for function in model.functions for one in tensors_of(function.node))]
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in found)


def _product(dims: Any) -> int:
    product = 1
    for dim in dims:
        product *= dim
    return product
