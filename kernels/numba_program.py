"""Written cells: the interpreter of their elementwise programs, and how these see the rows of a layer.

`fastrnn.cells.program` says what a program is. It is data, so one interpreter serves every cell, and a new cell costs
no compilation. An instruction is one loop over up to `ROWS` rows of a vector of units, which share what it costs to
find that loop. The interpreter is compiled once for a dtype, on its own, when the first written cell runs; the time
loops call it by its address. So they are no larger for it, and who runs the built-in cells only never waits for it.

Operands are looked up in a table of places: where the value of the first row is, and how far apart rows are. What is
the same in all programs of a cell (constants, registers, the cell's own parameters) the interpreter fills in, the
callers what depends on the step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numba
import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from fastrnn.cells import Cell
from fastrnn.cells.graph import EVALUATE
from fastrnn.cells.program import Instruction, Kind, Op, Operand
from fastrnn.kernels import numba_math
from fastrnn.kernels.numba_cells import PROGRAM
from fastrnn.kernels.numba_layout import Shape
from fastrnn.kernels.numba_options import VECTOR_BYTES, helper, inlined, kernel, lanes
from fastrnn.kernels.numba_threads import SYNC, begin, finish, new_watch
from fastrnn.kernels.numba_tile import Loop
from fastrnn.kernels.numba_vector import (
    Pointer,
    Vector,
    absolute,
    address,
    at_address,
    choose,
    equal,
    first,
    fma,
    less,
    less_equal,
    load,
    load_part,
    maximum,
    minimum,
    negative,
    square_root,
    stack,
    store,
    store_part,
    width,
)
from fastrnn.parameters import Array

__all__ = [
    "BACKWARD",
    "FORWARD",
    "MIDDLE",
    "MIDDLE_BACK",
    "ROWS",
    "Compiled",
    "activation",
    "compile_program",
    "evaluate_inside",
    "run_backward",
    "run_forward",
    "why_not_program",
]

ROWS = 12  # that share an instruction: their registers stay in the first-level cache
FORWARD, BACKWARD, MIDDLE, MIDDLE_BACK = range(4)  # the programs of a cell that kernels run

_PLACES = 32  # of each kind of operand
_TABLE = 2 * len(Kind) * _PLACES * 8 // VECTOR_BYTES  # vectors of integers
_SCRATCH = ROWS * _PLACES  # vectors
_REGISTER, _SLOT, _BEFORE, _AFTER = map(int, (Kind.REGISTER, Kind.SLOT, Kind.BEFORE, Kind.AFTER))
_GRADIENT, _UNIT, _CONSTANT, _MIDDLE = map(int, (Kind.GRADIENT, Kind.UNIT, Kind.CONSTANT, Kind.MIDDLE))

# Words of `Compiled.code`: the interpreter's address, three numbers, where each of the programs starts, and where the
# last one ends; then instructions of five words, whose operands are indices into the table of places.
_CONSTANTS, _REGISTERS, _PARAMETERS, _STARTS, _INSTRUCTIONS = 1, 2, 3, 4, 9

_MOST_FED = 16  # slots that a product feeds: as many as a number of `Shape` has room for


# --- operations


OPERATIONS = {
    op: inlined(function)
    for op, function in {
        Op.COPY: lambda a, b, c: a,
        Op.ADD: lambda a, b, c: a + b,
        Op.SUB: lambda a, b, c: a - b,
        Op.MUL: lambda a, b, c: a * b,
        Op.DIV: lambda a, b, c: a / b,
        Op.FMA: lambda a, b, c: fma(a, b, c),
        Op.FNMA: lambda a, b, c: fma(negative(a), b, c),
        Op.NEG: lambda a, b, c: negative(a),
        Op.ABS: lambda a, b, c: absolute(a),
        Op.MIN: lambda a, b, c: choose(equal(b, b), minimum(a, b), b),
        Op.MAX: lambda a, b, c: choose(equal(b, b), maximum(a, b), b),
        Op.SQRT: lambda a, b, c: square_root(a),
        Op.EXP: lambda a, b, c: numba_math.exp(a),
        Op.EXPM1: lambda a, b, c: numba_math.expm1(a),
        Op.LOG: lambda a, b, c: numba_math.log(a),
        Op.LOG1P: lambda a, b, c: numba_math.log1p(a),
        Op.SIN: lambda a, b, c: numba_math.sin(a),
        Op.COS: lambda a, b, c: numba_math.cos(a),
        Op.ERF: lambda a, b, c: numba_math.erf(a),
        Op.SIGMOID: lambda a, b, c: numba_math.sigmoid(a),
        Op.TANH: lambda a, b, c: numba_math.tanh(a),
        Op.RELU: lambda a, b, c: maximum(a, 0.0),
        Op.LESS: lambda a, b, c: less(a, b),
        Op.LESS_EQUAL: lambda a, b, c: less_equal(a, b),
        Op.EQUAL: lambda a, b, c: equal(a, b),
        Op.SELECT: lambda a, b, c: choose(a, b, c),
        Op.LERP: lambda a, b, c: fma(a, b - c, c),
        Op.SIGMOID_BACK: lambda a, b, c: a * (b * (1.0 - b)),
        Op.TANH_BACK: lambda a, b, c: a * (1.0 - b * b),
    }.items()
}


@intrinsic
def _execute(
    typing: Any, op: Any, rows: Any, out: Any, out_row: Any, a: Any, a_row: Any, b: Any, b_row: Any, c: Any, c_row: Any
) -> Any:
    """out[r] := op(a[r], b[r], c[r]) for each of `rows` rows, at least one; a row is read before it is written."""
    kind = Vector(out.dtype)
    functions = {op: numba.typeof(function) for op, function in OPERATIONS.items()}
    signatures = {op: function.get_call_type(typing, (kind,) * 3, {}) for op, function in functions.items()}

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number, count, *operands = args
        word, align = ir.IntType(64), kind.dtype.bitwidth // 8
        vector = context.get_value_type(kind).as_pointer()
        end = builder.append_basic_block()
        switch = builder.switch(number, end)
        for op, function in functions.items():
            block = builder.append_basic_block()
            switch.add_case(word(int(op)), block)
            builder.position_at_end(block)
            loop = Loop(builder, count, operands[::2])
            to, *places = [builder.bitcast(place, vector) for place in loop.variables]
            values = [builder.load(place, align=align) for place in places]
            found = context.get_function(function, signatures[op])(builder, values)
            builder.store(found, to, align=align)
            loop.close([builder.gep(place, [step]) for place, step in zip(loop.variables, operands[1::2], strict=True)])
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    word = types.intp
    return types.void(word, word, out, word, a, word, b, word, c, word), generate


# --- places


@inlined
def _put(places, kind, index, at, row):
    """Write down where a value is: `at` for the first row, rows `row` elements apart."""
    places[2 * (kind * _PLACES + index)] = address(at)
    places[2 * (kind * _PLACES + index) + 1] = row


@inlined
def _at(like, places, place):
    return at_address(like, places[place])


def _interpret(code, which, places, constants, unit, H, u, rows):
    """Run one of a cell's programs for up to `ROWS` rows of units u W and on.

    Parameters
    ----------
    code, constants
        IN of `Compiled`.
    which
        `FORWARD` or another.
    places
        INOUT (number of kinds, `_PLACES`, 2): addresses, and elements from row to row.
    unit, H, u
        IN (M, H) the cell's own parameters, and which of their units.
    """
    W = width(constants)
    registers, own = stack(constants, _SCRATCH), stack(constants, _PLACES)
    for i in range(code[_CONSTANTS]):
        _put(places, _CONSTANT, i, constants + i * W, 0)
    for i in range(code[_REGISTERS]):
        _put(places, _REGISTER, i, registers + i * ROWS * W, W)
    for i in range(code[_PARAMETERS]):
        store(own + i * W, load_part(unit + (i * H + u * W), H - u * W))
        _put(places, _UNIT, i, own + i * W, 0)
    for i in range(code[_STARTS + which], code[_STARTS + which + 1], 5):
        out, a, b, c = code[i + 1], code[i + 2], code[i + 3], code[i + 4]
        _execute(
            code[i],
            rows,
            _at(constants, places, out),
            places[out + 1],
            _at(constants, places, a),
            places[a + 1],
            _at(constants, places, b),
            places[b + 1],
            _at(constants, places, c),
            places[c + 1],
        )


@functools.cache
def _interpreter(dtype: np.dtype[Any]) -> Any:
    """The interpreter of a dtype, compiled, or from the disk if it has been compiled before."""
    word, words, real = types.intp, Pointer(types.intp), Pointer(numba.from_dtype(dtype))
    signature = types.void(words, word, words, real, real, word, word, word)
    try:
        return cfunc(signature, cache=True, error_model="numpy")(_interpret)
    except RuntimeError:  # no folder to keep it in
        return cfunc(signature, error_model="numpy")(_interpret)


@intrinsic
def _call(typing: Any, code: Any, which: Any, places: Any, constants: Any, unit: Any, H: Any, u: Any, rows: Any) -> Any:
    """`_interpret`, by the address in the first word of `code`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in args])
        builder.call(builder.inttoptr(builder.load(args[0]), kind.as_pointer()), args)
        return context.get_dummy_value()

    word = types.intp
    return types.void(code, word, places, constants, unit, word, word, word), generate


