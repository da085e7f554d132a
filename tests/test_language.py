"""Cells that are written as equations: what is traced, differentiated and scheduled is what the function says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastrnn.cells import EquationCell, cell, sigmoid, softplus, tanh, where
from fastrnn.cells.graph import EVALUATE
from fastrnn.cells.program import Kind, Operand

Values = dict[Operand, Any]


@cell(gates="i f g o", states="h c")
def lstm(a: Any, prev: Any) -> Any:
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * prev.c + i * g
    return o * tanh(c), c


@cell(gates="r z n", apart="n")
def gru(a: Any, prev: Any) -> Any:
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return (1 - z) * n + z * prev.h


@cell(gates="i f g o", states="h c", parameters="p_i p_f p_o")
def peephole(a: Any, prev: Any, p: Any) -> Any:
    i, f = sigmoid(a.i + p.p_i * prev.c), sigmoid(a.f + p.p_f * prev.c)
    c = f * prev.c + i * tanh(a.g)
    o = sigmoid(a.o + p.p_o * c)
    return o * tanh(c), c


@cell(gates="z n", from_x="z n")
def min_gru(a: Any, prev: Any) -> Any:
    z = sigmoid(a.z)
    return prev.h + z * (a.n - prev.h)


@cell(gates="i f g o", states="h c n m")
def slstm(a: Any, prev: Any) -> Any:
    log_f = -softplus(-a.f)
    m = np.maximum(log_f + prev.m, a.i)
    i, f, o = np.exp(a.i - m), np.exp(log_f + prev.m - m), sigmoid(a.o)
    c, n = f * prev.c + i * tanh(a.g), f * prev.n + i
    return o * c / n, c, n, m


@cell(gates="u", states="h s t", parameters={"k": 0.5})
def swapping(a: Any, prev: Any, p: Any) -> Any:
    return where(a.u < prev.h, a.u, p.k * prev.t), prev.t, prev.s


CELLS = {each.name: each for each in (lstm, gru, peephole, min_gru, slstm, swapping)}


def run(code: Any, values: Values, constants: tuple[float, ...], *, forward: bool = False) -> None:
    """Interpret a program as a kernel may: a state before and after it, from the second on, are one memory."""

    def place(operand: Operand) -> Operand:
        return (
            Operand(Kind.BEFORE, operand.index) if forward and operand.kind is Kind.AFTER and operand.index else operand
        )

    for op, out, *operands in code:
        of = [constants[o.index] if o.kind is Kind.CONSTANT else values[place(o)] for o in operands]
        count = EVALUATE[op].__code__.co_argcount if hasattr(EVALUATE[op], "__code__") else EVALUATE[op].nin
        values[place(out)] = EVALUATE[op](*of[:count])


def problem(of: EquationCell, rows: int = 5) -> Values:
    rng = np.random.default_rng(len(of.name))
    values: Values = {Operand(Kind.SLOT, j): rng.normal(size=rows) for j in range(len(of.slots))}
    values |= {Operand(Kind.BEFORE, k): rng.uniform(0.5, 2, rows) for k in range(len(of.states))}
    values |= {Operand(Kind.GRADIENT, k): rng.normal(size=rows) for k in range(len(of.states))}
    return values | {Operand(Kind.UNIT, m): rng.normal(size=rows) for m in range(len(of.parameters))}


def by_function(of: EquationCell, values: Values) -> tuple[Any, ...]:
    sums = [values[Operand(Kind.SLOT, j)] for j in range(len(of.slots))]
    states = [values[Operand(Kind.BEFORE, k)] for k in range(len(of.states))]
    unit = [values[Operand(Kind.UNIT, m)] for m in range(len(of.parameters))]
    found = of(*of._arguments(dict(zip(of.slots, sums, strict=True)), states, unit))
    return found if isinstance(found, tuple) else (found,)


def by_program(of: EquationCell, values: Values) -> tuple[list[Any], Values]:
    """The new states and the gradients."""
    program = of.program
    assert program is not None
    K, S = program.states, program.slots
    values = dict(values)
    before = {Operand(Kind.BEFORE, k): values[Operand(Kind.BEFORE, k)] for k in range(K)}
    run(program.forward, values, program.constants, forward=True)
    states = [values[Operand(Kind.BEFORE if k else Kind.AFTER, k)] for k in range(K)]
    seen = {at: value for at, value in values.items() if at.kind not in (Kind.REGISTER, Kind.AFTER)} | before
    seen |= {Operand(Kind.AFTER, k): state for k, state in enumerate(states) if k}
    if not program.reads_h:
        del seen[Operand(Kind.BEFORE, 0)]
    run(program.inside, seen, program.constants)
    run(program.backward, seen, program.constants)
    grads = {Operand(Kind.SLOT, j): seen[Operand(Kind.SLOT, j)] for j in range(S)}
    first = 0 if program.reads_h else 1
    grads |= {Operand(Kind.BEFORE, k): seen[Operand(Kind.GRADIENT, k)] for k in range(first, K)}
    return states, grads | {Operand(Kind.UNIT, m): seen[Operand(Kind.SLOT, S + m)] for m in range(program.units)}


@pytest.mark.parametrize("name", CELLS)
def test_a_program_is_what_its_function_says(name: str) -> None:
    values = problem(CELLS[name])
    states, _ = by_program(CELLS[name], values)
    for got, want in zip(states, by_function(CELLS[name], values), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_a_programs_gradients_are_finite_differences(name: str) -> None:
    of, values, step = CELLS[name], problem(CELLS[name]), 1e-6
    _, grads = by_program(of, values)
    for operand, got in grads.items():
        ends = [by_function(of, values | {operand: values[operand] + sign * step}) for sign in (1, -1)]
        want = sum(
            values[Operand(Kind.GRADIENT, k)] * (up - down) / (2 * step)
            for k, (up, down) in enumerate(zip(*ends, strict=True))
        )
        np.testing.assert_allclose(np.broadcast_to(got, 5), want, rtol=1e-6, atol=1e-8)


def test_an_lstm_and_a_gru_take_as_many_instructions_as_by_hand() -> None:
    assert lstm.program is not None
    assert gru.program is not None
    assert len(lstm.program.forward) == 8
    assert len(lstm.program.backward) <= 13
    assert len(gru.program.forward) == 5
    assert len(gru.program.backward) <= 11
