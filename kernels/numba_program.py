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
import itertools
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
    splat,
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
    "BesideX",
    "Compiled",
    "activation",
    "compile_program",
    "evaluate_inside",
    "run_backward",
    "run_forward",
    "run_phases",
    "run_phases_back",
    "run_take",
    "run_take_back",
    "why_not_program",
]

ROWS = 12  # that share an instruction: their registers stay in the first-level cache
# The programs of a cell that kernels run; from the last one on come those of `Program.all_phases`, two of each: on the
# values of a row, and on its units.
FORWARD, BACKWARD, MIDDLE, MIDDLE_BACK, TAKE, TAKE_BACK, PHASES = range(7)

_PLACES = 48  # of each kind of operand
_EXTRAS = 8  # values beside x, at the most
_TABLE = 2 * len(Kind) * _PLACES * 8 // VECTOR_BYTES  # vectors of integers
_SCRATCH = ROWS * _PLACES  # vectors
_BESIDE = ROWS * _EXTRAS
_REGISTER, _SLOT, _BEFORE, _AFTER = map(int, (Kind.REGISTER, Kind.SLOT, Kind.BEFORE, Kind.AFTER))
_GRADIENT, _UNIT, _CONSTANT, _MIDDLE = map(int, (Kind.GRADIENT, Kind.UNIT, Kind.CONSTANT, Kind.MIDDLE))
_EXTRA, _INTO_EXTRA, _TAKEN, _ROW, _SUM = map(int, (Kind.EXTRA, Kind.INTO_EXTRA, Kind.TAKEN, Kind.ROW, Kind.SUM))

# Words of `Compiled.code`: the interpreter's address, three numbers, where the means of the phases stand, where each of
# the programs starts, and where the last one ends; then instructions of five words, whose operands are indices into the
# table of places; then of each phase how many means it begins with and which of the row's values they become.
_CONSTANTS, _REGISTERS, _PARAMETERS, _MEANS, _STARTS = 1, 2, 3, 4, 5
_OF_A_PHASE = 1 + _PLACES  # words

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
    _put_copy(s, places, _BEFORE, h, h_prev, h_row, rows, u)


@inlined
def _put_copy(s, places, kind, copy, h, h_row, rows, u):
    """Where h is, as a state of that kind."""
    W = width(copy)
    for r in range(rows):
        store(copy + r * W, load_part(h + (r * h_row + u * W), s.H - u * W))
    _put(places, kind, 0, copy, W)


@inlined
def _put_extras(s, a, places, copies, n, row, rows, u):
    """What is given beside x to batch rows n and on, which begin with a row of all: copies, whose vectors are whole."""
    W = width(copies)
    for e in range(a.beside[0] if a.beside else 0):
        given = a.beside + (2 + 3 * e)
        columns, to = given[1], copies + e * ROWS * W
        values = at_address(copies, given[0]) + (n if given[2] else row) * columns
        for r in range(rows):
            if columns == 1:
                store(to + r * W, splat(to, values[r]))
            else:
                store(to + r * W, load_part(values + (r * columns + u * W), s.H - u * W))
        _put(places, _EXTRA, e, to, W)


@inlined
def _put_into_extras(s, a, places, like, row, u):
    """Where the gradients of extras go, in rows of whole vectors."""
    W = width(like)
    for e in range(a.beside[1] if a.beside else 0):
        to = at_address(like, a.beside[2 + 3 * a.beside[0] + e]) + (row * s.blocks + u) * W
        _put(places, _INTO_EXTRA, e, to, s.blocks * W)


@helper
def run_take(s, a, u, h_prev, h_row, n, row, rows, out):
    """Run `TAKE` for up to `ROWS` rows of units u W and on.

    Parameters
    ----------
    h_prev, h_row
        IN the rows of h before the step, without padding.
    n, row
        Of the first: its place in the batch, and among the rows of all steps.
    out
        OUT (rows, H) what the recurrent product takes.
    """
    W = width(out)
    places, h, found, copies = stack(a.code, _TABLE), stack(out, ROWS), stack(out, ROWS), stack(out, _BESIDE)
    _put_h(s, places, h, h_prev, h_row, rows, u)
    _put_extras(s, a, places, copies, n, row, rows, u)
    _put(places, _TAKEN, 0, found, W)
    _call(a.code, TAKE, places, a.constants, a.unit, s.H, u, rows)
    for r in range(rows):
        store_part(out + (r * s.H + u * W), load(found + r * W), s.H - u * W)


