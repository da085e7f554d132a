"""Expressions: a graph of operations in which equal expressions are one node, simplified as it grows.

A node's operands are older than the node, so that the nodes' order in the graph is one in which they can be computed.
What an operation is, on NumPy's arrays, stands in `EVALUATE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np

from fastrnn.cells.program import Op, Operand
from fastrnn.parameters import Array

__all__ = ["EVALUATE", "Across", "Function", "Graph", "Node", "erf", "evaluate", "evaluator", "reachable", "sigmoid"]


class Across(Enum):
    """Operations over the units of a row. No program has them: it ends where one begins, and another goes on after."""

    MEAN = "mean"


class Node:
    """A value: a leaf (an operand), a number, or an operation on older nodes."""

    __slots__ = ("args", "index", "op", "value")

    def __init__(self, index: int, op: Any, args: tuple[Node, ...], value: Any) -> None:
        self.index = index  # in the graph
        self.op = op  # an Op, a Function, Across.MEAN, or None of leaves and numbers
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


EVALUATE: Mapping[Op | Across, Callable[..., Any]] = {
    Across.MEAN: lambda a: np.mean(a, axis=-1, keepdims=True),
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
        self._of_a_row: dict[Node, bool] = {}
        # Of v, where there is v * (1 / s) for an s of a row: that, s.
        self._normalized: dict[Node, tuple[Node, Node]] = {}

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

    def is_of_a_row(self, node: Node) -> bool:
        """Whether all units of a row have the same value: it is made of means, and perhaps of numbers."""
        found = self._of_a_row.get(node)
        if found is None:
            args = [a for a in node.args if a.number is None]
            found = node.op is Across.MEAN or (bool(args) and all(map(self.is_of_a_row, args)))
            self._of_a_row[node] = found
        return found

    def make(self, op: Op | Across, *args: Node) -> Node:
        """The node of an operation."""
        simpler = getattr(self, _SIMPLER.get(op, ""), None)
        return self._plain(op, *args) if simpler is None else simpler(*args)

    def _plain(self, op: Any, *args: Node) -> Node:
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
        if a.op is Op.SUB and a.args[1] is b and any(map(self.is_of_a_row, b.args)):
            return self.sub(a.args[0], self.mul(self.number(2.0), b))
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
            if (one.number is not None or self.is_of_a_row(one)) and other.op is Op.MUL and not self.is_of_a_row(other):
                for u, v in (other.args, other.args[::-1]):
                    # One product of every unit in place of two.
                    if self.is_of_a_row(u) and self._normalized.get(v, (None,))[0] is not other:
                        return self.mul(self.mul(one, u), v)
            if self.is_of_a_row(one) and not self.is_of_a_row(other):
                if one.op is Op.DIV and one.args[0].number == 1:
                    found = self._plain(Op.MUL, a, b)
                    self._normalized.setdefault(other, (found, one.args[1]))
                    return found
                if other in self._normalized:  # so that in derivatives nothing but this is needed of it
                    found, s = self._normalized[other]
                    return self.mul(self.mul(one, s), found)
        return self._plain(Op.MUL, a, b)

    def mean(self, a: Node) -> Node:
        """The mean of a over the units of a row.

        What is of a row is its own mean, and comes out of that of a product. Where it stands in terms of a sum, the
        mean of that is a sum of means, one for each factor that is of a row: so those that a gradient takes do not wait
        for one another. The mean of v - mean(v) is 0.
        """
        if a.number is not None or self.is_of_a_row(a):
            return a
        terms = self._terms_of_a_row(a)
        if len(terms) > 1:
            alone: list[tuple[int, Node]] = []
            by_factor: dict[Node | None, list[tuple[int, Node]]] = {}
            for sign, factor, term in terms:
                if self.is_of_a_row(term):
                    alone.append((sign, term))
                else:
                    by_factor.setdefault(factor, []).append((sign, term))
            for factor, its in by_factor.items():
                its.sort(
                    key=lambda each: each[1].index
                )  # as equations have them, so that the mean may be one of theirs
                (sign, whole), *rest = its
                for each, term in rest:
                    whole = self.add(whole, term) if each == sign else self.sub(whole, term)
                found = self.mean(whole)
                if found.number != 0:
                    alone.append((sign, found if factor is None else self.mul(factor, found)))
            result = self.number(0.0)
            for sign, term in alone:
                if (-sign, term) not in alone:
                    result = self.add(result, term) if sign > 0 else self.sub(result, term)
            return result
        if a.op is Op.NEG:
            return self.neg(self.mean(a.args[0]))
        if a.op is Op.MUL:
            for u, v in (a.args, a.args[::-1]):
                if u.number is not None or self.is_of_a_row(u):
                    inner = self.mean(v)
                    return inner if inner.number == 0 else self.mul(u, inner)
        if a.op is Op.DIV and self.is_of_a_row(a.args[1]):
            return self.div(self.mean(a.args[0]), a.args[1])
        return self._plain(Across.MEAN, a)

    def _terms_of_a_row(self, a: Node, sign: int = 1) -> list[tuple[int, Node | None, Node]]:
        """What a is the sum of: sign, a factor of a row or None, the rest. A sum without such factors is one term."""
        if a.op is Op.NEG:
            return self._terms_of_a_row(a.args[0], -sign)
        if a.op in (Op.ADD, Op.SUB):
            one, other = a.args
            terms = self._terms_of_a_row(one, sign)
            terms += self._terms_of_a_row(other, sign if a.op is Op.ADD else -sign)
            if any(factor is not None or self.is_of_a_row(term) for _, factor, term in terms):
                return terms
        if a.op is Op.MUL and not self.is_of_a_row(a):
            for u, v in (a.args, a.args[::-1]):
                if self.is_of_a_row(u):
                    return [(sign, u, v)]
        return [(sign, None, a)]

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


_SIMPLER: Mapping[Op | Across, str] = {
    Across.MEAN: "mean",
    Op.NEG: "neg",
    Op.ADD: "add",
    Op.SUB: "sub",
    Op.MUL: "mul",
    Op.DIV: "div",
    Op.SELECT: "select",
}


def reachable(roots: Iterable[Node], stop: Callable[[Node], bool] | None = None) -> list[Node]:
    """The nodes that roots are made of, operands first, and not what those are made of at which to `stop`."""
    found: set[Node] = set()
    left = list(roots)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            if stop is None or not stop(node):
                left += node.args
    return sorted(found, key=attrgetter("index"))


def evaluator(roots: Sequence[Node], leaves: Sequence[Operand]) -> Callable[[Sequence[Any]], list[Any]]:
    """A function that does what `evaluate` does, of arrays in place of these leaves, in less time."""
    order = reachable([*roots])
    at = {node: k for k, node in enumerate(order)}
    numbers = [node.number for node in order]
    places = [(at[node], leaves.index(node.value)) for node in order if node.leaf is not None]
    steps = [(at[n], EVALUATE[n.op], tuple([at[a] for a in n.args])) for n in order if n.op is not None]
    found = [at[root] for root in roots]

    def run(values: Sequence[Any]) -> list[Any]:
        known: list[Any] = list(numbers)
        for k, leaf in places:
            known[k] = values[leaf]
        with np.errstate(all="ignore"):
            for k, function, args in steps:
                known[k] = function(*[known[a] for a in args])
        return [known[k] for k in found]

    return run


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
