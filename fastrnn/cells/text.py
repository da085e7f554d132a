"""A cell in words: its equations as they were written, and its programs."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastrnn.cells.program import Instruction, Kind, Op, Operand, Program

if TYPE_CHECKING:
    from fastrnn.cells.language import EquationCell

__all__ = ["describe"]

_ARITHMETIC = {Op.ADD: 1, Op.SUB: 1, Op.MUL: 1, Op.DIV: 1, Op.FMA: 2, Op.FNMA: 2, Op.NEG: 1, Op.LERP: 3}
_ARITHMETIC |= {Op.SIGMOID_BACK: 3, Op.TANH_BACK: 3}
_FUNCTIONS = {Op.SQRT, Op.EXP, Op.EXPM1, Op.LOG, Op.LOG1P, Op.SIN, Op.COS, Op.ERF, Op.SIGMOID, Op.TANH}
_FORMS = {
    Op.COPY: "{a}",
    Op.ADD: "{a} + {b}",
    Op.SUB: "{a} - {b}",
    Op.MUL: "{a} * {b}",
    Op.DIV: "{a} / {b}",
    Op.FMA: "{a} * {b} + {c}",
    Op.FNMA: "{c} - {a} * {b}",
    Op.NEG: "-{a}",
    Op.LESS: "{a} < {b}",
    Op.LESS_EQUAL: "{a} <= {b}",
    Op.EQUAL: "{a} == {b}",
    Op.SELECT: "{b} where {a} else {c}",
    Op.LERP: "{c} + {a} * ({b} - {c})",
    Op.SIGMOID_BACK: "{a} * {b} * (1 - {b})",
    Op.TANH_BACK: "{a} * (1 - {b} * {b})",
    Op.MIN: "min({a}, {b})",
    Op.MAX: "max({a}, {b})",
}


def describe(cell: EquationCell) -> str:
    """The equations, and the programs with their registers and floating-point operations."""
    try:
        source = textwrap.dedent(inspect.getsource(cell.equations)).rstrip()
    except (OSError, TypeError):  # a function that was typed in, or made by exec
        source = f"{cell.name}: its source is not at hand"
    program = cell.program
    assert program is not None
    lines = [repr(cell), "", source]
    for title, code in (("forward", program.forward), ("backward", program.backward), ("trace", program.inside)):
        flops = sum(_ARITHMETIC.get(one.op, 0) for one in code)
        functions = sum(one.op in _FUNCTIONS for one in code)
        registers = len({one.out for one in code if one.out.kind is Kind.REGISTER})
        lines += ["", f"{title}: {len(code)} instructions, {flops} flops, {functions} functions, {registers} registers"]
        lines += [f"  {_name(cell, program, one.out)} := {_said(cell, program, one)}" for one in code]
    return "\n".join(lines)


def _said(cell: EquationCell, program: Program, one: Instruction) -> str:
    a, b, c = (_name(cell, program, operand) for operand in one[2:])
    return _FORMS.get(one.op, f"{one.op.name.lower()}({{a}})").format(a=a, b=b, c=c)


def _name(cell: EquationCell, program: Program, operand: Operand) -> str:
    """An operand by the names that the user gave."""
    kind, index = operand
    slots: Sequence[str] = [f"{gate}{'.' * bool(part)}{part}" for gate, part in cell.slots]
    slots = [*slots, *cell.parameters]
    if kind is Kind.CONSTANT:
        return f"{program.constants[index]:.17g}"
    names = {
        Kind.REGISTER: f"r{index}",
        Kind.SLOT: f"slot[{slots[index] if index < len(slots) else index}]",
        Kind.BEFORE: f"prev.{cell.states[index] if kind is Kind.BEFORE else ''}",
        Kind.AFTER: f"new.{cell.states[index] if kind is Kind.AFTER else ''}",
        Kind.GRADIENT: f"d{cell.states[index] if kind is Kind.GRADIENT else ''}",
        Kind.UNIT: f"p.{cell.parameters[index] if kind is Kind.UNIT else ''}",
        Kind.SHOWN: f"shown.{cell.gates[index] if kind is Kind.SHOWN else ''}",
    }
    return names[kind]