@helper
def run_take_back(s, a, u, h_prev, h_row, n, row, rows, dtaken, dtaken_row, z):
    """Run `TAKE_BACK` for up to `ROWS` rows of units u W and on: as `run_take`, and

    Parameters
    ----------
    dtaken, dtaken_row
        INOUT the gradient of what was taken; out that of h.
    z
        INOUT the first slot of the first row: gradients of parameters are added to.
    """
    W = width(z)
    places, h, copies = stack(a.code, _TABLE), stack(z, ROWS), stack(z, _BESIDE)
    for slot in range(s.slots):
        _put(places, _SLOT, slot, z + slot * W, s.slots * W)
    _put_h(s, places, h, h_prev, h_row, rows, u)
    _put_extras(s, a, places, copies, n, row, rows, u)
    _put_into_extras(s, a, places, z, row, u)
    _put(places, _TAKEN, 0, dtaken, dtaken_row)
    _call(a.code, TAKE_BACK, places, a.constants, a.unit, s.H, u, rows)


@helper
def run_forward(s, a, which, u, c_prev, c, c_plane, h_prev, h_row, n, row, out, out_row, rows, z):
    """Run `FORWARD` or `MIDDLE` for up to `ROWS` rows of units u W and on.

    Parameters
    ----------
    c_prev, c, c_plane
        IN and OUT (K - 1, rows, W) the states behind h before and after the step; may be one place.
    h_prev, h_row, n, row
        IN as in `run_take`.
    out, out_row
        OUT the rows of h, or of m.
    z
        INOUT the first slot of the first row: sums in, the tape out.
    """
    W = width(z)
    places, h, found, copies = stack(a.code, _TABLE), stack(z, ROWS), stack(z, ROWS), stack(z, _BESIDE)
    for slot in range(s.slots):
        _put(places, _SLOT, slot, z + slot * W, s.slots * W)
    _put_states(s, places, _BEFORE, c_prev, c_plane)
    _put_states(s, places, _AFTER, c, c_plane)
    _put_h(s, places, h, h_prev, h_row, rows, u)
    _put_extras(s, a, places, copies, n, row, rows, u)
    _put(places, _AFTER, 0, found, W)
    _put(places, _MIDDLE, 0, found, W)
    _call(a.code, which, places, a.constants, a.unit, s.H, u, rows)
    for r in range(rows):
        store_part(out + (r * out_row + u * W), load(found + r * W), s.H - u * W)


