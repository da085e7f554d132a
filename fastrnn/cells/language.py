"""The language of cells: what `fastrnn.cell` makes of a function that a user wrote.

The function is the NumPy reference as it stands. Called once with traced values it is a graph of operations, and from
that come its derivative and the programs that kernels run: see `fastrnn.cells.program`.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastrnn.cells.derivative import differentiate
from fastrnn.cells.graph import Across, Graph, Node, evaluate, reachable
from fastrnn.cells.noise import Noise, named_noise
from fastrnn.cells.operations import Traced
from fastrnn.cells.phases import PhaseWriter, keep
from fastrnn.cells.prepared import Prepared, prepare, replaced
from fastrnn.cells.program import Instruction, Kind, Op, Operand, Phase, Program
from fastrnn.cells.schedule import Constants, choose_tape, schedule
from fastrnn.cells.table import Cell
from fastrnn.checks import shown
from fastrnn.parameters import Array

__all__ = ["Equations", "WrittenCell", "cell"]

_SLOTS = 16  # of a unit, that kernels have


@dataclass(frozen=True)
class Equations:
    """What a function says, as graphs of the program's own operations."""

    function: Callable[..., Any]
    x_only: tuple[str, ...]  # gates by what feeds them
    h_only: tuple[str, ...]
    both: tuple[str, ...]
    apart: tuple[str, ...]
    of_middle: tuple[str, ...]  # which the function calls with the middle value, gates or gate.h
    of_taken: tuple[str, ...]  # which it calls with what the first product takes, gates or gate.h
    parameters: Mapping[str, float | None]  # their initial values; None: drawn as the weights are
    extra: tuple[str, ...]  # what is given beside x
    noise: tuple[Noise, ...]  # whose draws are extras after those
    expected: Mapping[str, Callable[..., Any]]  # what it calls in place of noise, where there is none
    slots: Mapping[str, int]  # of each sum: a gate's, or gate.x and gate.h where they are kept apart
    after: tuple[Node, ...]  # the new states
    taken: Node | None  # what the recurrent product takes, if not h
    middle: Node | None  # what the second recurrent product takes
    gradients: Mapping[Operand, Node]  # of sums, states before and parameters, from those of states and of the middle
    taken_gradients: Mapping[Operand, Node]  # of h and parameters, from that of what is taken
    shown: tuple[Node, ...]  # what trace shows of each gate
    prepared: Prepared | None = None  # what is made of parameters alone, which programs see in place of these

    def run(
        self,
        sums: Mapping[str, Array],
        before: Mapping[str, Array],
        unit: Array | None,
        product: Any,
        extra: Sequence[Array] = (),
    ) -> Any:
        """The new states of the rows of a step, by the function itself.

        Parameters
        ----------
        sums
            (N, H) by the names of `slots`.
        before
            The states.
        unit
            (M, H) or None.
        product
            What is added to the sum of one that the function calls: product(name, value), of `of_middle`.
        extra
            (N, 1) or (N, H), what is given beside x, and the draws of noise.
        """
        gates: dict[str, Any] = {name: sums[name] for name in (*self.x_only, *self.h_only, *self.both)}
        for name in self.apart:
            h = sums[f"{name}.h"]
            gates[name] = SimpleNamespace(
                x=sums[f"{name}.x"], h=(lambda _, h=h: h) if f"{name}.h" in self.of_taken else h
            )
        for name in self.of_middle:
            gate, _, part = name.partition(".")
            at, attribute = (gates[gate].__dict__, part) if part else (gates, gate)
            at[attribute] = lambda value, name=name: sums[name] + product(name, value)
        for name in set(self.of_taken) & set(gates):
            gates[name] = lambda _, name=name: sums[name]
        arguments: list[Any] = [SimpleNamespace(**gates), SimpleNamespace(**before)]
        if self.parameters:
            assert unit is not None
            arguments.append(SimpleNamespace(**dict(zip(self.parameters, unit, strict=True))))
        beside = beside_x(self.extra, self.noise, extra) | dict(self.expected)
        if beside:
            arguments.append(SimpleNamespace(**beside))
        return as_states(self.function(*arguments))

    @property
    def made(self) -> list[Node]:
        """What a step makes of its sums, new states and the middle value."""
        return [*self.after, *([] if self.middle is None else [self.middle])]

    @property
    def middle_slots(self) -> list[Operand]:
        """Of the sums that the second product feeds."""
        return _slots(self.slots, self.of_middle)

    def values(self, nodes: Iterable[Node], known: Mapping[Operand, Array]) -> list[Any]:
        """What nodes are, given what their leaves are."""
        return evaluate(list(nodes), known)


