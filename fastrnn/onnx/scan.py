"""A layer of any cell as ONNX' Scan: the product of x for all steps, then a loop over what the cell's equations say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from fastrnn.cells import lstm_with
from fastrnn.cells.graph import Across, Node, reachable
from fastrnn.cells.program import Kind, Op, Operand
from fastrnn.groups import dense
from fastrnn.modules import LSTM
from fastrnn.onnx.graph import Graph

__all__ = ["scan"]

_NAMES = {
    Op.ADD: "Add",
    Op.SUB: "Sub",
    Op.MUL: "Mul",
    Op.DIV: "Div",
    Op.NEG: "Neg",
    Op.ABS: "Abs",
    Op.MIN: "Min",
    Op.MAX: "Max",
    Op.SQRT: "Sqrt",
    Op.EXP: "Exp",
    Op.LOG: "Log",
    Op.SIN: "Sin",
    Op.COS: "Cos",
    Op.ERF: "Erf",
    Op.SIGMOID: "Sigmoid",
    Op.TANH: "Tanh",
    Op.RELU: "Relu",
    Op.LESS: "Less",
    Op.LESS_EQUAL: "LessOrEqual",
    Op.EQUAL: "Equal",
}
_MASKS = frozenset({Op.LESS, Op.LESS_EQUAL, Op.EQUAL})


class _Values:
    """The nodes of a cell's equations as ONNX' operators."""

    def __init__(self, g: Graph, leaves: dict[Operand, str], dtype: np.dtype[Any], units: int) -> None:
        self.g, self.leaves, self.dtype, self.units = g, leaves, dtype, units
        self.known: dict[Node, str] = {}
        self.masks: set[Node] = set()

    def number(self, value: float) -> str:
        return self.g.constant(np.array(value, self.dtype))

    def of(self, root: Node) -> str:
        """The name of a node's value."""
        for node in reachable([root], self.known.__contains__):
            if node not in self.known:
                self.known[node] = self._write(node)
        return self.known[root]

    def _write(self, node: Node) -> str:
        if node.number is not None:
            return self.number(node.number)
        if node.leaf is not None:
            return self.leaves[node.leaf]
        args = [self.known[a] for a in node.args]
        if node.op in _MASKS:
            self.masks.add(node)
        if node.op is Op.SELECT:
            return self._select(node, *args)
        if node.op is Across.MEAN:
            total = self.g.add("ReduceSum", [*args, self.g.constant(np.array([-1]))], keepdims=1)
            return self.g.add("Div", [total, self.number(float(self.units))])
        if node.op is Op.EXPM1:
            return self._expm1(*args)
        if node.op is Op.LOG1P:
            return self._log1p(*args)
        return self.g.add(_NAMES[node.op], args)

    def _select(self, node: Node, mask: str, b: str, c: str) -> str:
        of_b, of_c = node.args[1:]
        if not self.masks & {of_b, of_c}:
            return self.g.add("Where", [mask, b, c])
        self.masks.add(node)  # a condition of conditions, where the number 0 is one that never holds
        g, never = self.g, self.g.constant(np.array(False))
        b, c = (value if of in self.masks else never for of, value in ((of_b, b), (of_c, c)))
        return g.add("Or", [g.add("And", [mask, b]), g.add("And", [g.add("Not", [mask]), c])])

    def _expm1(self, x: str) -> str:
        """exp(x) - 1, which is 2 t / (1 - t) of t = tanh(x / 2) where it is small."""
        g, one, two = self.g, self.number(1.0), self.number(2.0)
        t = g.add("Tanh", [g.add("Div", [x, two])])
        small = g.add("Div", [g.add("Mul", [two, t]), g.add("Sub", [one, t])])
        near = g.add("Less", [g.add("Abs", [x]), one])
        return g.add("Where", [near, small, g.add("Sub", [g.add("Exp", [x]), one])])

    def _log1p(self, x: str) -> str:
        """log(1 + x), which is log(u) x / (u - 1) of u = 1 + x where it is small, and x where u is 1."""
        g, one = self.g, self.number(1.0)
        u = g.add("Add", [one, x])
        log = g.add("Log", [u])
        small = g.add("Div", [g.add("Mul", [log, x]), g.add("Sub", [u, one])])
        small = g.add("Where", [g.add("Equal", [u, one]), x, small])
        near = g.add("Less", [g.add("Abs", [x]), self.number(0.5)])
        return g.add("Where", [near, small, log])


def scan(g: Graph, rnn: Any, layer: int, x: str, lengths: str | None, states: Sequence[str]) -> tuple[str, list[str]]:
    """A layer of a module on x (T, N, I): y (T, N, D*P), and the states after, (D, N, P or H)."""
    found = []
    for d in range(rnn.directions):
        before = [g.add("Squeeze", [g.cut(name, d, d + 1), g.constant(np.array([0]))]) for name in states]
        found.append(_direction(g, rnn, f"_l{layer}{'_reverse' * d}", d, x, lengths, before))
    ys = [y for y, _ in found]
    y = ys[0] if len(ys) == 1 else g.add("Concat", ys, axis=2)
    after = []
    for each in zip(*(states_n for _, states_n in found), strict=True):
        wide = [g.add("Unsqueeze", [value, g.constant(np.array([0]))]) for value in each]
        after.append(wide[0] if len(wide) == 1 else g.add("Concat", wide, axis=0))
    return y, after