@helper
def run_backward(
    s, a, which, u, c_prev, c, c_plane, h_prev, h_row, n, row, dh, dh_row, carry, carry_plane, dm, dm_row, rows, z
):
    """Run `BACKWARD` or `MIDDLE_BACK` for up to `ROWS` rows of units u W and on.

    Parameters
    ----------
    c_prev, c, c_plane, h_prev, h_row, n, row
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
    places, h, y, copies = stack(a.code, _TABLE), stack(z, ROWS), stack(z, ROWS), stack(z, _BESIDE)
    for slot in range(s.slots):
        _put(places, _SLOT, slot, z + slot * W, s.slots * W)
    for m in range(s.parameters if s.adds_up else 0):
        for r in range(rows):
            store(z + (r * s.slots + s.own + m) * W, splat(z, 0.0))
    _put_states(s, places, _BEFORE, c_prev, c_plane)
    _put_states(s, places, _AFTER, c, c_plane)
    _put_states(s, places, _GRADIENT, carry, carry_plane)
    _put_h(s, places, h, h_prev, h_row, rows, u)
    if s.reads_y:
        y_row = s.H if a.hr else s.y_row
        _put_copy(s, places, _AFTER, y, (a.u if a.hr else a.y) + row * y_row, y_row, rows, u)
    _put_extras(s, a, places, copies, n, row, rows, u)
    _put_into_extras(s, a, places, z, row, u)
    _put(places, _GRADIENT, 0, dh, dh_row)
    _put(places, _MIDDLE, 0, dm, dm_row)
    _call(a.code, which, places, a.constants, a.unit, s.H, u, rows)
    _clear_missing(s, u, rows, z)


@inlined
def _clear_missing(s, u, rows, z):
    """Zero lanes that stand for no unit: the products run over them."""
    W = width(z)
    count = s.H - u * W
    if count < W:
        for i in range(rows):
            for slot in range(s.slots):
                place = z + (i * s.slots + slot) * W
                store(place, first(load(place), count))


# --- programs in phases, between which rows are summed up


@inlined
def _kept(s, a, n, row):
    """The values of batch row n that are kept for m or with the tape; `row` is its place among those of all."""
    return a.values + (row if s.tape else n) * s.row_values


@helper
def _keep_values(s, a, n, row, rows, values):
    """Keep the values of some rows."""
    W = width(values)
    for r in range(rows):
        for k in range(s.row_values):
            _kept(s, a, n + r, row + r)[k] = values[(k * ROWS + r) * W]


@helper
def _recall_values(s, a, n, row, rows, values):
    """The inverse, in all lanes of a vector."""
    W = width(values)
    for r in range(rows):
        for k in range(s.row_values):
            store(values + (k * ROWS + r) * W, splat(values, _kept(s, a, n + r, row + r)[k]))


@inlined
def _put_rows(places, values, sums):
    """Where the values of rows, and their sums, are: a vector for each of `ROWS` rows."""
    W = width(values)
    for k in range(_PLACES):
        _put(places, _ROW, k, values + k * ROWS * W, W)
        _put(places, _SUM, k, sums + k * ROWS * W, W)


@helper
def _begin_phase(s, a, phase, last, places, values, sums, rows):
    """From the sums of the phase before to the values of the rows; sums := 0. Return how many sums there are to be.

    A mean is one chain over the lanes of a sum.
    """
    W = width(values)
    means = a.code + (a.code[_MEANS] + phase * _OF_A_PHASE)
    for j in range(means[0]):
        for r in range(rows):
            lanes_of = sums + (j * ROWS + r) * W
            total = lanes_of[0]
            for lane in range(1, W):
                total = total + lanes_of[lane]
            store(values + (means[1 + j] * ROWS + r) * W, splat(values, total / s.H))
    _call(a.code, PHASES + 2 * phase, places, a.constants, a.unit, s.H, 0, rows)
    coming = 0 if last else means[_OF_A_PHASE]
    for j in range(coming):
        for r in range(rows):
            store(sums + (j * ROWS + r) * W, splat(sums, 0.0))
    return coming


@helper
def _run_phase(s, a, phase, places, sums, coming, u, rows):
    """A phase's program on units u W and on. Each lane of a sum is one chain over them, save those that are no unit."""
    W = width(sums)
    count, kept = s.H - u * W, stack(sums, _SCRATCH)
    for i in range(0, coming * ROWS * W if count < W else 0, W):
        store(kept + i, load(sums + i))
    _call(a.code, PHASES + 2 * phase + 1, places, a.constants, a.unit, s.H, u, rows)
    for i in range(0, coming * ROWS * W if count < W else 0, W):
        found = load(sums + i)
        store(sums + i, load(kept + i))
        store_part(sums + i, found, count)