# --- the rows of a layer


@inlined
def _put_states(s, places, kind, c, c_plane):
    """Where the states behind h are, in planes `c_plane` elements apart."""
    for k in range(s.others):
        _put(places, kind, k + 1, c + k * c_plane, width(c))


@inlined
def _put_h(s, places, h, h_prev, h_row, rows, u):
    """Where h before the step is: a copy, whose vectors are whole."""
    W = width(h)
    for r in range(rows):
        store(h + r * W, load_part(h_prev + (r * h_row + u * W), s.H - u * W))
    _put(places, _BEFORE, 0, h, W)


@helper
def run_forward(s, a, which, u, c_prev, c, c_plane, h_prev, h_row, out, out_row, rows, z):
    """Run `FORWARD` or `MIDDLE` for up to `ROWS` rows of units u W and on.

    Parameters
    ----------
    c_prev, c, c_plane
        IN and OUT (K - 1, rows, W) the states behind h before and after the step; may be one place.
    h_prev, h_row
        IN the rows of h before the step, without padding.
    out, out_row
        OUT the rows of h, or of m.
    z
        INOUT the first slot of the first row: sums in, the tape out.
    """
    W = width(z)
    places, h, found = stack(a.code, _TABLE), stack(z, ROWS), stack(z, ROWS)
    for slot in range(s.slots):
        _put(places, _SLOT, slot, z + slot * W, s.slots * W)
    _put_states(s, places, _BEFORE, c_prev, c_plane)
    _put_states(s, places, _AFTER, c, c_plane)
    _put_h(s, places, h, h_prev, h_row, rows, u)
    _put(places, _AFTER, 0, found, W)
    _put(places, _MIDDLE, 0, found, W)
    _call(a.code, which, places, a.constants, a.unit, s.H, u, rows)
    for r in range(rows):
        store_part(out + (r * out_row + u * W), load(found + r * W), s.H - u * W)


