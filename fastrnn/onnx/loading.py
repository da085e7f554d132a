"""The recurrent nodes of an ONNX file, wherever they and their weights are, as fastrnn modules."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from onnx import NodeProto

from fastrnn.onnx.node import FURTHER, Node
from fastrnn.onnx.quantized import INPUTS, SCALES, quantized_node
from fastrnn.onnx.scope import Scope, is_quantized, is_recurrent, opset_of, read_model
from fastrnn.parameters import Array

__all__ = ["load", "named", "take_node"]


def load(path: Any) -> dict[str, Node]:
    """Return the LSTM, GRU and RNN nodes of an ONNX file by name, onnxruntime's DynamicQuantizeLSTM among them.

    Nodes are found in the branches of If and in the bodies of Loop and Scan, too, and in the model's own functions.
    Their weights are initializers, also of files beside, or what other operators make of constants: Constant, Identity,
    Slice, Concat, Transpose, Cast, DequantizeLinear, or any other.

    Parameters
    ----------
    path
        Of the file.

    Returns
    -------
    dict
        A `Node` by the node's name; by the name of its first output where it has none; with the path to it before its
        name, ``branch/then_branch/lstm``, where the name is taken.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no ONNX file or of a later opset than the installed onnx knows; if weights are not known before run
        time, or do not fit: the message names the node.

    Examples
    --------
    >>> import tempfile, fastrnn, fastrnn.onnx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastrnn.onnx.export(fastrnn.LSTM(3, 5, bidirectional=True, seed=0), f"{folder}/lstm.onnx")
    ...     nodes = fastrnn.onnx.load(f"{folder}/lstm.onnx")
    >>> nodes["lstm_l0"].module
    LSTM(3, 5, bidirectional=True)
    """
    model = read_model(path)
    found: dict[str, Node] = {}
    for scope in Scope(model.graph, opset_of(model)).all():
        for node in scope.graph.node:
            if is_recurrent(node) or is_quantized(node):
                name = named(scope, node, found.keys())
                found[name] = take_node(scope, node, name)
    return found


def named(scope: Scope, node: NodeProto, taken: Collection[str]) -> str:
    """The name of a recurrent node, where others have some already."""
    name = node.name or next(filter(None, node.output))
    return f"{scope.path}{name}" if name in taken else name


def take_node(scope: Scope, node: NodeProto, name: str) -> Node:
    """A node with its weights, which its scope knows; ValueError that names it if that does not."""
    quantized = is_quantized(node)
    names = INPUTS if quantized else ("X", "W", "R", "B", "sequence_lens", "initial_h", *FURTHER[node.op_type])
    inputs = dict(zip(names, node.input, strict=False))
    weights: dict[str, Array | None] = {}
    for key in ("W", "R", "B", "P", *(SCALES if quantized else ())):
        try:
            weights[key] = scope.value(inputs[key]) if inputs.get(key) else None
        except ValueError as error:
            raise ValueError(f"{node.op_type} {name}: its {key} {error}") from None
    return quantized_node(node, weights, name) if quantized else Node(node, **weights, name=name)
