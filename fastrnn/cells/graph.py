"""Expressions: a graph of operations in which equal expressions are one node, simplified as it grows.

A node's operands are older than the node, so that the nodes' order in the graph is one in which they can be computed.
What an operation is, on NumPy's arrays, stands in `EVALUATE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from fastrnn.cells.program import Op, Operand
from fastrnn.parameters import Array

__all__ = ["EVALUATE", "Function", "Graph", "Node", "erf", "evaluate", "reachable", "sigmoid"]


class Node:
    """A value: a leaf (an operand), a number, or an operation on older nodes."""

    __slots__ = ("args", "index", "op", "value")

    def __init__(self, index: int, op: Any, args: tuple[Node, ...], value: Any) -> None:
        self.index = index  # in the graph
        self.op = op  # an Op, a Function, or None of leaves and numbers
        self.args = args
        self.value = value  # of a leaf the Operand, a number's float, a Function's options

    @property
    def number(self) -> float | None:
        """The number that it is, if it is one."""
        return self.value if self.op is None and isinstance(self.value, float) else None

    @property
    def leaf(self) -> Operand | None:
        """The operand that it is, if it is one."""
        return self.value if self.op is None and isinstance(self.value, Operand) else None


class Function:
    """An operation that becomes several, whose derivative is not that of its parts."""

    def __init__(self, name: str, expand: Callable[..., Node], back: Callable[..., Node]) -> None:
        self.name = name
        self.expand = expand  # (graph, x, *options) to the value
        self.back = back  # (graph, gradient, value, x, *options) to the gradient of x


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), without overflow for any a."""
    e = np.exp(-np.abs(a))
    result: Array = np.where(a >= 0, 1, e) / (1 + e)
    return result


def erf(a: Array) -> Array:
    """The error function of every element, in a's dtype."""
    a = np.asarray(a)
    return np.fromiter(map(math.erf, a.ravel().tolist()), np.float64, a.size).reshape(a.shape).astype(a.dtype)


EVALUATE: Mapping[Op, Callable[..., Any]] = {
    Op.COPY: lambda a: a,
    Op.ADD: np.add,
    Op.SUB: np.subtract,
    Op.MUL: np.multiply,
    Op.DIV: np.divide,
    Op.FMA: lambda a, b, c: a * b + c,
    Op.FNMA: lambda a, b, c: c - a * b,
    Op.NEG: np.negative,
    Op.ABS: np.abs,
    Op.MIN: np.minimum,
    Op.MAX: np.maximum,
    Op.SQRT: np.sqrt,
    Op.EXP: np.exp,
    Op.EXPM1: np.expm1,
    Op.LOG: np.log,
    Op.LOG1P: np.log1p,
    Op.SIN: np.sin,
    Op.COS: np.cos,
    Op.ERF: erf,
    Op.SIGMOID: sigmoid,
    Op.TANH: np.tanh,
    Op.RELU: lambda a: np.maximum(a, 0),
    Op.LESS: np.less,
    Op.LESS_EQUAL: np.less_equal,
    Op.EQUAL: np.equal,
    Op.SELECT: lambda a, b, c: np.where(np.asarray(a, bool), b, c),
    Op.LERP: lambda a, b, c: c + a * (b - c),
    Op.SIGMOID_BACK: lambda a, b: a * (b * (1 - b)),
    Op.TANH_BACK: lambda a, b: a * (1 - b * b),
}

_COMMUTES = frozenset({Op.ADD, Op.MUL, Op.MIN, Op.MAX, Op.EQUAL})
_Key: TypeAlias = tuple[Any, ...]