@helper
def run_backward(
    s, a, which, u, c_prev, c, c_plane, h_prev, h_row, dh, dh_row, carry, carry_plane, dm, dm_row, rows, z
):
    """Run `BACKWARD` or `MIDDLE_BACK` for up to `ROWS` rows of units u W and on.

    Parameters
    ----------
    c_prev, c, c_plane, h_prev, h_row
        IN as in `run_forward`.
    dh, dh_row
        INOUT the gradient of h; out what bypasses the products, if the cell reads h.
    carry, carry_plane
        INOUT (K - 1, rows, W) the gradients of the other states.
    dm, dm_row
        IN the gradient of m.
    z
        INOUT the first slot of the first row: the tape in, the gradients of the sums out.
    """
    W = width(z)
    places, h = stack(a.code, _TABLE), stack(z, ROWS)
    for slot in range(s.slots):
        _put(places, _SLOT, slot, z + slot * W, s.slots * W)
    _put_states(s, places, _BEFORE, c_prev, c_plane)
    _put_states(s, places, _AFTER, c, c_plane)
    _put_states(s, places, _GRADIENT, carry, carry_plane)
    _put_h(s, places, h, h_prev, h_row, rows, u)
    _put(places, _GRADIENT, 0, dh, dh_row)
    _put(places, _MIDDLE, 0, dm, dm_row)
    _call(a.code, which, places, a.constants, a.unit, s.H, u, rows)
    count = s.H - u * W
    if count < W:  # lanes that stand for no unit must be zero: the products run over them
        for i in range(rows):
            for slot in range(s.slots):
                place = z + (i * s.slots + slot) * W
                store(place, first(load(place), count))