@dataclass(frozen=True)
class WrittenCell(Cell):
    """A cell that a user wrote, by `fastrnn.cell`: what `fastrnn.Recurrent` takes.

    ``print`` shows its equations, their derivative and the programs that kernels run.
    """

    equations: Equations | None = None
    made_by: tuple[Callable[..., WrittenCell], dict[str, Any]] | None = None  # of one that a factory makes: its options
    definition: _Definition | None = None
    rates: tuple[float, ...] | None = None  # of its noise, as it is in inference; None in training
    without: dict[tuple[float, ...], WrittenCell] = field(default_factory=dict)  # see `without_noise`

    # A cell is what its function is, so one is like no other.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self, *arguments: Any) -> Any:
        """The function, as it was written: on namespaces of arrays it is one step without its products."""
        return self._equations.function(*arguments)

    @property
    def _equations(self) -> Equations:
        assert self.equations is not None
        return self.equations

    @property
    def _program(self) -> Program:
        assert self.program is not None
        return self.program

    @property
    def parameters(self) -> Mapping[str, float | None]:
        """The cell's own parameters by name, with their initial values or None where they are drawn."""
        return self._equations.parameters

    @property
    def extra(self) -> tuple[str, ...]:
        """The names of what the cell is given beside x."""
        return self._equations.extra

    @property
    def noise(self) -> tuple[str, ...]:
        """The names of the cell's dropout and zoneout."""
        return tuple(noise.name for noise in self._equations.noise)

    def prepare(self, unit: Array, run: Callable[..., Array] | None = None) -> Array:
        """What programs see as UNIT, (M, H), of the cell's own parameters; of several layers with their axis first.

        `run` is a backend's `run_on_arrays`; else NumPy makes it.
        """
        prepared = self._equations.prepared
        if prepared is None:
            return unit
        if run is not None:
            return run(prepared.program, unit)
        found = np.empty((*unit.shape[:-2], len(prepared.values), unit.shape[-1]), unit.dtype)
        for j, value in enumerate(prepared.forward(_rows(unit))):
            found[..., j, :] = value
        return found

    def prepare_back(
        self, unit: Array, gradient: Array, seen: Array | None = None, run: Callable[..., Array] | None = None
    ) -> Array:
        """The gradient of the cell's own parameters, given that of `prepare`, (M, H), which is `seen` if known."""
        prepared = self._equations.prepared
        if prepared is None:
            return gradient
        seen = self.prepare(unit, run) if seen is None else seen
        if run is not None:
            return run(prepared.program_back, unit, seen, gradient)
        found = np.empty_like(unit)
        for m, value in enumerate(prepared.backward([*_rows(unit), *_rows(seen), *_rows(gradient)])):
            found[..., m, :] = value
        return found

    def without_noise(self, rates: tuple[float, ...]) -> WrittenCell:
        """The cell with noise as it is in inference, given the rate of each; made once."""
        if not self._equations.noise:
            return self
        if rates not in self.without:
            assert self.definition is not None
            self.without[rates] = self.definition.cell(rates)
        return self.without[rates]

    @cached_property
    def into_extra(self) -> WrittenCell:
        """The same cell, whose backward has the gradients of what it is given beside x besides; made once.

        What its forward keeps leads to these, too, so that who does not ask for them has a shorter tape.
        """
        assert self.definition is not None
        return self.definition.cell(self.rates, into_extra=True)

    def __copy__(self) -> WrittenCell:
        return self

    def __deepcopy__(self, _: Any) -> WrittenCell:
        return self

    def __reduce__(self) -> Any:
        if self.made_by is not None:
            return _made, self.made_by
        function = self._equations.function
        return _again, (function.__module__, function.__qualname__)

    def __repr__(self) -> str:
        return f"<cell {self.name}: gates {' '.join(self.gates)}, states {' '.join(self.states)}>"

    def __str__(self) -> str:
        from fastrnn.cells.printing import describe

        return describe(self)


def _rows(unit: Array) -> list[Array]:
    """Those of the last axis but one."""
    return [*unit] if unit.ndim == 2 else [unit[..., m, :] for m in range(unit.shape[-2])]


