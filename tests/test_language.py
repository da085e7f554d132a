"""Cells that are written as equations: what is traced, differentiated and scheduled is what the function says."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import cells
from fastrnn.cells import BESIDE, LIBRARY, WrittenCell, cell, sigmoid, tanh, where
from fastrnn.cells.graph import EVALUATE, Graph
from fastrnn.cells.program import Instruction, Kind, Op, Operand, Phase, Program
from fastrnn.cells.schedule import place

Values = dict[Operand, Any]
ROWS = 6
WEIGHT = 0.7  # the second recurrent product, of a unit with itself


@cell(gates="u", states="h s t", parameters={"k": 0.5})
def swapping(a: Any, prev: Any, p: Any) -> Any:
    return where(a.u < prev.h, a.u, p.k * prev.t), prev.t, prev.s


@cell(gates="u v w", states="h s", from_x="u", from_h="v", apart="w")
def every_feed(a: Any, prev: Any) -> Any:
    s = np.exp(-np.square(a.u)) * prev.s + np.maximum(a.v, a.w.x) / (1 + a.w.h**2)
    return np.tanh(s) - prev.h, s


@cell(gates="r z n v", apart="r n", from_h="v")
def product_alone(a: Any, prev: Any) -> Any:
    """The second product feeds sums that are its alone."""
    r, z = sigmoid(a.r.x * a.r.h), sigmoid(a.z)
    m = r * prev.h
    n = tanh(a.n.x - a.n.h(m) * z) + 0.5 * a.v(m)
    return n + z * (prev.h - n)


@cell(gates="u v", states="h s")
def constant_state(a: Any, prev: Any) -> Any:
    return a.u * a.v, 1.5


OWN = {each.name: each for each in (swapping, every_feed, product_alone, constant_state)}
ALL = OWN | LIBRARY | BESIDE
names = pytest.mark.parametrize("name", ALL)

TAKES = dict.fromkeys(Op, 1) | dict.fromkeys(
    (Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX, Op.LESS, Op.LESS_EQUAL, Op.EQUAL, Op.SIGMOID_BACK, Op.TANH_BACK), 2
)
TAKES |= dict.fromkeys((Op.FMA, Op.FNMA, Op.LERP, Op.SELECT), 3)


def run(code: tuple[Instruction, ...], values: Values, constants: tuple[float, ...], *, one_memory: bool) -> None:
    """Interpret a program as a kernel may, which holds a state before and after the step in one memory in forward."""

    def at(operand: Operand) -> Operand:
        one = one_memory and operand.kind is Kind.AFTER and operand.index
        return Operand(Kind.BEFORE, operand.index) if one else operand

    for op, out, *operands in code:
        of = [constants[o.index] if o.kind is Kind.CONSTANT else values[at(o)] for o in operands]
        with np.errstate(all="ignore"):
            values[at(out)] = EVALUATE[op](*of[: TAKES[op]])


def run_phases(phases: tuple[Phase, ...], values: Values, constants: tuple[float, ...], *, one_memory: bool) -> None:
    """Interpret a program in phases, for which the values are those of ROWS units of one row."""
    for phase in phases:
        sums = {at.index: value for at, value in values.items() if at.kind is Kind.SUM}
        values |= {Operand(Kind.ROW, k): np.full(ROWS, sums[j].mean()) for j, k in enumerate(phase.means)}
        run(phase.of_row, values, constants, one_memory=one_memory)
        for at in [at for at in values if at.kind is Kind.REGISTER]:
            del values[at]  # what a program has in registers is lost
        values |= {Operand(Kind.SUM, j): np.zeros(ROWS) for j in range(32)}
        run(phase.of_units, values, constants, one_memory=one_memory)
        for at in [at for at in values if at.kind is Kind.REGISTER]:
            del values[at]


def program_of(of: WrittenCell) -> Program:
    assert of.program is not None
    return of.program


def problem(of: WrittenCell, seed: int = 0) -> Values:
    rng, program = np.random.default_rng(seed), program_of(of)
    values: Values = {Operand(Kind.SLOT, j): rng.normal(size=ROWS) for j in range(program.slots)}
    values |= {Operand(Kind.BEFORE, k): rng.uniform(0.5, 2, ROWS) for k in range(program.states)}
    values |= {Operand(Kind.GRADIENT, k): rng.normal(size=ROWS) for k in range(program.states)}
    values |= {Operand(Kind.UNIT, m): rng.normal(size=ROWS) for m in range(program.units)}
    for k in range(len(program.extras)):
        given = rng.uniform(0.5, 2, ROWS)
        values[Operand(Kind.EXTRA, k)] = given if k < len(of.extra) else (given > 1) * 1.0
    return values


def by_function(of: WrittenCell, values: Values) -> tuple[Any, ...]:
    equations = of.equations
    assert equations is not None
    sums = {name: values[Operand(Kind.SLOT, j)] for name, j in equations.slots.items()}
    before = {name: values[Operand(Kind.BEFORE, k)] for k, name in enumerate(of.states)}
    unit = np.array([values[Operand(Kind.UNIT, m)] for m in range(program_of(of).units)])
    extra = [values[Operand(Kind.EXTRA, k)] for k in range(len(program_of(of).extras))]
    return equations.run(sums, before, unit, lambda gate, value: WEIGHT * value, extra)  # type: ignore[no-any-return]


def by_program(of: WrittenCell, values: Values) -> tuple[list[Any], Values]:
    """The new states, and the gradients of sums, states and parameters."""
    program = program_of(of)
    K, S, constants = program.states, program.slots, program.constants
    of_m = [Operand(Kind.SLOT, program.m_first + j) for j in range(len(program.m_gates))]
    unit = np.array([values[Operand(Kind.UNIT, m)] for m in range(program.units)])
    values = {at: value for at, value in values.items() if at.kind is not Kind.UNIT}
    values |= {Operand(Kind.UNIT, j): value for j, value in enumerate(of.prepare(unit))}
    known = {at: value for at, value in values.items() if at.kind is not Kind.GRADIENT}
    middle = Operand(Kind.MIDDLE, 0)

    def without_registers(values: Values) -> Values:
        return {at: value for at, value in values.items() if at.kind is not Kind.REGISTER}

    run(program.middle, known, constants, one_memory=True)
    run_phases(program.phases_middle, known, constants, one_memory=True)
    for at in of_m:
        known[at] = known[at] + WEIGHT * known[middle]
    known.pop(middle, None)
    known = without_registers(known)
    run(program.forward, known, constants, one_memory=True)
    run_phases(program.phases, known, constants, one_memory=True)
    states = [known[Operand(Kind.BEFORE if k else Kind.AFTER, k)] for k in range(K)]

    tape = {at: v for at, v in known.items() if at.kind is Kind.SLOT and at.index < max(program.room, 4 * -(-S // 4))}
    seen = tape | {at: v for at, v in values.items() if at.kind not in (Kind.SLOT,)}
    seen |= {Operand(Kind.AFTER, k): state for k, state in enumerate(states) if k or not program.phases}
    if not program.reads_h:
        del seen[Operand(Kind.BEFORE, 0)]
    shown = dict(seen)
    run(program.inside, shown, constants, one_memory=False)
    assert all(Operand(Kind.SHOWN, g) in shown for g in range(len(of.gates)))
    seen |= {at: np.full(ROWS, np.nan) for at in of_m}  # which the tape has nothing in
    seen |= {at: value for at, value in known.items() if at.kind is Kind.ROW}
    run(program.middle_back, seen, constants, one_memory=False)
    run_phases(program.phases_middle_back, seen, constants, one_memory=False)
    first = {at: seen[at] for at in of_m}
    seen = without_registers(seen)
    if of_m:
        seen[middle] = WEIGHT * sum(first.values())
    if not program.phases:
        seen |= {at: np.full(ROWS, np.nan) for at in of_m}
    seen |= {Operand(Kind.OWN, m): np.zeros(ROWS) for m in range(program.seen_units if program.adds_up else 0)}
    run(program.backward, seen, constants, one_memory=False)
    run_phases(program.phases_back, seen, constants, one_memory=False)
    grads = first | {at: seen[at] for at in [Operand(Kind.SLOT, j) for j in range(S)] if at not in of_m}
    start = 0 if program.reads_h else 1
    grads |= {Operand(Kind.BEFORE, k): seen[Operand(Kind.GRADIENT, k)] for k in range(start, K)}
    own = [Operand(Kind.OWN, m) if program.adds_up else Operand(Kind.SLOT, S + m) for m in range(program.seen_units)]
    dunit = of.prepare_back(unit, np.array([seen[at] for at in own]))
    return states, grads | {Operand(Kind.UNIT, m): d for m, d in enumerate(dunit)}


def differences(of: WrittenCell, values: Values, operand: Operand, step: float = 1e-6) -> Any:
    """The gradient of an operand: where units see one another of each on its own."""
    moves = np.eye(ROWS) if program_of(of).phases else np.ones((1, ROWS))
    found = np.zeros(ROWS)
    for moved in moves:
        ends = [by_function(of, values | {operand: values[operand] + sign * step * moved}) for sign in (1, -1)]
        each = sum(
            values[Operand(Kind.GRADIENT, k)] * np.subtract(up, down) / (2 * step)
            for k, (up, down) in enumerate(zip(*ends, strict=True))
        )
        found += each if len(moves) == 1 else moved * np.sum(each)
    return found


@names
def test_a_program_is_what_its_function_says(name: str) -> None:
    values = problem(ALL[name])
    states, _ = by_program(ALL[name], values)
    for got, want in zip(states, by_function(ALL[name], values), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@names
def test_a_programs_gradients_are_differences_of_its_function(name: str) -> None:
    of, values = ALL[name], problem(ALL[name])
    _, grads = by_program(of, values)
    for operand, got in grads.items():
        want = differences(of, values, operand)
        np.testing.assert_allclose(np.broadcast_to(got, ROWS), want, rtol=1e-5, atol=1e-7, err_msg=str(operand))


@names
def test_a_program_stays_within_what_kernels_hold(name: str) -> None:
    program = program_of(ALL[name])
    assert program.registers <= 32
    assert len(program.constants) <= 32
    assert program.states <= 8
    assert max(program.room, program.slots + (0 if program.phases else program.seen_units)) <= 16
    for phase in program.all_phases:
        assert len(phase.means) <= 32
        assert (
            max([*phase.means, *[at.index for i in phase.of_row for at in i[1:] if at.kind is Kind.ROW]], default=0)
            < 96
        )


@cell(gates="i f g o", states="h c")
def plain_lstm(a: Any, prev: Any) -> Any:
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * prev.c + i * g
    return o * tanh(c), c


@cell(gates="r z n", apart="n")
def plain_gru(a: Any, prev: Any) -> Any:
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return (1 - z) * n + z * prev.h


def test_an_lstm_and_a_gru_take_no_more_instructions_than_by_hand() -> None:
    assert [len(code) for code in (program_of(plain_lstm).forward, program_of(plain_lstm).backward)] == [8, 13]
    assert len(program_of(plain_gru).forward) == 5
    assert len(program_of(plain_gru).backward) <= 11


def test_a_cell_becomes_the_same_programs_every_time() -> None:
    again = {}
    for name, of in LIBRARY.items():
        assert of.equations is not None
        feeds = {"from_x": of.equations.x_only, "from_h": of.equations.h_only, "apart": of.equations.apart}
        parameters = dict(of.equations.parameters)
        again[name] = cell(gates=of.gates, states=of.states, parameters=parameters, **feeds)(of.equations.function)
    assert {name: of.program for name, of in again.items()} == {name: of.program for name, of in LIBRARY.items()}


# What the search for a tape has found: instructions of forward with the middle's, and of backward likewise.
LENGTHS = {
    "peephole_lstm": (11, 19),
    "coupled_lstm": (6, 11),
    "hard_lstm": (14, 31),
    "janet": (6, 8),
    "ran": (6, 8),
    "slstm": (22, 45),
    "reset_before_gru": (5, 9),
    "mgu": (4, 8),
    "hard_gru": (9, 22),
    "li_gru": (3, 9),
    "ugrnn": (3, 8),
    "brc": (8, 14),
    "nbrc": (6, 10),
    "star": (5, 7),
    "atr": (6, 8),
    "min_gru": (2, 5),
    "min_lstm": (6, 12),
    "sru": (6, 15),
    "qrnn": (5, 9),
    "gilr": (3, 8),
    "rg_lru": (17, 25),
    "ind_rnn": (3, 4),
    "ind_rnn_tanh": (3, 3),
    "leaky_rnn": (3, 6),
    "fast_rnn": (5, 7),
    "fast_grnn": (10, 15),
    "antisymmetric_rnn": (3, 5),
    "cfc": (5, 10),
    "lem": (7, 13),
    "ltc": (13, 12),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_programs_are_as_short_as_they_were(name: str) -> None:
    program = program_of(LIBRARY[name])
    forward = len(program.middle) + len(program.forward)
    backward = len(program.middle_back) + len(program.backward)
    assert forward <= LENGTHS[name][0]
    assert backward <= LENGTHS[name][1]


# ---- operations

FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "exp": (cells.exp, lambda t, x: t.exp(x)),
    "expm1": (cells.expm1, lambda t, x: t.expm1(x)),
    "log": (cells.log, lambda t, x: t.log(x)),
    "log1p": (cells.log1p, lambda t, x: t.log1p(x)),
    "sin": (cells.sin, lambda t, x: t.sin(x)),
    "cos": (cells.cos, lambda t, x: t.cos(x)),
    "erf": (cells.erf, lambda t, x: t.erf(x)),
    "sqrt": (cells.sqrt, lambda t, x: t.sqrt(x)),
    "absolute": (cells.absolute, lambda t, x: t.abs(x)),
    "reciprocal": (cells.reciprocal, lambda t, x: t.reciprocal(x)),
    "square": (cells.square, lambda t, x: t.square(x)),
    "cube": (lambda x: x**3, lambda t, x: x**3),
    "sigmoid": (cells.sigmoid, lambda t, x: t.sigmoid(x)),
    "tanh": (cells.tanh, lambda t, x: t.tanh(x)),
    "relu": (cells.relu, lambda t, x: t.relu(x)),
    "softplus": (cells.softplus, lambda t, x: t.nn.functional.softplus(x, threshold=800)),
    "softsign": (cells.softsign, lambda t, x: t.nn.functional.softsign(x)),
    "elu": (lambda x: cells.elu(x, 1.5), lambda t, x: t.nn.functional.elu(x, 1.5)),
    "selu": (cells.selu, lambda t, x: t.nn.functional.selu(x)),
    "leaky_relu": (lambda x: cells.leaky_relu(x, 0.2), lambda t, x: t.nn.functional.leaky_relu(x, 0.2)),
    "silu": (cells.silu, lambda t, x: t.nn.functional.silu(x)),
    "hard_sigmoid": (cells.hard_sigmoid, lambda t, x: t.nn.functional.hardsigmoid(x)),
    "hard_tanh": (cells.hard_tanh, lambda t, x: t.nn.functional.hardtanh(x)),
    "clip": (lambda x: cells.clip(x, -0.5, 3), lambda t, x: t.clamp(x, -0.5, 3)),
    "gelu": (cells.gelu, lambda t, x: t.nn.functional.gelu(x)),
    "minimum": (lambda x: cells.minimum(x, 1 - x), lambda t, x: t.minimum(x, 1 - x)),
    "maximum": (lambda x: cells.maximum(x, 1 - x), lambda t, x: t.maximum(x, 1 - x)),
    "where": (lambda x: where((x > 0) & ~(x >= 3), x * 2, x), lambda t, x: t.where((x > 0) & ~(x >= 3), x * 2, x)),
}
POINTS = [-np.inf, -700.0, -20.0, -3.0, -1.0, -0.5, -1e-9, 0.0, 1e-9, 0.5, 1.0, 2.0, 3.0, 20.0, 700.0, np.inf, np.nan]
FREE = {"softsign": (np.inf, -np.inf)}  # whose derivative there is 0 here, and NaN in torch


LIMIT = {"hard_sigmoid": 1e-7}  # torch's slope is 1/6 in float32


def made_of(function: Callable[[Any], Any]) -> WrittenCell:
    def one(a: Any, prev: Any) -> Any:
        return function(a.u)

    return cell(gates="u")(one)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_are_torchs_everywhere(torch: ModuleType, name: str) -> None:
    ours, theirs = FUNCTIONS[name]
    points = np.array([x for x in POINTS if x not in FREE.get(name, ())])
    x = torch.tensor(points, requires_grad=True)
    y = theirs(torch, x)
    y.sum().backward()
    of, slot = made_of(ours), Operand(Kind.SLOT, 0)
    values: Values = {slot: points, Operand(Kind.BEFORE, 0): points, Operand(Kind.GRADIENT, 0): np.ones(len(points))}
    (state,), grads = by_program(of, values)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(ours(points), y.detach().numpy(), rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(state, y.detach().numpy(), rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(
        np.broadcast_to(grads[slot], len(points)), x.grad.numpy(), rtol=LIMIT.get(name, 1e-12), atol=1e-300
    )


@pytest.mark.parametrize("slope", [1 / 6, 0.2])
def test_hard_sigmoid_has_both_slopes(slope: float) -> None:
    x = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(cells.hard_sigmoid(x, slope), np.clip(slope * x + 0.5, 0, 1))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_keep_float32(name: str) -> None:
    function, _ = FUNCTIONS[name]
    assert function(np.array([0.25, 0.5], np.float32)).dtype == np.float32


# ---- random equations

UNARY: list[tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = [
    *[FUNCTIONS[name] for name in ("tanh", "sigmoid", "softplus", "silu", "sin", "cos", "gelu", "square")],
    (lambda x: -x, lambda t, x: -x),
]
BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / (1 + b * b),
    lambda a, b: (1 - a) * b + a * 0.5,
]
Steps = list[tuple[int, int, int]]
random_steps = st.lists(st.tuples(st.integers(0, 13), st.integers(0, 30), st.integers(0, 30)), min_size=3, max_size=14)


def equations_of(steps: Steps, torch: ModuleType | None = None) -> Callable[..., Any]:
    """A function of three gates, two states and a parameter, which uses all of them; of tensors if torch is given."""

    def apply(which: int, x: Any) -> Any:
        ours, theirs = UNARY[which]
        return ours(x) if torch is None else theirs(torch, x)

    def random_cell(a: Any, prev: Any, p: Any) -> Any:
        made = [a.u, a.v, a.w.x, a.w.h, prev.h, prev.c, p.k]
        for which, one, other in steps:
            x, y = made[one % len(made)], made[other % len(made)]
            made.append(apply(which, x) if which < len(UNARY) else BINARY[which - len(UNARY)](x, y))
        whole = apply(0, a.u) + apply(1, a.v) * a.w.x - a.w.h * p.k
        return apply(0, made[-1] + whole), apply(0, made[-2] * prev.c)

    return random_cell


def random_cell_of(steps: Steps) -> WrittenCell:
    return cell(gates="u v w", states="h c", parameters="k", apart="w")(equations_of(steps))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(random_steps)
def test_random_equations_are_what_they_say_and_so_are_their_gradients(steps: Steps) -> None:
    of = random_cell_of(steps)
    values = problem(of, seed=1)
    states, grads = by_program(of, values)
    for got, want in zip(states, by_function(of, values), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)
    for operand, got in grads.items():
        want = differences(of, values, operand)
        np.testing.assert_allclose(np.broadcast_to(got, ROWS), want, rtol=1e-4, atol=1e-5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(random_steps)
def test_random_equations_and_their_gradients_are_torchs(torch: ModuleType, steps: Steps) -> None:
    of = random_cell_of(steps)
    values = problem(of, seed=2)
    states, grads = by_program(of, values)
    leaves = {at: torch.tensor(v, requires_grad=True) for at, v in values.items() if at.kind is not Kind.GRADIENT}
    assert of.equations is not None
    sums = {name: leaves[Operand(Kind.SLOT, j)] for name, j in of.equations.slots.items()}
    a = SimpleNamespace(u=sums["u"], v=sums["v"], w=SimpleNamespace(x=sums["w.x"], h=sums["w.h"]))
    prev = SimpleNamespace(h=leaves[Operand(Kind.BEFORE, 0)], c=leaves[Operand(Kind.BEFORE, 1)])
    want = equations_of(steps, torch)(a, prev, SimpleNamespace(k=leaves[Operand(Kind.UNIT, 0)]))
    torch.autograd.backward(want, [torch.tensor(values[Operand(Kind.GRADIENT, k)]) for k in range(2)])
    for got, state in zip(states, want, strict=True):
        np.testing.assert_allclose(got, state.detach().numpy(), rtol=1e-9, atol=1e-11)
    for operand, got in grads.items():
        leaf = leaves[operand]
        full = np.zeros(ROWS) if leaf.grad is None else leaf.grad.numpy()
        scale = 1e-9 * max(1.0, np.abs(full).max())
        np.testing.assert_allclose(np.broadcast_to(got, ROWS), full, rtol=1e-8, atol=scale, err_msg=str(operand))


# ---- errors


def if_of_a_value(a: Any, prev: Any) -> Any:
    return a.u if a.u > 0 else -a.u


def unknown_gate(a: Any, prev: Any) -> Any:
    return a.u + a.x


def unknown_state(a: Any, prev: Any) -> Any:
    return a.u + prev.c


def unknown_operation(a: Any, prev: Any) -> Any:
    return np.arctan(a.u)


def root_of_a_power(a: Any, prev: Any) -> Any:
    return a.u**0.5


def per_unit_array(a: Any, prev: Any) -> Any:
    return a.u + np.zeros(3)


def two_states(a: Any, prev: Any) -> Any:
    return a.u, a.u


def no_state(a: Any, prev: Any) -> Any:
    a.u + prev.h


def no_gate(a: Any, prev: Any) -> Any:
    return tanh(prev.h)


def with_p(a: Any, prev: Any, p: Any) -> Any:
    return a.u


def called_of_x(a: Any, prev: Any) -> Any:
    return a.u(prev.h) + a.v + a.w.x * a.w.h


def two_second_products(a: Any, prev: Any) -> Any:
    return a.v(a.u * prev.h) + a.w.x * a.w.h(a.u)


def one_sum_and_two(a: Any, prev: Any) -> Any:
    m = a.u * prev.h
    return a.v(m) + a.w.x * a.w.h(m)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (called_of_x, "gate u is called, but x alone feeds it; expected one that h feeds"),
        (two_second_products, "gate w.h is called with another value than the gate before; expected one value for all"),
        (one_sum_and_two, r"x feeds v in the same sum and not the others; .*: keep v apart, and add a.v.x to a.v.h"),
    ],
)
def test_a_step_has_one_second_product(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cell(gates="u v w", from_x="u", apart="w")(function)


ERRORS: list[tuple[Callable[..., Any], type[Exception], str]] = [
    (if_of_a_value, TypeError, "expected where"),
    (unknown_gate, AttributeError, "no gate 'x'; expected one of u"),
    (unknown_state, AttributeError, "no state 'c'; expected one of h"),
    (unknown_operation, TypeError, "numpy.arctan is not an operation"),
    (root_of_a_power, TypeError, "exponent of .* is 0.5"),
    (per_unit_array, TypeError, r"array of shape \(3,\)"),
    (two_states, ValueError, "returns 2 values; expected 1"),
    (no_state, TypeError, "the new h is a NoneType"),
    (no_gate, ValueError, "a.u is not used"),
    (with_p, TypeError, "takes 3 arguments"),
]


@pytest.mark.parametrize(("function", "kind", "message"), ERRORS, ids=lambda each: getattr(each, "__name__", ""))
def test_errors_name_the_line(function: Callable[..., Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        cell(gates="u")(function)
    first = function.__code__.co_firstlineno
    assert any(f"test_language.py:{line}" in str(caught.value) for line in (first, first + 1))
    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": ""}, "gates is empty"),
        ({"gates": "u u"}, "gates"),
        ({"gates": "u", "from_x": "v"}, "from_x has 'v'"),
        ({"gates": "u", "from_x": "u", "from_h": "u"}, "from_h has 'u', and so has from_x"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cell(**options)


def test_a_condition_as_a_number_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="a condition is used as a number"):
        made_of(lambda u: u * (u > 0))


def test_a_derivative_can_be_checked() -> None:
    assert fastrnn.check_cell(every_feed).passed


@pytest.mark.parametrize("backend", ["numpy", "cython"], indirect=True)
@pytest.mark.parametrize("function", [cells.maximum, cells.minimum])
def test_the_same_two_values_have_half_the_gradient_each(backend: str, function: Any) -> None:
    @fastrnn.cell(gates="n")
    def tie(a: Any, prev: Any) -> Any:
        return function(a.n, 3 * a.n)

    module = fastrnn.Recurrent(tie, 1, 2, dtype="float64", seed=0, backend=backend)
    for parameter in module.parameters.values():
        parameter[...] = 0
    _, _, tape = module.forward(np.ones((1, 1, 1)))
    _, _, gradients = module.backward(tape, np.ones((1, 1, 2)))
    np.testing.assert_array_equal(gradients["bias_ih_l0"], [2.0, 2.0])  # (1 + 3) / 2


def test_sums_that_are_kept_leave_slots_that_are_lost():
    graph = Graph()
    sums = [graph.leaf(Operand(Kind.SLOT, j)) for j in range(2)]
    placed = place(sums, sums, 3, lost=[sums[0].value])
    assert placed == {sums[0]: Operand(Kind.SLOT, 2), sums[1]: sums[1].value}