def _direction(
    g: Graph, rnn: Any, suffix: str, reverse: int, x: str, lengths: str | None, states: Sequence[str]
) -> tuple[str, list[str]]:
    cell = lstm_with() if isinstance(rnn, LSTM) else rnn._quiet  # with a projection, which ONNX' LSTM has not
    if cell._program.extras:
        raise ValueError(
            f"the cell {cell.name} is given {', '.join(cell._equations.extra)} beside x; expected one without"
        )
    program, equations, H = cell._program, cell._equations, rnn.hidden_size
    parameters, dtype = dict(rnn.parameters), rnn.dtype
    if rnn.heads > 1:
        parameters[f"weight_hh{suffix}"] = dense(parameters[f"weight_hh{suffix}"], H)

    def rows(name: str, gates: Sequence[int], of: Sequence[str]) -> Any:
        """The blocks of some gates of a weight or bias."""
        blocks = np.split(parameters[f"{name}{suffix}"], len(of))
        return np.concatenate([blocks[of.index(cell.gates[gate])] for gate in gates])

    def product(into: Graph, value: str, side: str, gates: Sequence[int], of: Sequence[str]) -> list[str]:
        """Sums of gates, each (..., H), from one product."""
        y = into.add("MatMul", [value, into.constant(rows(f"weight_{side}", gates, of).T, f"weight_{side}{suffix}")])
        if rnn.bias:
            y = into.add("Add", [y, into.constant(rows(f"bias_{side}", gates, of), f"bias_{side}{suffix}")])
        return into.parts(y, len(gates), H)

    of_x = product(g, x, "ih", program.x_gates, cell.gates_ih)
    if not states:
        zero, one = g.constant(np.array([0])), g.constant(np.array([1]))
        N = g.add("Slice", [g.add("Shape", [x]), one, g.constant(np.array([2])), zero])
        sizes = [rnn._output_size] + [H] * (len(cell.states) - 1)
        shapes = [g.add("Concat", [N, g.constant(np.array([size]))], axis=0) for size in sizes]
        filled = helper.make_tensor("value", helper.np_dtype_to_tensor_dtype(dtype), [1], [0.0])
        states = [g.add("ConstantOfShape", [shape], value=filled) for shape in shapes]
    scanned = list(of_x)
    if lengths:
        real = g.real_steps(x, lengths, False)
        scanned.append(g.add("Unsqueeze", [real, g.constant(np.array([2]))]))

    body = Graph(g)
    before = [g.name(f"{name}_before") for name in cell.states]
    rows_of_x = [g.name("sum") for _ in of_x]
    leaves = {Operand(Kind.BEFORE, k): name for k, name in enumerate(before)}
    for k in range(program.units):
        leaves[Operand(Kind.UNIT, k)] = body.constant(parameters[f"unit{suffix}"][k], f"unit{suffix}_{k}")
    slots = dict(enumerate(rows_of_x))

    def add_up(first: int, sums: Sequence[str]) -> None:
        for slot, value in enumerate(sums, first):
            slots[slot] = body.add("Add", [slots[slot], value]) if slot in slots else value
            leaves[Operand(Kind.SLOT, slot)] = slots[slot]

    add_up(0, [])
    leaves |= {Operand(Kind.SLOT, slot): value for slot, value in slots.items()}
    values = _Values(body, leaves, dtype, H)
    if program.h_gates:
        h = before[0] if equations.taken is None else values.of(equations.taken)
        add_up(program.h_first, product(body, h, "hh", program.h_gates, cell.gates_hh))
    if equations.middle is not None:
        m = _wide(body, values.of(equations.middle), equations.middle, before[0])
        add_up(program.m_first, product(body, m, "hh", program.m_gates, cell.gates_hh))
    like = before[-1] if rnn.proj_size and len(before) > 1 else rows_of_x[0]
    after = [_wide(body, values.of(node), node, like) for node in equations.after]
    if rnn.proj_size:
        projection = body.constant(parameters[f"weight_hr{suffix}"].T, f"weight_hr{suffix}")
        after[0] = body.add("MatMul", [after[0], projection])
    y = after[0]
    inputs = [*before, *rows_of_x]
    if lengths:
        mask = g.name("real")
        inputs.append(mask)
        y = body.add("Where", [mask, y, values.number(0.0)])
        after = [body.add("Where", [mask, new, old]) for new, old in zip(after, before, strict=True)]
    # Outputs of a body are nodes' of their own, each once.
    outputs = [body.add("Identity", [value]) for value in (*after, y)]

    def values_of(names: Sequence[str]) -> list[Any]:
        kinds = [bool if lengths and name == inputs[-1] and names is inputs else dtype for name in names]
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
            for name, kind in zip(names, kinds, strict=True)
        ]

    written = helper.make_graph(body.nodes, f"{rnn.__class__.__name__}{suffix}", values_of(inputs), values_of(outputs))
    found = [g.name(f"{name}_after{suffix}") for name in cell.states] + [g.name(f"y{suffix}")]
    g.add(
        "Scan",
        [*states, *scanned],
        found,
        body=written,
        num_scan_inputs=len(scanned),
        scan_input_directions=[reverse] * len(scanned),
        scan_output_directions=[reverse],
    )
    return found[-1], found[:-1]


def _wide(g: Graph, value: str, node: Node, like: str) -> str:
    """A value of every row and unit, also of a number or a mean."""
    made = reachable([node], lambda each: each.op is Across.MEAN)
    if any(leaf.leaf is not None and leaf.leaf.kind is not Kind.UNIT for leaf in made):
        return value
    return g.add("Expand", [value, g.add("Shape", [like])])