def _again(module: str, name: str) -> WrittenCell:
    """A cell from a pickle: the one that its module has."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, WrittenCell):
        raise AttributeError(
            f"{module} has no cell {name}, which was pickled; expected it where it was: define it at the top of a "
            "module"
        )
    return found


def beside_x(names: Sequence[str], noise: Sequence[Noise], extra: Sequence[Any]) -> dict[str, Any]:
    """What a function is given besides, by name: values, and noise that calls have, from all extras in their order."""
    drawn = zip(noise, extra[len(names) :], strict=True)
    return dict(zip(names, extra, strict=False)) | {one.name: one.drawn(draw) for one, draw in drawn}


def _made(factory: Callable[..., WrittenCell], options: Mapping[str, Any]) -> WrittenCell:
    """A cell from a pickle: the one that its factory makes."""
    return factory(**options)


def as_states(result: Any) -> tuple[Any, ...]:
    """What a function returned, as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def cell(
    *,
    gates: str | Iterable[str],
    states: str | Iterable[str] = "h",
    parameters: str | Iterable[str] | Mapping[str, float | None] = (),
    from_x: str | Iterable[str] = (),
    from_h: str | Iterable[str] = (),
    apart: str | Iterable[str] = (),
    extra: str | Iterable[str] = (),
    dropout: str | Iterable[str] | Mapping[str, str] = (),
    zoneout: str | Iterable[str] | Mapping[str, str] = (),
) -> Callable[[Callable[..., Any]], WrittenCell]:
    """Make a cell of a function that says how one step goes, for `fastrnn.Recurrent`.

    The function takes ``(a, prev)``, then ``p`` where the cell has parameters, then ``e`` where it has anything extra,
    dropout or zoneout; and it returns the new states in their order: ``a.i`` is the sum of gate i,
    ``x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh`` of its rows, ``prev.c`` a state before the step, ``p.w`` one of the
    cell's own parameters. All of them are one number for each row and unit (parameters for each unit); what is done
    with them are Python's operators and the functions of `fastrnn.cells`, or NumPy's of the same names. From it come an
    exact derivative and the programs that the kernels run.

    Parameters
    ----------
    gates
        Names, separated by spaces or in a sequence, in the order of the blocks of the weights.
    states
        Names. The first is the output, which the recurrent product takes; each starts at zero, or as the caller says.
    parameters
        Names of what each unit has one of; a mapping gives initial values, None for what is drawn as the weights are.
    from_x, from_h
        Gates that only x, or only h, feeds. Where no gate is fed by h there is no recurrent product.
    apart
        Gates of which ``a.n.x`` and ``a.n.h`` are kept apart, as GRU's n.
    extra
        Names of what the caller gives beside x at each step, ``e.dt``: one value of each row, as the time since the
        step before, or one of each row and unit.
    dropout
        Names of dropout inside the cell: ``e.drop(value)`` is the value with a random part of it set to zero, and the
        rest divided by its share, in training; in inference the value. A mapping says of each whether there is a draw
        for each "step", as else, or one for all steps of a "sequence". However often a function calls it, a step has
        one draw.
    zoneout
        Likewise: ``e.zone(new, old)`` is new, but in a random part old; in inference what is expected.

    Returns
    -------
    Callable
        A decorator that makes a cell of the function.

    Raises
    ------
    TypeError, ValueError
        If the function does something that kernels cannot do, or leaves out a gate, a parameter or a state. The message
        says where.

    Notes
    -----
    A gate that is called, ``a.n(value)``, takes the recurrent product of that value in place of h's:
    ``a.n(r * prev.h)`` is GRU's candidate as in the paper (Cho et al., 2014); of one that is apart ``a.n.h(value)`` is
    called. One value may be taken so, by any number of gates, if x feeds all of them in the same sum or none. Another
    one that is made of h, extras, dropout and parameters alone, such as ``e.drop(prev.h)``, may take the place of h in
    all other gates that h feeds.

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
    >>> y, (h_n, c_n) = rnn(np.zeros((100, 16, 8), np.float32))
    >>> y.shape
    (100, 16, 32)
    """
    named = {
        "gates": _names("gates", gates),
        "states": _names("states", states),
        "parameters": _names("parameters", parameters),
        "from_x": _names("from_x", from_x),
        "from_h": _names("from_h", from_h),
        "apart": _names("apart", apart),
        "extra": _names("extra", extra),
    }
    noise = [
        one
        for option, given in (("dropout", dropout), ("zoneout", zoneout))
        for one in named_noise(option, _names(option, given), given)
    ]
    beside = [*named["extra"], *[one.name for one in noise]]
    if len(set(beside)) != len(beside):
        raise ValueError(f"extra, dropout and zoneout have {' '.join(beside)}; expected each name once")
    for option in ("gates", "states"):
        if not named[option]:
            raise ValueError(f"{option} is empty; expected at least one name")
    seen: dict[str, str] = {}
    for option in ("from_x", "from_h", "apart"):
        for name in named[option]:
            if name not in named["gates"]:
                raise ValueError(f"{option} has {shown(name)}; expected gates, of {' '.join(named['gates'])}")
            if name in seen:
                raise ValueError(f"{option} has {shown(name)}, and so has {seen[name]}; expected it in one of them")
            seen[name] = option
    initial: dict[str, float | None] = dict.fromkeys(named["parameters"])
    if isinstance(parameters, Mapping):
        for name, value in parameters.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise TypeError(
                    f"parameters[{shown(name)}] is {shown(value)}; expected a number, or None for one that is drawn"
                )
            initial[name] = None if value is None else float(value)

    def define(function: Callable[..., Any]) -> WrittenCell:
        if not callable(function) or not hasattr(function, "__code__"):
            raise TypeError(f"fastrnn.cell is applied to a {type(function).__name__}; expected a function")
        return _Definition(function, named, initial, tuple(noise)).cell()

    return define


def derived_cell(
    function: Callable[..., Any],
    gates: tuple[str, ...],
    states: tuple[str, ...],
    apart: tuple[str, ...],
    extra: tuple[str, ...],
    of_extra: bool,
) -> WrittenCell:
    """A cell of values beside x, as `cell` makes it, whose gates nobody looks at: a tape is smaller without them.

    `of_extra`: its backward program gives the gradients of these values, too.
    """
    none: tuple[str, ...] = ()
    named = {"gates": gates, "states": states, "from_x": none, "from_h": none, "apart": apart, "extra": extra}
    return _Definition(function, named, {}, (), traceable=False).cell(into_extra=of_extra)


def _names(option: str, names: Any) -> tuple[str, ...]:
    if isinstance(names, str):
        names = names.split()
    try:
        found = tuple(names)
    except TypeError:
        raise TypeError(f"{option} is a {type(names).__name__}; expected names, separated by spaces") from None
    for name in found:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{option} has {shown(name)}; expected names as Python's variables have")
    if len(set(found)) != len(found):
        raise ValueError(f"{option} is {shown(' '.join(found))}; expected each name once")
    return found


class _Gate(Traced):
    """A gate's sum, which may be called in place of being used."""

    __slots__ = ("name", "tracing")

    def __init__(self, tracing: _Tracing, name: str, node: Node) -> None:
        super().__init__(tracing.graph, node)
        self.tracing, self.name = tracing, name

    def __call__(self, value: Any) -> Traced:
        return self.tracing.call(self.name, value)


