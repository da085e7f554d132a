"""A cell as text: its equations, their derivative, and the programs that kernels run."""

from __future__ import annotations

from collections.abc import Sequence

from fastrnn.cells.graph import Across, Function, Node, reachable
from fastrnn.cells.language import Equations, WrittenCell, source_of
from fastrnn.cells.program import Instruction, Kind, Op, Operand, Phase, Program

__all__ = ["describe"]

_SIGNS = {
    Op.ADD: "{} + {}",
    Op.SUB: "{} - {}",
    Op.MUL: "{} * {}",
    Op.DIV: "{} / {}",
    Op.NEG: "-{}",
    Op.FMA: "{} * {} + {}",
    Op.FNMA: "{2} - {0} * {1}",
    Op.LERP: "{2} + {0} * ({1} - {2})",
    Op.LESS: "{} < {}",
    Op.LESS_EQUAL: "{} <= {}",
    Op.EQUAL: "{} == {}",
    Op.SELECT: "{1} where {0} else {2}",
    Op.SIGMOID_BACK: "{0} * {1} * (1 - {1})",
    Op.TANH_BACK: "{0} * (1 - {1} * {1})",
    Op.COPY: "{}",
}
_OPERANDS = {Op.FMA: 3, Op.FNMA: 3, Op.LERP: 3, Op.SELECT: 3}
_TWO = {Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX, Op.LESS, Op.LESS_EQUAL, Op.EQUAL, Op.SIGMOID_BACK, Op.TANH_BACK}
# What an operation counts for, in flops; those of one operand that are not here are made of some twenty.
_FLOPS = {Op.COPY: 0, Op.FMA: 2, Op.FNMA: 2, Op.LERP: 3, Op.SIGMOID_BACK: 3, Op.TANH_BACK: 3, Op.SQRT: 1, Op.RELU: 1}
_FLOPS |= {Op.NEG: 1, Op.ABS: 1, Op.SELECT: 1} | dict.fromkeys(_TWO - {Op.SIGMOID_BACK, Op.TANH_BACK}, 1)
_LONG = 20
_LETTERS = {Kind.SLOT: "s", Kind.ROW: "w", Kind.SUM: "sum "}


def describe(cell: WrittenCell) -> str:
    """The whole of it."""
    equations, program = cell._equations, cell._program
    names = _names(cell)
    lines = [repr(cell), "", source_of(equations.function), ""]
    lines += ["derivative, of each row and unit:"]
    made = [node for node in reachable(list(equations.gradients.values())) if node.op is not None]
    known = {node: f"v{k}" for k, node in enumerate(made)}
    for node in made:
        lines.append(f"  {known[node]} = {_expression(node, known, names)}")
    for operand, node in equations.gradients.items():
        lines.append(f"  d {_named(operand, names)} = {known.get(node) or _leaf(node, names)}")
    if equations.prepared is not None:
        lines += ["", "once a call, of each unit:"]
        made = [node for node in reachable(equations.prepared.values) if node.op is not None]
        known = {node: f"v{k}" for k, node in enumerate(made)}
        lines += [f"  {known[node]} = {_expression(node, known, names)}" for node in made]
        for j, node in enumerate(equations.prepared.values):
            lines.append(f"  u{j} = {known.get(node) or _leaf(node, names)}")
            names = names | {Operand(Kind.OWN, j): f"d u{j}"}
        names = names | {Operand(Kind.UNIT, j): f"u{j}" for j in range(program.seen_units)}
    for title, code in _codes(program):
        lines += ["", f"{title}: {_size(code)}"]
        lines += [f"  {_instruction(instruction, names, program.constants)}" for instruction in code]
    for title, phases in (
        ("middle", program.phases_middle),
        ("forward", program.phases),
        ("back to the middle", program.phases_middle_back),
        ("backward", program.phases_back),
    ):
        if phases:
            lines += ["", f"{title}: {len(phases)} phases, between which each row's sums are made"]
        for k, phase in enumerate(phases):
            lines += _phase(f"{title}, phase {k + 1}", phase, names, program.constants)
    return "\n".join(lines)


