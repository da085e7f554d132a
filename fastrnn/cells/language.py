"""Cells that are written as equations: what the decorator `cell` makes of a function.

The function takes the sums of products and biases of each unit's gates, the states before the step and the cell's own
parameters to the new states. It is run once on traced values. From the graph that this gives come the derivative and
the programs; on arrays the function is the NumPy reference.
"""

from __future__ import annotations

import inspect
import keyword
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import numpy as np

from fastrnn.cells.derivative import differentiate
from fastrnn.cells.graph import Graph, Node, evaluate, reachable
from fastrnn.cells.operations import Traced
from fastrnn.cells.program import Kind, Op, Operand, Program
from fastrnn.cells.schedule import Constants, Scheduled, choose_tape, schedule
from fastrnn.cells.table import Cell, State
from fastrnn.parameters import Array

__all__ = ["EquationCell", "cell"]

Equations = Callable[..., Any]
Sums = tuple[Array, ...]  # by slot, (N, H) each


class Names:
    """Values by name: what the equations see as a, prev and p."""

    def __init__(self, what: str, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)
        self.__dict__["_what"] = what

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        names = [each for each in self.__dict__ if each != "_what"]
        raise AttributeError(f"{name!r} is no {self._what}; expected one of {', '.join(names) or 'none'}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"the equations assign to the {self._what} {name!r}; expected a variable of their own")


@dataclass(frozen=True, eq=False, repr=False)
class EquationCell(Cell):
    """A cell that `cell` made; called, it is the function that was decorated.

    Attributes
    ----------
    name
        That of the function.
    gates, states
        The names, in the order of the weights' blocks and of the state.
    parameters
        The names of the cell's own parameters of each unit, in the order of the rows of ``unit``.
    program
        What the kernels run.
    """

    parameters: tuple[str, ...] = ()
    initial: tuple[float | None, ...] = ()  # of each parameter; None is drawn as the weights are
    equations: Equations = field(default=lambda: None)
    slots: tuple[tuple[str, str], ...] = ()  # the gate of each sum, and "x", "h" or "" where it is the gate's only sum
    reads_h: bool = False  # whether the equations read the state before that is h
    forward: tuple[Node, ...] = ()  # the new states
    backward: Mapping[Operand, Node] = field(default_factory=dict)  # the gradients of sums, states and parameters
    inside: tuple[Node, ...] = ()  # what is shown of each gate

    def __call__(self, *arguments: Any) -> Any:
        """Run the equations, on arrays or anything that computes like them."""
        return self.equations(*arguments)

    def __repr__(self) -> str:
        return f"<cell {self.name}: gates {', '.join(self.gates)}; states {', '.join(self.states)}>"

    def __str__(self) -> str:
        from fastrnn.cells.text import describe

        return describe(self)

    def __reduce__(self) -> str:
        """Pickle it as a function: by the name under which its module has it."""
        name = str(self.__dict__["__qualname__"])
        found: Any = sys.modules.get(self.__module__)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not self:
            raise pickle.PicklingError(
                f"the cell {self.name} is not {self.__module__}.{name}; expected one that its module has under the "
                "function's name: put the decorated function at the top of a module"
            )
        return name

    def sums(self, a_x: Array, a_h: Array | None) -> Sums:
        """The sums by slot, of those that x and h feed, (N, X*H) and (N, Y*H), gates in the cell's order."""
        program = self._programmed()
        S, x_gates, h_gates = program.slots, program.x_gates, program.h_gates
        of_x = np.split(a_x, len(x_gates), axis=1)
        of_h = [] if a_h is None else np.split(a_h, len(h_gates), axis=1)
        sums = []
        for slot in range(S):
            parts = []
            if slot < len(x_gates):
                parts.append(of_x[sorted(x_gates).index(x_gates[slot])])
            if slot >= S - len(h_gates):
                parts.append(of_h[sorted(h_gates).index(h_gates[slot - S + len(h_gates)])])
            sums.append(parts[0] if len(parts) == 1 else parts[0] + parts[1])
        return tuple(sums)

    def step(self, sums: Sums, state_prev: State, unit: Array | None) -> State:
        """The new states, by the equations."""
        arguments = self._arguments(dict(zip(self.slots, sums, strict=True)), state_prev, () if unit is None else unit)
        with np.errstate(all="ignore"):
            found = self.equations(*arguments)
        found = found if isinstance(found, (tuple, list)) else (found,)
        return tuple([np.array(np.broadcast_to(s, sums[0].shape), sums[0].dtype) for s in found])

    def step_back(
        self, sums: Sums, state_prev: State, dstate: State, unit: Array | None
    ) -> tuple[Array, Array, State, list[Array]]:
        """Gradients of the sums that x and h feed, of the states before, without the products, and of `unit`'s rows.

        The last are a list by parameter, of every row.
        """
        program = self._programmed()
        values = self._values(sums, state_prev, unit)
        values |= {Operand(Kind.GRADIENT, k): d for k, d in enumerate(dstate)}
        found = evaluate(list(self.backward.values()), values)
        grads = {
            operand: np.array(np.broadcast_to(value, sums[0].shape), sums[0].dtype)
            for operand, value in zip(self.backward, found, strict=True)
        }
        S, x_gates, h_gates = program.slots, program.x_gates, program.h_gates
        of_slots = [grads[Operand(Kind.SLOT, j)] for j in range(S)]
        nothing = np.empty((len(sums[0]), 0), sums[0].dtype)
        da_x = np.concatenate([of_slots[x_gates.index(g)] for g in sorted(x_gates)], axis=1)
        da_h = [of_slots[S - len(h_gates) + h_gates.index(g)] for g in sorted(h_gates)]
        bypass = tuple([grads[Operand(Kind.BEFORE, k)] for k in range(len(dstate))])
        of_units = [grads[Operand(Kind.UNIT, m)] for m in range(len(self.parameters))]
        return da_x, np.concatenate([nothing, *da_h], axis=1), bypass, of_units

    def show(self, sums: Sums, state_prev: State, unit: Array | None) -> list[Array]:
        """What is shown of each gate."""
        found = evaluate(self.inside, self._values(sums, state_prev, unit))
        return [np.broadcast_to(value, sums[0].shape) for value in found]

    def _values(self, sums: Sums, state_prev: State, unit: Array | None) -> dict[Operand, Array]:
        values = {Operand(Kind.SLOT, j): a for j, a in enumerate(sums)}
        # A projected h is no vector of units, and is not read.
        values |= {Operand(Kind.BEFORE, k): s for k, s in enumerate(state_prev)}
        return values | {Operand(Kind.UNIT, m): row for m, row in enumerate(() if unit is None else unit)}

    def _programmed(self) -> Program:
        assert self.program is not None
        return self.program

    def _arguments(self, sums: Mapping[tuple[str, str], Any], states: Sequence[Any], unit: Sequence[Any]) -> list[Any]:
        """The arguments of the equations."""
        of_gates: dict[str, Any] = {}
        for gate in self.gates:
            if (gate, "") in sums:
                of_gates[gate] = sums[gate, ""]
            else:
                of_gates[gate] = Names(f"sum of {gate}", {part: sums[gate, part] for part in ("x", "h")})
        arguments = [Names("gate", of_gates), Names("state", dict(zip(self.states, states, strict=True)))]
        if self.parameters:
            arguments.append(Names("parameter", dict(zip(self.parameters, unit, strict=True))))
        return arguments


def cell(
    *,
    gates: str | Sequence[str],
    states: str | Sequence[str] = "h",
    parameters: str | Sequence[str] | Mapping[str, float | None] = (),
    from_x: str | Sequence[str] = (),
    from_h: str | Sequence[str] = (),
    apart: str | Sequence[str] = (),
) -> Callable[[Equations], EquationCell]:
    """Make a cell of a function that holds its equations, for `fastrnn.Recurrent`.

    The function is called with two or three namespaces of values, one of each unit and row of the batch:

    - ``a``: the sums of the gates, ``a.i`` is W_i x + b_i + U_i h + d_i;
    - ``prev``: the states before the step;
    - ``p``: the cell's own parameters of each unit, if it has any.

    It returns the new states in the order of `states`, and computes them with the operations of `fastrnn.cells`,
    arithmetic, and numbers. Its derivative and what the kernels run follow from it.

    Parameters
    ----------
    gates
        The names of the gates, in the order in which the weights are stacked.
    states
        The names of the states. The first is the output, and what the recurrent product reads.
    parameters
        The names of parameters of each unit, drawn as the weights are; or a dict of names to initial values.
    from_x, from_h
        Gates whose sum is W x + b alone, or U h + d alone. If no gate is fed by h, there is no recurrent product.
    apart
        Gates whose two sums are kept apart: ``a.n.x`` is W x + b, ``a.n.h`` is U h + d.

    Returns
    -------
    EquationCell
        In place of the function.

    Raises
    ------
    ValueError, TypeError
        If the equations are no cell's: the message has the file and the line.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> from fastrnn.cells import sigmoid, tanh
    >>> @fastrnn.cell(gates="i f g o", states="h c", parameters="p_i p_f p_o")
    ... def peephole(a, prev, p):
    ...     i, f = sigmoid(a.i + p.p_i * prev.c), sigmoid(a.f + p.p_f * prev.c)
    ...     c = f * prev.c + i * tanh(a.g)
    ...     o = sigmoid(a.o + p.p_o * c)
    ...     return o * tanh(c), c
    >>> rnn = fastrnn.Recurrent(peephole, input_size=8, hidden_size=32, seed=0)
    >>> y, (h_n, c_n) = rnn(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, rnn.parameters["unit_l0"].shape
    ((5, 3, 32), (3, 32))
    """
    of_gates, of_states = _names("gates", gates), _names("states", states)
    of_parameters = _names("parameters", list(parameters) if isinstance(parameters, Mapping) else parameters)
    initial: list[float | None] = [None] * len(of_parameters)
    if isinstance(parameters, Mapping):
        for m, (name, value) in enumerate(parameters.items()):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise TypeError(f"parameters[{name!r}] is {value!r}; expected a number, or None for random ones")
            initial[m] = None if value is None else float(value)
    if not of_gates:
        raise ValueError("gates is empty; expected the name of one gate at the least")
    if not of_states:
        raise ValueError("states is empty; expected the name of the output, and of other states")
    options = {"from_x": _names("from_x", from_x), "from_h": _names("from_h", from_h), "apart": _names("apart", apart)}
    taken: dict[str, str] = {}
    for option, names in options.items():
        for name in names:
            if name not in of_gates:
                raise ValueError(f"{option} has {name!r}; expected names of gates: {', '.join(of_gates)}")
            if name in taken:
                raise ValueError(f"{option} and {taken[name]} both have {name!r}; expected it in one of them")
            taken[name] = option
    if all(name in options["from_h"] for name in of_gates):
        raise ValueError("from_h has every gate; expected at least one that x feeds")
    for one, other, shared in (
        ("gates", "states", [n for n in of_gates if n in of_states and len(of_states) > 1 and n != of_gates[0]]),
    ):
        if shared and tuple(of_gates) != tuple(of_states):
            raise ValueError(f"{one} and {other} both have {shared[0]!r}; expected a name of its own for each")

    def make(equations: Equations) -> EquationCell:
        if not inspect.isfunction(equations):
            raise TypeError(f"the equations are a {type(equations).__name__}; expected a function")
        return _define(equations, of_gates, of_states, of_parameters, tuple(initial), options)

    return make


def _names(argument: str, names: Any) -> tuple[str, ...]:
    """Names as a caller lists them: "i f g o" or a sequence."""
    found = names.replace(",", " ").split() if isinstance(names, str) else names
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        raise TypeError(f"{argument} is {names!r}; expected names: 'i f g o', or a list of strings")
    for name in found:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise ValueError(f"{argument} has {name!r}; expected names of Python without an underscore before them")
    if len(set(found)) < len(found):
        twice = next(name for name in found if list(found).count(name) > 1)
        raise ValueError(f"{argument} has {twice!r} twice; expected a name of its own for each")
    return tuple(found)


# ---- the definition


def _define(
    equations: Equations,
    gates: tuple[str, ...],
    states: tuple[str, ...],
    parameters: tuple[str, ...],
    initial: tuple[float | None, ...],
    options: Mapping[str, tuple[str, ...]],
) -> EquationCell:
    """Trace the equations, and make of them what a cell is."""
    of_x = [g for g in gates if g in options["from_x"]]
    of_h = [g for g in gates if g in options["from_h"]]
    apart = [g for g in gates if g in options["apart"]]
    both = [g for g in gates if g not in of_x + of_h + apart]
    slots = [
        *[(g, "x" if g in apart else "") for g in gates if g in of_x + apart],
        *[(g, "") for g in both],
        *[(g, "h" if g in apart else "") for g in gates if g in of_h + apart],
    ]
    name = equations.__name__
    graph = Graph()

    def traced(kind: Kind, count: int) -> list[Traced]:
        return [Traced(graph, graph.leaf(Operand(kind, i))) for i in range(count)]

    shell = EquationCell(name, gates, states, False, None, parameters, initial, equations, tuple(slots))
    sums = traced(Kind.SLOT, len(slots))
    arguments = shell._arguments(
        dict(zip(slots, sums, strict=True)), traced(Kind.BEFORE, len(states)), traced(Kind.UNIT, len(parameters))
    )
    _check_signature(equations, parameters)
    returned, variables = _run(equations, arguments)
    raw = _new_states(equations, graph, returned, states)
    used = {n.leaf for n in reachable(raw) if n.leaf is not None}
    for j, (gate, part) in enumerate(slots):
        if Operand(Kind.SLOT, j) not in used:
            raise ValueError(f"{_where(equations)}: the new states do not depend on a.{gate}{'.' * bool(part)}{part}")
    for m, parameter in enumerate(parameters):
        if Operand(Kind.UNIT, m) not in used:
            raise ValueError(f"{_where(equations)}: the new states do not depend on the parameter p.{parameter}")

    seeds: dict[Node, Node] = {}
    for k, node in enumerate(raw):
        gradient = graph.leaf(Operand(Kind.GRADIENT, k))
        seeds[node] = graph.make(Op.ADD, seeds[node], gradient) if node in seeds else gradient
    leaves = differentiate(graph, seeds)
    zero = graph.number(0.0)
    wanted = [Operand(Kind.SLOT, j) for j in range(len(slots))]
    wanted += [Operand(Kind.BEFORE, k) for k in range(len(states))]
    wanted += [Operand(Kind.UNIT, m) for m in range(len(parameters))]
    backward = {operand: graph.lowered(leaves.get(operand, zero)) for operand in wanted}
    forward = tuple([graph.lowered(node) for node in raw])
    inside = tuple([graph.lowered(node) for node in _shown(graph, gates, slots, raw, variables)])
    reads_h = Operand(Kind.BEFORE, 0) in used

    # The gate of each slot that x feeds, and of each that h feeds.
    x_gates = tuple([gates.index(g) for g, part in slots if part == "x" or g in of_x + both])
    h_gates = tuple([gates.index(g) for g, part in slots if part == "h" or (part == "" and g in both + of_h)])
    program = _program(forward, backward, inside, x_gates, h_gates, len(slots), len(states), len(parameters), reads_h)
    made = EquationCell(
        name,
        gates,
        states,
        additive=False,
        program=program,
        parameters=parameters,
        initial=initial,
        equations=equations,
        slots=tuple(slots),
        reads_h=reads_h,
        forward=forward,
        backward=backward,
        inside=inside,
    )
    made.__dict__.update(
        __module__=equations.__module__, __qualname__=equations.__qualname__, __doc__=equations.__doc__
    )
    return made


def _where(equations: Equations, line: int | None = None) -> str:
    """The place of a function, or of a line in it."""
    code: CodeType = equations.__code__
    return f"{code.co_filename}:{line or code.co_firstlineno}: cell {equations.__name__}"


def _check_signature(equations: Equations, parameters: Sequence[str]) -> None:
    taken = len(inspect.signature(equations).parameters)
    wanted = 3 if parameters else 2
    if taken != wanted:
        raise TypeError(
            f"{_where(equations)}: the function takes {taken} arguments; expected {wanted}, (a, prev{', p' * (wanted == 3)}),"
            f" as it has {'parameters' if parameters else 'no parameters'}"
        )


def _run(equations: Equations, arguments: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """What the function returns, and the values of its variables at that point."""
    variables: dict[str, Any] = {}

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is equations.__code__:
            variables.update(frame.f_locals)

    before = sys.getprofile()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sys.setprofile(watch)
            try:
                returned = equations(*arguments)
            finally:
                sys.setprofile(before)
    except (TypeError, ValueError, AttributeError) as error:
        line, trace = None, error.__traceback__
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code is equations.__code__ else line
            trace = trace.tb_next
        raise type(error)(f"{_where(equations, line)}: {error}") from error
    for each in caught:
        warnings.warn(f"{_where(equations)}: {each.message}", each.category, stacklevel=5)
    return returned, variables


def _new_states(equations: Equations, graph: Graph, returned: Any, states: Sequence[str]) -> list[Node]:
    """The nodes of the new states."""
    values = returned if isinstance(returned, (tuple, list)) else (returned,)
    if len(values) != len(states) or returned is None:
        came = "nothing" if returned is None else f"{len(values)} value{'s' * (len(values) != 1)}"
        raise ValueError(
            f"{_where(equations)}: the function returns {came}; expected the new states, {', '.join(states)}, in this order"
        )
    nodes = []
    for name, value in zip(states, values, strict=True):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            nodes.append(graph.number(float(value)))
        elif isinstance(value, Traced):
            nodes.append(value.node)
        else:
            raise TypeError(
                f"{_where(equations)}: the new state {name} is a {type(value).__name__}; expected a value computed "
                "from the arguments"
            )
    return nodes


def _shown(
    graph: Graph,
    gates: Sequence[str],
    slots: Sequence[tuple[str, str]],
    states: Sequence[Node],
    variables: Mapping[str, Any],
) -> list[Node]:
    """What `trace` shows of each gate: the variable of its name, else its activation, else its sum."""
    made = reachable(states)
    shown = []
    for gate in gates:
        variable = variables.get(gate)
        if isinstance(variable, Traced) and variable.graph is graph:
            shown.append(variable.node)
            continue
        slot = next(j for j, (g, part) in enumerate(slots) if g == gate and part in ("", "x"))
        node = graph.leaf(Operand(Kind.SLOT, slot))
        uses = [n for n in made if node in n.args]
        if len(uses) == 1 and len(uses[0].args) == 1 and uses[0].op is not Op.NEG:
            node = uses[0]
        shown.append(node)
    return shown


def _program(
    forward: Sequence[Node],
    backward: Mapping[Operand, Node],
    inside: Sequence[Node],
    x_gates: tuple[int, ...],
    h_gates: tuple[int, ...],
    S: int,
    K: int,
    M: int,
    reads_h: bool,
) -> Program:
    """The programs of a cell."""
    # Gradients where they are to be written: of the parameters in slots after the sums, of the states over those after.
    targets = []
    for operand, node in backward.items():
        kind, index = operand
        if kind is Kind.SLOT:
            targets.append((operand, node))
        elif kind is Kind.UNIT:
            targets.append((Operand(Kind.SLOT, S + index), node))
        elif index or reads_h:
            targets.append((Operand(Kind.GRADIENT, index), node))
    after = {node: Operand(Kind.AFTER, k) for k, node in enumerate(forward) if k and node.op is not None}
    roots = [node for _, node in targets]
    tape = choose_tape(forward, after, roots, inside, (S + M + 3) // 4 * 4)

    constants = Constants()
    sums = {n: n.leaf for n in reachable(forward) if n.leaf is not None}
    states = [(Operand(Kind.AFTER, k), node) for k, node in enumerate(forward)]
    keep = [(operand, node) for node, operand in tape.items()]
    of_forward = schedule([*states, *keep], sums, constants, forward=True)
    seen = {n: n.leaf for n in reachable([*roots, *inside]) if n.leaf is not None and n.leaf.kind is not Kind.SLOT}
    seen |= after | tape
    of_backward = schedule(targets, seen, constants)
    of_inside: Scheduled = schedule([(Operand(Kind.SHOWN, g), node) for g, node in enumerate(inside)], seen, constants)
    return Program(
        x_gates,
        h_gates,
        S,
        K,
        M,
        reads_h,
        tuple(constants.values),
        max(of_forward.registers, of_backward.registers, of_inside.registers),
        of_forward.instructions,
        of_backward.instructions,
        of_inside.instructions,
    )