# --- compiled programs


class Compiled(NamedTuple):
    """A cell's programs as kernels read them."""

    code: Array  # (words,) intp: see `_INSTRUCTIONS`
    constants: Array  # (count, W)
    shape: Shape


_compiled: WeakKeyDictionary[Cell, dict[np.dtype[Any], Compiled]] = WeakKeyDictionary()


def compile_program(cell: Cell, dtype: np.dtype[Any]) -> Compiled:
    """The programs of a written cell that `why_not_program` has nothing against, made once."""
    of_dtypes = _compiled.setdefault(cell, {})
    if dtype not in of_dtypes:
        of_dtypes[dtype] = _compile(cell, dtype)
    return of_dtypes[dtype]


def _compile(cell: Cell, dtype: np.dtype[Any]) -> Compiled:
    p = cell.program
    assert p is not None
    numbers = p.constants
    backward = p.backward
    if p.m_gates and not p.reads_h:  # then it leaves the gradient of h as it was for `MIDDLE_BACK`
        zero = Operand(Kind.CONSTANT, len(numbers))
        numbers = (*numbers, 0.0)
        backward = (*backward, Instruction(Op.COPY, Operand(Kind.GRADIENT, 0), zero, zero, zero))
    programs = p.forward, backward, p.middle, p.middle_back
    starts = np.cumsum([_INSTRUCTIONS] + [5 * len(program) for program in programs])
    header = [_interpreter(dtype).address, len(numbers), p.registers, p.units, *starts]
    instructions = [word for program in programs for op, *operands in program for word in (op, *map(_place, operands))]
    code = np.array([*header, *instructions], np.intp)
    constants = np.repeat(np.array(numbers, dtype)[:, None], lanes(dtype), axis=1)
    used = [operand.index + 1 for program in programs for i in program for operand in i[1:] if operand[0] == Kind.SLOT]
    of_h = sorted(p.h_gates + p.m_gates)
    shape = Shape(
        cell=PROGRAM,
        slots=max(p.slots + p.units, *used),
        units=1,
        sums=p.slots,
        x_slots=len(p.x_gates),
        x_gates=_packed(sorted(p.x_gates).index(g) for g in p.x_gates),
        h_first=p.slots - len(p.h_gates),
        h_slots=len(p.h_gates),
        h_gates=_packed(of_h.index(g) for g in p.h_gates),
        m_slots=len(p.m_gates),
        m_gates=_packed(of_h.index(g) for g in p.m_gates),
        parameters=p.units,
        others=p.states - 1,
        carries=p.states if p.reads_h or p.m_gates else p.states - 1,
    )
    return Compiled(code, constants, shape)


def _packed(gates: Iterator[int]) -> int:
    """The gates of some slots, four bits each, as one signed number of 64 bits."""
    number = sum(gate << 4 * slot for slot, gate in enumerate(gates))
    return number - (number >> 63 << 64)


def _place(operand: Operand) -> int:
    """Where the table of places has an operand."""
    return 2 * (operand[0] * _PLACES + operand[1])


# What a program may have: what others add to `Program` is refused by name until it is done here.
_FIELDS = {"x_gates", "h_gates", "slots", "states", "units", "reads_h", "constants", "registers", "room", "m_gates"}
_FIELDS |= {"forward", "backward", "inside", "middle", "middle_back"}


