"""The derivative of a graph, in reverse: from the gradients of some values to those of leaves, as new nodes."""

from __future__ import annotations

from collections.abc import Mapping

from fastrnn.cells.graph import Function, Graph, Node, reachable
from fastrnn.cells.operations import DERIVATIVES
from fastrnn.cells.program import Op, Operand

__all__ = ["differentiate"]


def differentiate(graph: Graph, gradients: Mapping[Node, Node]) -> dict[Operand, Node]:
    """The gradient of every leaf that values are made of, given the gradients of these values."""
    known = dict(gradients)
    found: dict[Operand, Node] = {}
    for node in reversed(reachable(gradients)):
        gradient = known.pop(node, None)
        if gradient is None:
            continue
        if isinstance(node.op, Function):
            (x,) = node.args
            parts: tuple[Node | None, ...] = (node.op.back(graph, gradient, node, x, *node.value),)
        elif node.op is None:
            if node.leaf is not None:
                found[node.leaf] = gradient
            continue
        else:
            parts = DERIVATIVES[node.op](graph, gradient, node, *node.args)
        for arg, part in zip(node.args, parts, strict=True):
            if part is not None and arg.number is None:
                known[arg] = graph.make(Op.ADD, known[arg], part) if arg in known else part
    return found