class _Names:
    """The attributes of one of the function's arguments; others are an error that lists them."""

    def __init__(self, what: str, values: Mapping[str, Any]) -> None:
        self._what, self._values = what, values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(f"the cell has no {self._what} {name!r}; expected one of {', '.join(self._values)}")
        return self._values[name]


class _Tracing:
    """One call of the function with traced values; with rates of noise as it is in inference."""

    def __init__(
        self, definition: _Definition, of_middle: tuple[str, ...], rates: tuple[float, ...] | None = None
    ) -> None:
        self.graph = Graph()
        self.of_middle = of_middle
        self.called: dict[str, Traced] = {}
        self.of_h: list[str] = []  # called with h itself
        self.definition = definition
        self.slots = definition.slots_of(of_middle)
        gates: dict[str, Any] = {}
        for name in definition.gates:
            if name in definition.apart:
                parts = {"x": self._sum(f"{name}.x"), "h": self._gate(f"{name}.h")}
                gates[name] = _Names(f"part of gate {name}", parts)
            else:
                gates[name] = self._gate(name)
        before = {n: self._leaf(Kind.BEFORE, k) for k, n in enumerate(definition.states)}
        own = {n: self._leaf(Kind.UNIT, k) for k, n in enumerate(definition.parameters)}
        self.arguments = [_Names("gate", gates), _Names("state", before)]
        if own:
            self.arguments.append(_Names("parameter", own))
        names, noise = definition.extra, definition.noise
        self.noise = noise if rates is None else ()
        self.expected = {one.name: one.expected(p) for one, p in zip(noise, rates or (), strict=False)}
        given = [self._leaf(Kind.EXTRA, k) for k in range(len(names) + len(self.noise))]
        beside = beside_x(names, self.noise, given) | self.expected
        if beside:
            self.arguments.append(_Names("extra value", beside))
        self.locals: dict[str, Any] = {}
        self.result = self._run()

    def _leaf(self, kind: Kind, index: int) -> Traced:
        return Traced(self.graph, self.graph.leaf(Operand(kind, index)))

    def _sum(self, name: str) -> Traced:
        return self._leaf(Kind.SLOT, self.slots[name])

    def _gate(self, name: str) -> _Gate:
        return _Gate(self, name, self._sum(name).node)

    def call(self, name: str, value: Any) -> Traced:
        """A gate is called with what its recurrent product is to take."""
        if name in self.definition.x_only:
            raise ValueError(f"gate {name} is called, but x alone feeds it; expected one that h feeds")
        if not isinstance(value, Traced):
            raise TypeError(f"gate {name} is called with a {type(value).__name__}; expected a value of the equations")
        if value.node.leaf == Operand(Kind.BEFORE, 0):
            self.of_h.append(name)
            return self._sum(name)
        may_be_taken = _may_be_taken(value.node)
        for other in self.called.values():
            if other.node is not value.node and _may_be_taken(other.node) == may_be_taken:
                raise ValueError(
                    f"gate {name} is called with another value than the gate before; expected one value for all: "
                    "a step has one second recurrent product"
                )
        self.called[name] = value
        return self._sum(name)

    def taken(self) -> tuple[str, ...]:
        """Those that are called with what may take the place of h in the first product, if it does."""
        taken = [name for name, value in self.called.items() if _may_be_taken(value.node)]
        second = [name for name in self.called if name not in taken]
        all_of_h = {name for name in self.definition.slots_of(()) if self.definition.is_of_h(name)}
        return tuple(taken) if set(taken) == all_of_h.difference(second) else ()

    @property
    def middle_slots(self) -> list[Operand]:
        """Of the sums that the second product feeds."""
        return _slots(self.slots, self.of_middle)

    def _run(self) -> Any:
        """Call the function, and keep its local variables as it returns."""
        code = self.definition.function.__code__
        before: Any = sys.getprofile()

        def note(frame: FrameType, event: str, _: Any) -> None:
            if event == "return" and frame.f_code is code:
                self.locals = dict(frame.f_locals)

        sys.setprofile(note)
        try:
            return self.definition.function(*self.arguments)
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise self.definition.error(error) from error
        finally:
            # A profiler written in C, as cProfile, is no function: it goes on when it is told to.
            sys.setprofile(before if before is None or callable(before) else None)
            if before is not None and not callable(before):
                before.enable()


def _slots(of: Mapping[str, int], names: Iterable[str]) -> list[Operand]:
    return [Operand(Kind.SLOT, of[name]) for name in names]


def _may_be_taken(node: Node) -> bool:
    """Whether a value is made before a step, of each unit: neither of sums nor of states but h, nor of means."""
    leaves = [each.leaf for each in reachable([node]) if each.leaf is not None]
    of_others = any(leaf.kind is Kind.SLOT or (leaf.kind is Kind.BEFORE and leaf.index) for leaf in leaves)
    return not of_others and not _has_mean([node])


def _has_mean(roots: Iterable[Node]) -> bool:
    return any(node.op is Across.MEAN for node in reachable(roots))