class Graph:
    """Makes nodes. The methods named as operations are these, simplified where no value changes but in rounding."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[_Key, Node] = {}
        self._lowered: dict[Node, Node] = {}

    def _node(self, op: Any, args: tuple[Node, ...], value: Any) -> Node:
        # A number by its bits: 0.0 and -0.0 are two.
        key = op, tuple([a.index for a in args]), value.hex() if isinstance(value, float) else value
        node = self._known.get(key)
        if node is None:
            node = self._known[key] = Node(len(self.nodes), op, args, value)
            self.nodes.append(node)
        return node

    def leaf(self, operand: Operand) -> Node:
        """The node of an operand."""
        return self._node(None, (), operand)

    def number(self, value: float) -> Node:
        """The node of a number."""
        return self._node(None, (), float(value))

    def call(self, function: Function, x: Node, *options: float) -> Node:
        """The node of a function of x."""
        return self._node(function, (x,), options)

    def make(self, op: Op, *args: Node) -> Node:
        """The node of an operation."""
        simpler = getattr(self, _SIMPLER.get(op, ""), None)
        return self._plain(op, *args) if simpler is None else simpler(*args)

    def _plain(self, op: Op, *args: Node) -> Node:
        numbers = [a.number for a in args]
        if None not in numbers and op not in (Op.LESS, Op.LESS_EQUAL, Op.EQUAL, Op.SELECT):
            with np.errstate(all="ignore"):
                return self.number(float(EVALUATE[op](*[np.float64(n) for n in numbers if n is not None])))
        if op in _COMMUTES and args[0].index > args[1].index:
            args = args[::-1]
        return self._node(op, args, None)

    def neg(self, a: Node) -> Node:
        """-a."""
        if a.op is Op.NEG:
            return a.args[0]
        if a.op is Op.SUB:
            return self.sub(a.args[1], a.args[0])
        return self._plain(Op.NEG, a)

    def add(self, a: Node, b: Node) -> Node:
        """a + b."""
        if a.number == 0:
            return b
        if b.number == 0:
            return a
        if b.op is Op.NEG:
            return self.sub(a, b.args[0])
        if a.op is Op.NEG:
            return self.sub(b, a.args[0])
        if a is b:
            return self.mul(self.number(2.0), a)
        if a.op is Op.MUL and b.op is Op.MUL:
            for one, other in ((a, b), (b, a)):
                for rest, n in (one.args, one.args[::-1]):
                    if rest.op is Op.SUB and rest.args[0].number == 1 and rest.args[1] in other.args:
                        z = rest.args[1]  # (1 - z) * n + z * h is n + z * (h - n)
                        h = other.args[1] if other.args[0] is z else other.args[0]
                        return self.add(n, self.mul(z, self.sub(h, n)))
        return self._plain(Op.ADD, a, b)

    def sub(self, a: Node, b: Node) -> Node:
        """a - b."""
        if b.number == 0:
            return a
        if a.number == 0:
            return self.neg(b)
        if b.op is Op.NEG:
            return self.add(a, b.args[0])
        if a.op is Op.NEG:
            return self.neg(self.add(a.args[0], b))
        return self._plain(Op.SUB, a, b)

    def mul(self, a: Node, b: Node) -> Node:
        """a * b."""
        for one, other in ((a, b), (b, a)):
            if one.number == 1:
                return other
            if one.number == -1:
                return self.neg(other)
            if one.op is Op.NEG:
                return self.neg(self.mul(one.args[0], other))
            if one.number is not None and other.op is Op.MUL and other.args[0].number is not None:
                return self.mul(self.number(one.number * other.args[0].number), other.args[1])
            if one.number is not None and other.op is Op.MUL and other.args[1].number is not None:
                return self.mul(self.number(one.number * other.args[1].number), other.args[0])
        return self._plain(Op.MUL, a, b)

    def div(self, a: Node, b: Node) -> Node:
        """a / b."""
        if b.number is not None and b.number != 0 and 1e-30 < abs(b.number) < 1e30:
            return self.mul(a, self.number(1 / b.number))
        if a.op is Op.NEG:
            return self.neg(self.div(a.args[0], b))
        if b.op is Op.NEG:
            return self.neg(self.div(a, b.args[0]))
        return self._plain(Op.DIV, a, b)

    def select(self, mask: Node, b: Node, c: Node) -> Node:
        """b where the mask is set, else c."""
        return b if b is c else self._plain(Op.SELECT, mask, b, c)

    def back(self, op: Op, gradient: Node, value: Node) -> Node:
        """SIGMOID_BACK or TANH_BACK."""
        if gradient.op is Op.NEG:
            return self.neg(self._plain(op, gradient.args[0], value))
        return self._plain(op, gradient, value)

    def lowered(self, root: Node) -> Node:
        """The same value, of the program's operations alone."""
        done = self._lowered
        for node in reachable([root], done.__contains__):
            if node not in done:
                args = [done[a] for a in node.args]
                if isinstance(node.op, Function):
                    expanded = node.op.expand(self, args[0], *node.value)
                    done[node] = self.lowered(expanded)
                else:
                    done[node] = node if node.op is None else self.make(node.op, *args)
        return done[root]


_SIMPLER = {
    Op.NEG: "neg",
    Op.ADD: "add",
    Op.SUB: "sub",
    Op.MUL: "mul",
    Op.DIV: "div",
    Op.SELECT: "select",
}


def reachable(roots: Iterable[Node], stop: Callable[[Node], bool] = lambda node: False) -> list[Node]:
    """The nodes that roots are made of, operands first, and not what those are made of at which to `stop`."""
    found: set[Node] = set()
    left = list(roots)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            if not stop(node):
                left += node.args
    return sorted(found, key=lambda node: node.index)


def evaluate(roots: Sequence[Node], values: Mapping[Operand, Array]) -> list[Any]:
    """What roots, of the program's operations alone, are for arrays in place of the leaves."""
    known: dict[Node, Any] = {}
    with np.errstate(all="ignore"):
        for node in reachable(roots):
            if node.op is None:
                known[node] = values[node.value] if node.number is None else node.value
            else:
                known[node] = EVALUATE[node.op](*[known[a] for a in node.args])
    return [known[root] for root in roots]