@helper
def run_phases(s, a, step, to_m, before, n, rows, c_row, z, out, out_row):
    """Run the phases of up to `ROWS` rows of a step, from batch row n on.

    Parameters
    ----------
    to_m
        Whether up to m, whose product is still to come; or the others, which are all where there is none.
    before
        Of the step before, see `numba_steps.previous`.
    c_row
        Where the first row's states are among those of a unit vector.
    z
        INOUT the first slot of the first row in block 0: sums in, the tape out.
    out, out_row
        OUT the rows of h, or of m.
    """
    W = width(z)
    places, h, found, copies = stack(a.code, _TABLE), stack(z, ROWS), stack(z, ROWS), stack(z, _BESIDE)
    values, sums = stack(z, _SCRATCH), stack(z, _SCRATCH)
    c_rows = s.N + s.R if s.tape else s.N
    plane, row = s.blocks * c_rows * W, step.row + n
    _put_rows(places, values, sums)
    if s.m_slots and not to_m:
        _recall_values(s, a, n, row, rows, values)
    end = s.phases_middle + (0 if to_m else s.phases)
    for phase in range(0 if to_m else s.phases_middle, end):
        last = phase + 1 == end
        coming = _begin_phase(s, a, phase, last, places, values, sums, rows)
        for u in range(s.blocks):
            for slot in range(s.slots):
                _put(places, _SLOT, slot, z + (u * s.block_stride + slot * W), s.slots * W)
            _put_states(s, places, _BEFORE, a.c + (u * c_rows + before.c_row + n) * W, plane)
            _put_states(s, places, _AFTER, a.c + (u * c_rows + c_row) * W, plane)
            _put_h(s, places, h, before.h + n * before.h_row, before.h_row, rows, u)
            _put_extras(s, a, places, copies, n, row, rows, u)
            whole = s.H - u * W >= W  # only the last vector is not; what any phase leaves there stays until the end
            if whole:
                _put(places, _MIDDLE if to_m else _AFTER, 0, out + u * W, out_row)
            else:
                _put(places, _MIDDLE if to_m else _AFTER, 0, found, W)
            _run_phase(s, a, phase, places, sums, coming, u, rows)
            if last and not whole:
                for r in range(rows):
                    store_part(out + (r * out_row + u * W), load(found + r * W), s.H - u * W)
    if s.tape or s.m_slots:
        _keep_values(s, a, n, row, rows, values)


@helper
def run_phases_back(s, a, step, to_m, before, n, rows, z, dh, dh_row, dm, dm_row, carry, carry_row):
    """Run phases of backward likewise, those back to m or the others.

    Parameters
    ----------
    z
        INOUT as in `run_phases`: the tape in, the gradients of the sums out.
    dh, dh_row
        INOUT as in `run_backward`, of unit vector 0, if `carry` has none of h's.
    dm, dm_row
        IN likewise the gradient of m, which `to_m` does not read.
    carry, carry_row
        INOUT the first row's, of unit vector 0, and from one of them to the next: that of h, if it is bypassed, and
        those of the other states.
    """
    W = width(z)
    places, h, copies = stack(a.code, _TABLE), stack(z, ROWS), stack(z, _BESIDE)
    values, sums = stack(z, _SCRATCH), stack(z, _SCRATCH)
    c_rows, bypasses, row = s.N + s.R, s.carries > s.others, step.row + n
    plane, carry_plane = s.blocks * c_rows * W, s.blocks * carry_row
    _put_rows(places, values, sums)
    _recall_values(s, a, n, row, rows, values)
    for r in range(rows):
        for u in range(s.blocks):
            for m in range(s.parameters):
                store(z + (u * s.block_stride + (r * s.slots + s.own + m) * W), splat(z, 0.0))
    first_back = s.phases_middle + s.phases + (0 if to_m else s.phases_middle_back)
    end = first_back + (s.phases_middle_back if to_m else s.phases_back)
    for phase in range(first_back, end):
        last = phase + 1 == end
        coming = _begin_phase(s, a, phase, last, places, values, sums, rows)
        for u in range(s.blocks):
            its = z + u * s.block_stride
            for slot in range(s.slots):
                _put(places, _SLOT, slot, its + slot * W, s.slots * W)
            _put_states(s, places, _BEFORE, a.c + (u * c_rows + before.c_row + n) * W, plane)
            _put_states(s, places, _AFTER, a.c + (u * c_rows + s.N + row) * W, plane)
            states = carry + (u * carry_row + (carry_plane if bypasses else 0))
            _put_states(s, places, _GRADIENT, states, carry_plane)
            if bypasses:
                _put(places, _GRADIENT, 0, carry + u * carry_row, W)
            else:
                _put(places, _GRADIENT, 0, dh + u * W, dh_row)
            _put_h(s, places, h, before.h + n * before.h_row, before.h_row, rows, u)
            _put_extras(s, a, places, copies, n, row, rows, u)
            _put_into_extras(s, a, places, z, row, u)
            _put(places, _MIDDLE, 0, dm + u * W, dm_row)
            _run_phase(s, a, phase, places, sums, coming, u, rows)
            if last:
                _clear_missing(s, u, rows, its)
    if to_m:
        _keep_values(s, a, n, row, rows, values)