class _Values(NamedTuple):
    """What a function has made, as `Equations` says."""

    after: tuple[Node, ...]
    taken: Node | None
    middle: Node | None
    shown: tuple[Node, ...]

    @property
    def roots(self) -> list[Node]:
        """What a step computes."""
        return [*self.after, *[node for node in (self.taken, self.middle) if node is not None]]

    def with_prepared(self, graph: Graph, prepared: Prepared) -> _Values:
        """The same of values that are computed once."""
        count = len(self.after)
        made = iter(replaced(graph, [*self.roots, *self.shown], prepared.seen))
        after = tuple([next(made) for _ in range(count)])
        taken, middle = (None if node is None else next(made) for node in (self.taken, self.middle))
        return _Values(after, taken, middle, tuple(made))


class _Definition:
    """A cell in the making."""

    def __init__(
        self,
        function: Callable[..., Any],
        named: Mapping[str, tuple[str, ...]],
        initial: Mapping[str, float | None],
        noise: tuple[Noise, ...],
        traceable: bool = True,
    ) -> None:
        self.function, self.traceable = function, traceable
        self.gates, self.states, self.parameters = named["gates"], named["states"], tuple(initial)
        self.x_only, self.h_only, self.apart = named["from_x"], named["from_h"], named["apart"]
        self.initial, self.extra, self.noise = dict(initial), named["extra"], noise
        wanted = ["a", "prev"] + ["p"] * bool(initial) + ["e"] * bool(self.extra or noise)
        if function.__code__.co_argcount != len(wanted):
            arguments = f"({', '.join(wanted)})" + ", as it has parameters" * bool(initial)
            arguments += ", as it has extra values, dropout or zoneout" * (wanted[-1] == "e")
            raise self.fault(TypeError, f"it takes {function.__code__.co_argcount} arguments; expected {arguments}")

    def fault(self, kind: type[Exception], message: str, line: int | None = None) -> Exception:
        """An error that says where it is."""
        code = self.function.__code__
        line = code.co_firstlineno if line is None else line
        text = linecache.getline(code.co_filename, line).strip()
        return kind(
            f"cell {self.function.__name__} ({code.co_filename}:{line}{': ' + text if text else ''}): {message}"
        )

    def error(self, error: Exception) -> Exception:
        """The same error, with the line of the function that led to it."""
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is self.function.__code__:
                line = trace.tb_lineno
            trace = trace.tb_next
        kind = next(k for k in (TypeError, ValueError, AttributeError, Exception) if isinstance(error, k))
        return self.fault(kind if kind is not Exception else ValueError, str(error), line)

    def of(self, *parts: str) -> tuple[str, ...]:
        """Gates of no other kind."""
        return tuple(n for n in self.gates if n not in (*self.x_only, *self.h_only, *self.apart, *parts))

    def is_of_h(self, name: str) -> bool:
        """Whether h feeds a sum."""
        return name not in self.x_only and not name.endswith(".x")

    def slots_of(self, of_middle: tuple[str, ...]) -> dict[str, int]:
        """The slot of each sum: those that m and x feed, x alone, x and h, h alone, m alone."""
        alone = [*self.h_only, *[f"{n}.h" for n in self.apart]]
        order = [*[n for n in of_middle if n not in alone], *self.x_only, *[f"{n}.x" for n in self.apart]]
        order += [*self.of(*of_middle), *[n for n in alone if n not in of_middle]]
        order += [n for n in alone if n in of_middle]
        return {name: slot for slot, name in enumerate(order)}

    def cell(self, rates: tuple[float, ...] | None = None, *, into_extra: bool = False) -> WrittenCell:
        """The cell; given rates of its noise, as it is in inference; with the gradients of its extras, if asked for."""
        trial = _Tracing(self, (), rates)
        of_taken = trial.taken()
        second = {name: value.node for name, value in trial.called.items() if name not in of_taken}
        of_middle = tuple(n for n in trial.slots if n in second)
        if len(set(second.values())) > 1:
            raise self.fault(
                ValueError,
                f"gates {', '.join(second)} are called with two values; expected one value, or a second that is made "
                "of h alone and takes its place in all other gates that h feeds",
            )
        added = [n for n in of_middle if n in self.of()]
        if added and len(added) < len(of_middle):
            raise self.fault(
                ValueError,
                f"of the gates that are called x feeds {', '.join(added)} in the same sum and not the others; expected "
                f"all alike: keep {', '.join(added)} apart, and add a.{added[0]}.x to a.{added[0]}.h(value)",
            )
        traced = _Tracing(self, of_middle, rates) if of_middle else trial
        graph, result = traced.graph, as_states(traced.result)
        if len(result) != len(self.states):
            raise self.fault(
                ValueError,
                f"it returns {len(result)} values; expected {len(self.states)}: the new {', '.join(self.states)}",
            )
        after = []
        for name, value in zip(self.states, result, strict=True):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                value = Traced(graph, graph.number(float(value)))
            if not isinstance(value, Traced):
                raise self.fault(
                    TypeError, f"the new {name} is a {type(value).__name__}; expected a value of the equations"
                )
            after.append(value.node)
        taken = next((value.node for name, value in traced.called.items() if name in of_taken), None)
        middle = next((value.node for name, value in traced.called.items() if name not in of_taken), None)
        self._check(graph, after, [node for node in (taken, middle) if node is not None], traced)

        shown = [self._shown(traced, name) if self.traceable else graph.number(0.0) for name in self.gates]
        values = _Values(tuple(after), taken, middle, tuple(shown))
        extras = len(self.extra) if into_extra else 0
        equations = self._equations(traced, of_taken, values, extras)
        of_programs = equations  # on what is made of parameters alone, in place of these
        roots = [*values.roots, *values.shown]
        prepared = prepare(graph, roots, len(self.parameters), _SLOTS - len(traced.slots))
        if prepared is not None:
            equations = replace(equations, prepared=prepared)
            of_programs = self._equations(traced, of_taken, values.with_prepared(graph, prepared), extras)
        writer = _Writer(self, of_programs, extras, len(self.parameters if prepared is None else prepared.values))
        program = writer.program_in_phases(graph) if _has_mean(equations.made) else writer.program(graph)
        additive = not self.apart and not of_middle and not self.x_only and not self.h_only
        return WrittenCell(
            self.function.__name__, self.gates, self.states, additive, program, equations, definition=self, rates=rates
        )

    def _equations(self, traced: _Tracing, of_taken: tuple[str, ...], values: _Values, extras: int) -> Equations:
        """What the function says, with the derivative of it; by so many extras, too."""
        graph, of_middle, (after, taken, middle, shown) = traced.graph, traced.of_middle, values

        def gradient_of(seeds: list[tuple[Node, Node]]) -> dict[Operand, Node]:
            known: dict[Node, Node] = {}
            for node, seed in seeds:
                known[node] = graph.make(Op.ADD, known[node], seed) if node in known else seed
            return differentiate(graph, known)

        def wanted(gradients: dict[Operand, Node]) -> dict[Operand, Node]:
            its = {at: node for at, node in gradients.items() if at.kind is not Kind.EXTRA or at.index < extras}
            return {at: graph.lowered(node) for at, node in its.items()}

        seeds = [(node, graph.leaf(Operand(Kind.GRADIENT, k))) for k, node in enumerate(after)]
        found = gradient_of(seeds)
        if middle is not None:
            first = {operand: found.get(operand, graph.number(0.0)) for operand in traced.middle_slots}
            found = gradient_of([*seeds, (middle, graph.leaf(Operand(Kind.MIDDLE, 0)))]) | first
        into_h = {} if taken is None else gradient_of([(taken, graph.leaf(Operand(Kind.TAKEN, 0)))])
        return Equations(
            self.function,
            self.x_only,
            self.h_only,
            self.of(*of_middle),
            self.apart,
            of_middle,
            (*traced.of_h, *of_taken),
            self.initial,
            self.extra,
            traced.noise,
            traced.expected,
            traced.slots,
            tuple(map(graph.lowered, after)),
            None if taken is None else graph.lowered(taken),
            None if middle is None else graph.lowered(middle),
            wanted(found),
            wanted(into_h),
            tuple(map(graph.lowered, shown)),
        )

    def _check(self, graph: Graph, after: list[Node], products: list[Node], traced: _Tracing) -> None:
        """ValueError for what is left out, or goes round in a circle."""
        roots = [*after, *products]
        leaves = {node.value for node in reachable(roots) if node.leaf is not None}
        for name, slot in traced.slots.items():
            if Operand(Kind.SLOT, slot) not in leaves:
                raise self.fault(ValueError, f"a.{name} is not used; expected every gate in the new states")
        for k, name in enumerate(self.parameters):
            if Operand(Kind.UNIT, k) not in leaves:
                raise self.fault(ValueError, f"p.{name} is not used; expected every parameter in the new states")
        for k, name in enumerate([*self.extra, *[noise.name for noise in traced.noise]]):
            if Operand(Kind.EXTRA, k) not in leaves:
                raise self.fault(ValueError, f"e.{name} is not used; expected every one in the new states")
        for node in reachable(products):
            if node.leaf in traced.middle_slots:
                name = traced.of_middle[traced.middle_slots.index(node.value)]
                raise self.fault(ValueError, f"gate {name} takes the product of what is made of it")

    def _shown(self, traced: _Tracing, gate: str) -> Node:
        """The local variable of a gate's name if there is one, else what is made of its sum alone, else the sum."""
        found = traced.locals.get(gate)
        if isinstance(found, Traced) and not isinstance(found, _Gate):
            return found.node
        name = gate if gate in traced.slots else f"{gate}.x"
        sum_ = traced.graph.leaf(Operand(Kind.SLOT, traced.slots[name]))
        uses = [node for node in traced.graph.nodes if sum_ in node.args]
        return uses[0] if len(uses) == 1 and len(uses[0].args) == 1 else sum_