def _phase(title: str, phase: Phase, names: dict[Operand, str], constants: Sequence[float]) -> list[str]:
    """What a phase does: once for a row, and of every unit."""
    lines = ["", f"{title}, of a row: {_size(phase.of_row)}"] if phase.means or phase.of_row else []
    lines += [f"  w{i} = mean: sum {j} / H" for j, i in enumerate(phase.means)]
    lines += [f"  {_instruction(instruction, names, constants)}" for instruction in phase.of_row]
    lines += ["", f"{title}: {_size(phase.of_units)}"]
    return lines + [f"  {_instruction(instruction, names, constants)}" for instruction in phase.of_units]


def _size(code: Sequence[Instruction]) -> str:
    flops = sum(_FLOPS.get(instruction.op, _LONG) for instruction in code)
    return f"{len(code)} instructions, {_registers(code)} registers, {flops} flops a unit"


def _codes(program: Program) -> list[tuple[str, Sequence[Instruction]]]:
    codes = [("take", program.take), ("middle", program.middle), ("forward", program.forward)]
    codes += [("back to the middle", program.middle_back), ("backward", program.backward)]
    codes += [("back from what is taken", program.take_back), ("shown", program.inside)]
    return [(title, code) for title, code in codes if code]


def _registers(code: Sequence[Instruction]) -> int:
    found = {operand for i in code for operand in i[1:] if operand.kind is Kind.REGISTER}
    return len(found)


def _names(cell: WrittenCell) -> dict[Operand, str]:
    """What the equations call the operands."""
    equations: Equations = cell._equations
    names = {Operand(Kind.SLOT, slot): f"a.{name}" for name, slot in equations.slots.items()}
    for k, state in enumerate(cell.states):
        names[Operand(Kind.BEFORE, k)] = f"prev.{state}"
        names[Operand(Kind.AFTER, k)] = state
        names[Operand(Kind.GRADIENT, k)] = f"d {state}"
    names |= {Operand(Kind.UNIT, m): f"p.{name}" for m, name in enumerate(equations.parameters)}
    names |= {Operand(Kind.SHOWN, g): f"shown {gate}" for g, gate in enumerate(cell.gates)}
    beside = [*equations.extra, *[noise.name for noise in equations.noise]]
    names |= {Operand(Kind.EXTRA, k): f"e.{name}" for k, name in enumerate(beside)}
    names |= {Operand(Kind.MIDDLE, 0): "m", Operand(Kind.TAKEN, 0): "taken"}
    names |= {Operand(Kind.OWN, m): f"d p.{name}" for m, name in enumerate(equations.parameters)}
    return names


def _named(operand: Operand, names: dict[Operand, str]) -> str:
    return names.get(operand, f"{_LETTERS.get(operand.kind, 'r')}{operand.index}")


def _leaf(node: Node, names: dict[Operand, str]) -> str:
    return _named(node.value, names) if node.number is None else f"{node.number:g}"


def _expression(node: Node, known: dict[Node, str], names: dict[Operand, str]) -> str:
    parts = [known.get(a) or _leaf(a, names) for a in node.args]
    if isinstance(node.op, Function):
        return f"{node.op.name}({', '.join([*parts, *map(str, node.value)])})"
    return _words(node.op, parts)


def _words(op: Op | Across, parts: Sequence[str]) -> str:
    return (
        _SIGNS[op].format(*parts) if isinstance(op, Op) and op in _SIGNS else f"{op.name.lower()}({', '.join(parts)})"
    )


def _instruction(instruction: Instruction, names: dict[Operand, str], constants: Sequence[float]) -> str:
    op, out, *operands = instruction
    count = _OPERANDS.get(op, 2 if op in _TWO else 1)
    # A slot holds the sum that it is named after, until something else is kept there.
    parts = [
        f"{constants[o.index]:g}"
        if o.kind is Kind.CONSTANT
        else f"s{o.index}"
        if o.kind is Kind.SLOT
        else _named(o, names)
        for o in operands[:count]
    ]
    to = f"s{out.index}" if out.kind is Kind.SLOT else _named(out, names)
    return f"{to} = {_words(op, parts)}"