def why_not_program(cell: Cell) -> str | None:
    """What in a written cell's program the Numba backend does not run, if anything."""
    program = cell.program
    assert program is not None
    for field, value in program._asdict().items():
        if field not in _FIELDS and value:
            return f"its program has {field}"
    for instruction in (*program.forward, *program.backward, *program.middle, *program.middle_back):
        if instruction.op not in OPERATIONS:
            return f"its program has the operation {instruction.op.name}"
        for operand in instruction[1:]:
            if operand[1] >= _PLACES - (operand[0] == Kind.CONSTANT):  # one of which may be added
                return f"its program has {operand[0].name} {operand[1]}, and may have less than {_PLACES} of a kind"
    fed = max(map(len, (program.x_gates, program.h_gates, program.m_gates)))
    return f"{fed} of its sums come of one product, and {_MOST_FED} may" if fed > _MOST_FED else None


# --- what `trace` shows


def evaluate_inside(
    cell: Cell, slots: Sequence[Array], before: Sequence[Array], after: Sequence[Array], unit: Array | None
) -> list[Array]:
    """Each gate of all rows, (R, H), by the program `inside`. NumPy runs it: a trace has time for that.

    Parameters
    ----------
    slots
        What the tape holds (R, H).
    before, after
        The states of each row, (R, H).
    unit
        (M, H) the cell's own parameters.
    """
    program = cell.program
    assert program is not None
    values = {Kind.SLOT: slots, Kind.BEFORE: before, Kind.AFTER: after, Kind.UNIT: () if unit is None else unit}
    values[Kind.CONSTANT] = np.array(program.constants, slots[0].dtype)
    known = {Operand(kind, index): value for kind, its in values.items() for index, value in enumerate(its)}
    with np.errstate(all="ignore"):
        for op, out, *operands in program.inside:
            function = EVALUATE[op]
            count = function.nin if isinstance(function, np.ufunc) else function.__code__.co_argcount
            known[out] = function(*[known[operand] for operand in operands[:count]])
    shown = [known[Operand(Kind.SHOWN, gate)] for gate in range(len(cell.gates))]
    return [np.array(np.broadcast_to(value, slots[0].shape)) for value in shown]


# --- operations on their own, for the tests


@kernel
def _apply(code, out, a, b, c, rows, watch):
    """Run a program of one instruction, which turns the slots 1 to 3 into slot 0, on `rows` vectors."""
    W = width(out)
    places = stack(code, _TABLE)
    setting = begin(0, watch)
    for r in range(0, rows, ROWS):
        _put(places, _SLOT, 0, out + r * W, W)
        _put(places, _SLOT, 1, a + r * W, W)
        _put(places, _SLOT, 2, b + r * W, W)
        _put(places, _SLOT, 3, c + r * W, W)
        _call(code, FORWARD, places, out, out, 0, 0, min(ROWS, rows - r))
    finish(watch, 1, 0, 0, watch, setting)


def activation(name: str, a: Array, b: Array | None = None, c: Array | None = None) -> Array:
    """Return what an operation makes of a, b and c as programs compute it.

    `name` is that of `fastrnn.cells.program.Op`, in small letters; b and c are a where they are None.
    """
    dtype, W = a.dtype, lanes(a.dtype)
    rows = -(-a.size // W)
    padded = np.zeros((4, rows * W), dtype)
    for values, operand in zip(padded[1:], (a, a if b is None else b, a if c is None else c), strict=True):
        values[: a.size] = operand.ravel()
    places = [_place(Operand(Kind.SLOT, slot)) for slot in range(4)]
    starts = [_INSTRUCTIONS, *[_INSTRUCTIONS + 5] * (_INSTRUCTIONS - _STARTS - 1)]
    code = np.array([_interpreter(dtype).address, 0, 0, 0, *starts, Op[name.upper()], *places], np.intp)
    word, real = Pointer(types.intp), Pointer(numba.from_dtype(dtype))
    signature = (word, real, real, real, real, types.intp, Pointer(SYNC))
    _apply.compile(signature)
    _apply.get_overload(signature)(code, *padded, rows, new_watch())
    return padded[0, : a.size].reshape(a.shape)
