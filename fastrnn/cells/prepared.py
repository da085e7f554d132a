"""What equations make of the cell's own parameters alone: computed once a call, not for each row; so is its derivative.

Programs see such values in place of the parameters: RG-LRU's softplus of its decay, a sigmoid of a rate. Backward sums
up their gradients as it does those of parameters, and these follow from the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from fastrnn.cells.derivative import differentiate
from fastrnn.cells.graph import Across, Function, Graph, Node, evaluator, reachable
from fastrnn.cells.program import ArrayProgram, Kind, Op, Operand
from fastrnn.cells.schedule import Constants, cost_of, schedule
from fastrnn.parameters import Array

__all__ = ["Prepared", "prepare", "replaced"]

_WORTH_PREPARING = 5.0  # by the cost of an addition: what is cheaper is no shorter than reading one value more


@dataclass(frozen=True, eq=False)
class Prepared:
    """What programs see as UNIT j, as functions of NumPy's arrays and as programs on arrays, each made when used."""

    values: tuple[Node, ...]  # by j, of the cell's own parameters as UNIT m
    seen: dict[Node, Node]  # in the equations: what becomes UNIT j
    gradients: tuple[Node, ...]  # by m, of parameters, values and the gradients of these
    inputs: tuple[Operand, ...]  # what these are in the gradients; first the M parameters

    @cached_property
    def forward(self) -> Callable[[Sequence[Array]], list[Array]]:
        """From the parameters to the values."""
        return evaluator(self.values, self.inputs)

    @cached_property
    def backward(self) -> Callable[[Sequence[Array]], list[Array]]:
        """From parameters, values and their gradients to those of parameters."""
        return evaluator(self.gradients, self.inputs)

    @cached_property
    def program(self) -> ArrayProgram:
        """`forward`."""
        return _program(self.values, self.inputs[: len(self.gradients)])

    @cached_property
    def program_back(self) -> ArrayProgram:
        """`backward`."""
        return _program(self.gradients, self.inputs)


def _program(roots: Sequence[Node], inputs: Sequence[Operand]) -> ArrayProgram:
    constants = Constants()
    seen = {n: Operand(Kind.UNIT, inputs.index(n.value)) for n in reachable(roots) if n.leaf is not None}
    made = schedule([(Operand(Kind.AFTER, j), node) for j, node in enumerate(roots)], seen, constants)
    return ArrayProgram(len(inputs), len(roots), tuple(constants.values), made.registers, made.instructions)


def prepare(graph: Graph, roots: Sequence[Node], parameters: int, most: int) -> Prepared | None:
    """What is to be computed once, of a cell of so many parameters whose equations make `roots`; None if nothing is.

    Programs see `most` values at the most.
    """
    order = reachable(roots)
    of_units: set[Node] = set()
    for node in order:
        if node.leaf is not None and node.leaf.kind is Kind.UNIT:
            of_units.add(node)
        elif node.op is not None and node.op is not Across.MEAN:
            args = [a for a in node.args if a.number is None]
            if args and all(a in of_units for a in args):
                of_units.add(node)
    users = [node for node in order if node not in of_units]
    ends = [a for node in users for a in node.args if a in of_units] + [node for node in roots if node in of_units]
    found = [node for node in dict.fromkeys(ends) if node.op is not None and _is_worth_it(node)]
    if not found:
        return None
    direct = [n for n in reachable(roots, found.__contains__) if n.leaf is not None and n.leaf.kind is Kind.UNIT]
    values = [*sorted(direct, key=lambda node: node.value.index), *found]
    if len(values) > max(most, parameters):
        return None
    zero = graph.number(0.0)
    back = differentiate(graph, {node: graph.leaf(Operand(Kind.GRADIENT, j)) for j, node in enumerate(values)})
    units = [Operand(Kind.UNIT, m) for m in range(parameters)]
    lowered = tuple(map(graph.lowered, values))
    made = [Operand(Kind.UNIT, parameters + j) for j in range(len(values))]
    gradients = [graph.lowered(back.get(at, zero)) for at in units]
    return Prepared(
        lowered,
        {node: graph.leaf(Operand(Kind.UNIT, j)) for j, node in enumerate(values)},
        tuple(replaced(graph, gradients, dict(zip(lowered, map(graph.leaf, made), strict=True)))),
        (*units, *made, *[Operand(Kind.GRADIENT, j) for j in range(len(values))]),
    )


def _is_worth_it(node: Node) -> bool:
    made = [each.op for each in reachable([node]) if each.op is not None]
    return any(isinstance(op, Function) or (isinstance(op, Op) and cost_of(op) >= _WORTH_PREPARING) for op in made)


def replaced(graph: Graph, roots: Iterable[Node], by: dict[Node, Node]) -> list[Node]:
    """The same values with nodes in place of others."""
    done = dict(by)
    roots = list(roots)
    for node in reachable(roots, by.__contains__):
        if node in done:
            continue
        args = [done[a] for a in node.args]
        if isinstance(node.op, Function):
            done[node] = graph.call(node.op, args[0], *node.value)
        else:
            done[node] = node if node.op is None else graph.make(node.op, *args)
    return [done[root] for root in roots]