# --- compiled programs


class BesideX(NamedTuple):
    """What a layer is given beside x, for kernels."""

    words: Array  # two counts; of each extra its address, columns, and whether it is by sequence; addresses of `into`
    extra: tuple[Array, ...]  # which the words point to
    into: tuple[Array, ...]  # OUT (R, whole vectors) gradients

    @classmethod
    def of(cls, cell: Cell, extra: tuple[Array, ...], into: tuple[Array, ...] = ()) -> BesideX | None:
        """That of a call on a cell; None without any."""
        if not extra:
            return None
        assert cell.program is not None
        words = [len(extra), len(into)]
        for array, of_sequence in zip(extra, cell.program.extras, strict=True):
            words += [array.ctypes.data, array.shape[1], of_sequence]
        return cls(np.array([*words, *[array.ctypes.data for array in into]], np.intp), extra, into)


class Compiled(NamedTuple):
    """A cell's programs as kernels read them."""

    code: Array  # (words,) intp: see `_MEANS`
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
    if p.middle_back and not p.reads_h:  # then it leaves the gradient of h as it was for that
        zero = Operand(Kind.CONSTANT, len(numbers))
        numbers = (*numbers, 0.0)
        backward = (*backward, Instruction(Op.COPY, Operand(Kind.GRADIENT, 0), zero, zero, zero))
    phases = p.all_phases
    # where the gradients of the cell's own parameters are: rows are summed up later
    own = p.room if p.adds_up else p.slots
    programs = [p.forward, backward, p.middle, p.middle_back, p.take, p.take_back]
    programs += [code for phase in phases for code in (phase.of_row, phase.of_units)]
    programs = [_with_own_in_slots(code, own) for code in programs]
    starts = np.cumsum([_STARTS + len(programs) + 1] + [5 * len(program) for program in programs])
    header = [_interpreter(dtype).address, len(numbers), p.registers, p.seen_units, starts[-1], *starts]
    instructions = [word for program in programs for op, *operands in program for word in (op, *map(_place, operands))]
    means = np.zeros((len(phases), _OF_A_PHASE), np.intp)
    for its, phase in zip(means, phases, strict=True):
        its[: 1 + len(phase.means)] = len(phase.means), *phase.means
    code = np.array([*header, *instructions, *means.ravel()], np.intp)
    constants = np.repeat(np.array(numbers, dtype)[:, None], lanes(dtype), axis=1)
    used = [operand.index + 1 for program in programs for i in program for operand in i[1:] if operand[0] == Kind.SLOT]
    of_h = sorted(p.h_gates + p.m_gates)
    shape = Shape(
        cell=PROGRAM,
        slots=max([own + p.seen_units, *used]),
        units=1,
        sums=p.slots,
        x_slots=len(p.x_gates),
        x_gates=_packed(sorted(p.x_gates).index(g) for g in p.x_gates),
        h_first=p.h_first,
        h_slots=len(p.h_gates),
        h_gates=_packed(of_h.index(g) for g in p.h_gates),
        m_first=p.m_first,
        m_slots=len(p.m_gates),
        m_gates=_packed(of_h.index(g) for g in p.m_gates),
        parameters=p.seen_units,
        others=p.states - 1,
        carries=p.states if p.reads_h or p.middle_back else p.states - 1,
        own=own,
        adds_up=p.adds_up,
        reads_y=any(Operand(Kind.AFTER, 0) in i[2:] for i in (*backward, *p.middle_back)),
        takes=len(p.take) > 0,
        phases_middle=len(p.phases_middle),
        phases=len(p.phases),
        phases_middle_back=len(p.phases_middle_back),
        phases_back=len(p.phases_back),
        row_values=p.row_values,
    )
    return Compiled(code, constants, shape)


