"""A model's graphs: which names are constants, whatever operators they come out of, and what their values are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from fastrnn.checks import check_path, shown
from fastrnn.parameters import Array

__all__ = ["Scope", "can_fold", "graphs_of", "has_any", "is_quantized", "is_recurrent", "opset_of", "read_model"]

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
QUANTIZED = ("com.microsoft", "DynamicQuantizeLSTM")  # of onnxruntime's quantize_dynamic
DRAWN = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def read_model(path: Any) -> ModelProto:
    """The model of a file, with what it keeps in files beside it, and its local functions put where they are called.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or none of those beside it.
    ValueError
        If it is no ONNX file, or of operators that the installed onnx does not know.
    """
    file: Path = check_path("path", path)
    if not file.is_file():
        raise FileNotFoundError(f"path is {shown(str(file))}, which is no file; expected an ONNX file")
    try:
        model = onnx.load(file, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{file} is no ONNX file ({error}); expected one") from None
    if not model.ir_version or not model.HasField("graph"):
        raise ValueError(f"{file} is no ONNX file: it has no graph; expected a model")
    version, known = opset_of(model), onnx.defs.onnx_opset_version()
    if not 1 <= version <= known:
        raise ValueError(
            f"{file} has operators of opset {version}; expected 1 to {known}, which onnx {onnx.__version__} knows: "
            "update onnx, or export the model with a lower opset"
        )
    onnx.load_external_data_for_model(model, str(file.parent))
    return inline_local_functions(model) if model.functions else model


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators; 0 if the model has none."""
    return next((int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0)


def is_recurrent(node: NodeProto) -> bool:
    """Whether it is one of the three operators."""
    return node.op_type in RECURRENT and node.domain in ("", "ai.onnx")


def is_quantized(node: NodeProto) -> bool:
    """Whether it is an LSTM whose weights are integers."""
    return (node.domain, node.op_type) == QUANTIZED


def graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """The branches or bodies of a node."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def can_fold(node: NodeProto) -> bool:
    """Whether what it makes of constants is a constant, and one that is known how to make."""
    standard = node.domain in ("", "ai.onnx") and not is_recurrent(node)
    return standard and node.op_type not in DRAWN and not any(True for _ in graphs_of(node))


def has_any(graph: GraphProto, wanted: Callable[[NodeProto], bool]) -> bool:
    """Whether a node that is wanted is in it, or in the branches and bodies in it."""
    return any(wanted(node) or any(has_any(inner, wanted) for inner in graphs_of(node)) for node in graph.node)


class Scope:
    """The names that nodes of a graph see: the graph's own, and those of the graphs around it.

    Parameters
    ----------
    graph
        The model's, or one of a branch or body.
    opset
        The version of the standard operators.
    outer
        Of the graph around it.
    path
        What tells nodes of one name apart: where the graph is.
    """

    def __init__(self, graph: GraphProto, opset: int, outer: Scope | None = None, path: str = "") -> None:
        self.graph, self.opset, self.outer, self.path = graph, opset, outer, path
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.inputs = {value.name for value in graph.input}
        self._known: dict[str, Array] = {}

    def all(self) -> Iterator[Scope]:
        """The scope itself, and those of the branches and bodies in it, from outside to inside."""
        yield self
        for node in self.graph.node:
            for _, scope in self.inside(node):
                yield from scope.all()

    def inside(self, node: NodeProto) -> Iterator[tuple[str, Scope]]:
        """The scopes of the branches or bodies of one of the graph's nodes, each with its attribute's name."""
        for attribute in node.attribute:
            path = f"{self.path}{node.name or node.output[0]}/{attribute.name}/"
            for graph in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield attribute.name, Scope(graph, self.opset, self, path)

    def value(self, name: str) -> Array:
        """The value of a name; ValueError with the reason where it is known at run time only."""
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def tensor(self, name: str) -> TensorProto | SparseTensorProto:
        """The value of a name as a tensor of that name; ValueError where it is known at run time only."""
        if name in self.initializers:
            return self.initializers[name]
        if name in self.sparse:
            return self.sparse[name]
        if name in self.makers or self.outer is None:
            return numpy_helper.from_array(self.value(name), name)
        return self.outer.tensor(name)

    def _find(self, name: str) -> Array:
        if name in self.initializers:
            value: Array = numpy_helper.to_array(self.initializers[name])
            return value
        if name in self.sparse:
            raise ValueError(f"{name} is a sparse initializer; expected a dense one")
        if name in self.makers:
            return self._fold(self.makers[name], name)
        if name in self.inputs:
            raise ValueError(f"{name} is an input of the graph, which is known at run time only; expected a constant")
        if self.outer is None:
            raise ValueError(f"{name} is nowhere in the file; expected a constant")
        return self.outer.value(name)

    def _fold(self, node: NodeProto, name: str) -> Array:
        """What a node makes of constants."""
        of = f"{name}, which {node.op_type} {node.name!r} makes,"
        if not can_fold(node):
            raise ValueError(f"{of} is known at run time only; expected a constant")
        feeds: Mapping[str, Array] = {used: self.value(used) for used in node.input if used}
        # NumPy's rounding is that of the reference; nobody has to hear of an overflow in a file's weights.
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(node, opsets={"": self.opset}).run(None, dict(feeds))
        for output, value in zip(node.output, found, strict=False):
            self._known[output] = np.asarray(value)
        return self._known[name]