class _Writer:
    """Writes a cell's programs."""

    def __init__(self, definition: _Definition, equations: Equations, into_extras: int, units: int) -> None:
        self.definition, self.equations = definition, equations
        self.into_extras, self.units = into_extras, units  # units: how many values programs see as UNIT
        self.constants = Constants()
        self.registers = 0

    def write(
        self, targets: list[tuple[Operand, Node]], seen: Mapping[Node, Operand], *, forward: bool = False
    ) -> tuple[Instruction, ...]:
        """A program, whose constants and registers count."""
        found = schedule(targets, seen, self.constants, forward=forward)
        self.registers = max(self.registers, found.registers)
        return found.instructions

    def of_extras(self, graph: Graph) -> list[tuple[Operand, Node]]:
        """Where backward writes the gradients of extras, if it has them."""
        found, zero = self.equations.gradients, graph.number(0.0)
        return [(Operand(Kind.INTO_EXTRA, k), found.get(Operand(Kind.EXTRA, k), zero)) for k in range(self.into_extras)]

    def added_up(self, graph: Graph) -> list[tuple[Operand, Node]]:
        """The sums that backward adds the gradients of parameters to."""
        found = [(Operand(Kind.OWN, m), self.equations.gradients.get(Operand(Kind.UNIT, m))) for m in range(self.units)]
        return [(at, graph.make(Op.ADD, graph.leaf(at), more)) for at, more in found if more is not None]

    def of_taken(
        self, graph: Graph, leaves: Mapping[Node, Operand], own: Sequence[Operand]
    ) -> tuple[tuple[Instruction, ...], tuple[Instruction, ...]]:
        """The programs `take` and `take_back`; `own` is where the gradients of parameters are."""
        e, taken = self.equations, Operand(Kind.TAKEN, 0)
        if e.taken is None:
            return (), ()
        into_h, zero = e.taken_gradients, graph.number(0.0)
        added = [(at, graph.leaf(at), into_h.get(Operand(Kind.UNIT, m))) for m, at in enumerate(own)]
        added += [(at, graph.leaf(at), into_h.get(Operand(Kind.EXTRA, at.index))) for at, _ in self.of_extras(graph)]
        sums = [(at, graph.make(Op.ADD, leaf, more)) for at, leaf, more in added if more is not None]
        dh = into_h.get(Operand(Kind.BEFORE, 0), zero)
        back = self.write([(taken, dh), *sums], {**leaves, **{leaf: at for at, leaf, _ in added}})
        return self.write([(taken, e.taken)], leaves), back

    def in_middle(
        self, graph: Graph, tape: Mapping[Node, Operand], seen: Mapping[Node, Operand]
    ) -> dict[Node, Operand]:
        """What the middle program leaves of the tape: all that does not wait for m, if the rest can do without more.

        `seen` is what all programs see, and where sums are.
        """
        e = self.equations
        assert e.middle is not None
        of_m = {graph.leaf(at) for at in e.middle_slots}
        early = {n: at for n, at in tape.items() if not of_m.intersection(reachable([n]))}
        overwritten = {at for node, at in early.items() if node.leaf is None}
        there = {n for n, at in seen.items() if at not in overwritten} | early.keys()
        there |= {n for n in reachable([*early, e.middle]) if n.op is Across.MEAN}  # what is of a row stays
        left = reachable([*e.after, *[n for n in tape if n not in early]], there.__contains__)
        return early if all(n in there for n in left if n.leaf is not None) else {}

    def program_in_phases(self, graph: Graph) -> Program:
        """All of it, where there are means over the units of a row."""
        d, e = self.definition, self.equations
        S, zero = len(e.slots), graph.number(0.0)
        slot = [Operand(Kind.SLOT, j) for j in range(S)]
        reads_h = any(node.leaf == Operand(Kind.BEFORE, 0) for node in reachable([*e.made, *e.gradients.values()]))
        first_back = [(at, e.gradients[at]) for at in e.middle_slots]
        back = [(at, e.gradients.get(at, zero)) for at in slot if at not in e.middle_slots]
        for k in range(0 if reads_h else 1, len(d.states)):
            back.append((Operand(Kind.GRADIENT, k), e.gradients.get(Operand(Kind.BEFORE, k), zero)))
        back += self.added_up(graph) + self.of_extras(graph)
        means = {node for node in reachable(e.made) if node.op is Across.MEAN}
        shown = [
            node if all(n in means for n in reachable([node]) if n.op is Across.MEAN) else graph.leaf(slot[0])
            for node in e.shown
        ]

        known_after = {node: Operand(Kind.AFTER, k) for k, node in enumerate(e.after) if k and node.op is not None}
        needed = [*[node for _, node in [*first_back, *back]], *shown]
        tape = keep(graph, e.made, needed, [*known_after, *means], _SLOTS, e.middle_slots)
        if tape is None:
            raise d.fault(
                ValueError,
                f"the cell has {S} sums and keeps more values than there is room for; expected {_SLOTS} at the most",
            )
        room = -(-max([S, *[at.index + 1 for at in tape.values()]]) // 4) * 4
        leaves = {node: node.value for node in graph.nodes if node.leaf is not None and node.leaf.kind is not Kind.SLOT}
        sums = {graph.leaf(at): at for at in slot}
        writer = PhaseWriter(graph, self.constants, room)
        seen = {**leaves, **sums}
        phases_middle: tuple[Phase, ...] = ()
        if e.middle is not None:
            in_middle = self.in_middle(graph, tape, seen)
            left = {n: at for n, at in seen.items() if at not in in_middle.values()} | in_middle
            # What is to stay in a slot is a target, too, which nothing else is written to.
            staying = [(at, n) for n, at in left.items() if at.kind is Kind.SLOT]
            phases_middle = writer.write([(Operand(Kind.MIDDLE, 0), e.middle), *staying], seen, forward=True)
            seen = left
        forward = [(Operand(Kind.AFTER, k), node) for k, node in enumerate(e.after)]
        phases = writer.write(forward + [(at, node) for node, at in tape.items()], seen, forward=True)
        seen_back = {**leaves, **tape, **known_after}
        inside = self.write(
            [(Operand(Kind.SHOWN, g), node) for g, node in enumerate(shown)], {**seen_back, **writer.rows}
        )
        phases_middle_back: tuple[Phase, ...] = ()
        if first_back:
            staying = [(at, n) for n, at in tape.items()]
            phases_middle_back = writer.write([*first_back, *staying], seen_back)
            seen_back |= {n: at for at, n in first_back if n.op is not None}
        row_values = len(writer.rows)
        phases_back = writer.write([*back, *first_back], seen_back)
        take, take_back = self.of_taken(graph, leaves, [Operand(Kind.OWN, m) for m in range(self.units)])
        return Program(
            **self.feeds(),
            states=len(d.states),
            units=len(d.parameters),
            reads_h=reads_h,
            forward=(),
            backward=(),
            inside=inside,
            constants=tuple(self.constants.values),
            registers=max(self.registers, writer.registers),
            room=room,
            phases=phases,
            phases_back=phases_back,
            phases_middle=phases_middle,
            phases_middle_back=phases_middle_back,
            row_values=row_values,
            take=take,
            take_back=take_back,
            extras=(False,) * len(e.extra) + tuple(noise.of_sequence for noise in e.noise),
            into_extras=self.into_extras,
            seen_units=self.units,
        )

    def feeds(self) -> dict[str, Any]:
        """Of a program which gates the products feed, and in which slots."""
        d, e = self.definition, self.equations
        gate = {name: index for index, name in enumerate(d.gates)}
        of_x = [gate[name.removesuffix(".x")] for name in e.slots if name not in e.h_only and not name.endswith(".h")]
        of_h = [gate[name.removesuffix(".h")] for name in e.slots if d.is_of_h(name) and name not in e.of_middle]
        of_m = [gate[name.removesuffix(".h")] for name in e.of_middle]
        return {
            "x_gates": tuple(of_x),
            "h_gates": tuple(of_h),
            "m_gates": tuple(of_m),
            "m_first": e.slots[e.of_middle[0]] if of_m else 0,
            "slots": len(e.slots),
        }

    def program(self, graph: Graph) -> Program:
        """All of it."""
        d, e = self.definition, self.equations
        S, M = len(e.slots), self.units
        zero = graph.number(0.0)
        leaves = {node: node.value for node in graph.nodes if node.leaf is not None and node.leaf.kind is not Kind.SLOT}
        slot = [Operand(Kind.SLOT, j) for j in range(S)]
        adds_up = len(e.x_only) == S  # without a recurrent product
        of_units = [(Operand(Kind.SLOT, S + m), e.gradients.get(Operand(Kind.UNIT, m), zero)) for m in range(M)]
        own = self.added_up(graph) if adds_up else of_units
        reads_h = any(node.leaf == Operand(Kind.BEFORE, 0) for node in reachable([*e.made, *e.gradients.values()]))
        take, take_back = self.of_taken(graph, leaves, [at for at, _ in own])
        back = [(at, e.gradients.get(at, zero)) for at in slot if at not in e.middle_slots] + own
        for k in range(0 if reads_h else 1, len(d.states)):
            back.append((Operand(Kind.GRADIENT, k), e.gradients.get(Operand(Kind.BEFORE, k), zero)))
        back += self.of_extras(graph)
        first_back = [(at, e.gradients[at]) for at in e.middle_slots]

        known_after = {node: Operand(Kind.AFTER, k) for k, node in enumerate(e.after) if node.op is not None}
        room = -(-(S + M) // 4) * 4
        needed = [node for _, node in [*first_back, *back]]
        while True:
            tape = choose_tape(e.made, known_after, needed, e.shown, room, e.middle_slots)
            if tape is not None:
                break
            room += 4
        sums = {graph.leaf(at): at for at in slot}

        in_middle: dict[Node, Operand] = {}
        middle: tuple[Instruction, ...] = ()
        if e.middle is not None:
            in_middle = self.in_middle(graph, tape, {**leaves, **sums})
            middle = self.write(
                [(Operand(Kind.MIDDLE, 0), e.middle), *[(at, n) for n, at in in_middle.items()]],
                {**leaves, **sums},
                forward=True,
            )
        overwritten = {at for n, at in in_middle.items() if n.leaf is None}
        seen_forward = {**leaves, **{n: at for n, at in sums.items() if at not in overwritten}, **in_middle}
        forward = self.write(
            [(Operand(Kind.AFTER, k), node) for k, node in enumerate(e.after)]
            + [(at, node) for node, at in tape.items() if node not in in_middle],
            seen_forward,
            forward=True,
        )
        seen_back = {**leaves, **tape, **known_after}
        return Program(
            **self.feeds(),
            states=len(d.states),
            units=len(d.parameters),
            reads_h=reads_h,
            backward=self.write(back, seen_back),
            forward=forward,
            inside=self.write([(Operand(Kind.SHOWN, g), node) for g, node in enumerate(e.shown)], seen_back),
            middle=middle,
            middle_back=self.write(first_back, seen_back) if first_back else (),
            take=take,
            take_back=take_back,
            extras=(False,) * len(e.extra) + tuple(noise.of_sequence for noise in e.noise),
            constants=tuple(self.constants.values),
            registers=self.registers,
            room=max(S if adds_up else S + M, 1 + max((at.index for at in tape.values()), default=0)),
            into_extras=self.into_extras,
            seen_units=self.units,
        )


def source_of(function: Callable[..., Any]) -> str:
    """The function as it was written, or its name where there is no source."""
    try:
        return inspect.cleandoc(inspect.getsource(function))
    except (OSError, TypeError):
        return f"def {function.__name__}(...)"