def _with_own_in_slots(code: Sequence[Instruction], own: int) -> list[Instruction]:
    """The same with the gradients of parameters in slots from `own` on, of each row, in place of sums of rows."""

    def moved(operand: Operand) -> Operand:
        return Operand(Kind.SLOT, own + operand[1]) if operand[0] == Kind.OWN else operand

    return [Instruction(op, *map(moved, operands)) for op, *operands in code]


def _packed(gates: Iterator[int]) -> int:
    """The gates of some slots, four bits each, as one signed number of 64 bits."""
    number = sum(gate << 4 * slot for slot, gate in enumerate(gates))
    return number - (number >> 63 << 64)


def _place(operand: Operand) -> int:
    """Where the table of places has an operand."""
    return 2 * (operand[0] * _PLACES + operand[1])


# What a program may have: what others add to `Program` is refused by name until it is done here.
_FIELDS = {"x_gates", "h_gates", "m_gates", "m_first", "slots", "states", "units", "reads_h", "constants", "registers"}
_FIELDS |= {"forward", "backward", "inside", "middle", "middle_back", "take", "take_back", "seen_units", "extras"}
_FIELDS |= {"phases", "phases_back", "phases_middle", "phases_middle_back", "row_values", "room", "into_extras"}


def why_not_program(cell: Cell) -> str | None:
    """What in a written cell's program the Numba backend does not run, if anything."""
    program = cell.program
    assert program is not None
    for field, value in program._asdict().items():
        if field not in _FIELDS and value:
            return f"its program has {field}"
    codes = [program.forward, program.backward, program.middle, program.middle_back, program.take, program.take_back]
    for phase in program.all_phases:
        codes += [phase.of_row, phase.of_units]
    if program.room + program.seen_units > _PLACES:
        return f"it keeps {program.room} values, and has {program.seen_units} of parameters, and {_PLACES} may be"
    if len(program.extras) > _EXTRAS:
        return f"it is given {len(program.extras)} values beside x, and {_EXTRAS} may be"
    for instruction in itertools.chain(*codes):
        if instruction.op not in OPERATIONS:
            return f"its program has the operation {instruction.op.name}"
        for operand in instruction[1:]:
            if operand[1] >= _PLACES - (operand[0] == Kind.CONSTANT):  # one of which may be added
                return f"its program has {operand[0].name} {operand[1]}, and may have less than {_PLACES} of a kind"
    fed = max(map(len, (program.x_gates, program.h_gates, program.m_gates)))
    return f"{fed} of its sums come of one product, and {_MOST_FED} may" if fed > _MOST_FED else None


# --- what `trace` shows


def evaluate_inside(
    cell: Cell,
    slots: Sequence[Array],
    before: Sequence[Array],
    after: Sequence[Array],
    unit: Array | None,
    extra: Sequence[Array] = (),
    row_values: Sequence[Array] = (),
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
    extra, row_values
        What each row is given beside x, (R, W), and its values of forward, (R, 1).
    """
    program = cell.program
    assert program is not None
    values = {Kind.SLOT: slots, Kind.BEFORE: before, Kind.AFTER: after, Kind.UNIT: () if unit is None else unit}
    values |= {Kind.EXTRA: extra, Kind.ROW: row_values}
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
    start = _STARTS + 2
    code = np.array([_interpreter(dtype).address, 0, 0, 0, 0, start, start + 5, Op[name.upper()], *places], np.intp)
    word, real = Pointer(types.intp), Pointer(numba.from_dtype(dtype))
    signature = (word, real, real, real, real, types.intp, Pointer(SYNC))
    _apply.compile(signature)
    _apply.get_overload(signature)(code, *padded, rows, new_watch())
    return padded[0, : a.size].reshape(a.shape)
