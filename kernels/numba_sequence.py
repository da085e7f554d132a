"""The Numba backend: `fastrnn.reference`'s sequence forward and backward for any CPU that LLVM knows.

Here are the calls: what is allocated and how the work is split. `numba_forward` and `numba_backward` run it.

Every element of a result is one chain of fused multiply-adds in one fixed order, or for the gradients of weights the
sum of one for each piece of up to 128 rows, so results are the same bits for any split of the rows, of the units or of
time, and for any number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from fastrnn.cells import Cell, State, Weights
from fastrnn.kernels.numba_backward import BackwardArrays, backward_kernel, buffer_sizes
from fastrnn.kernels.numba_cells import CELL_IDS, GRU
from fastrnn.kernels.numba_forward import PROJECTION_SCRATCH, ForwardArrays, forward_kernel
from fastrnn.kernels.numba_layout import Shape, Sizes, projection, shape_of
from fastrnn.kernels.numba_options import CPU, VECTOR_BYTES, lanes
from fastrnn.kernels.numba_pack import CHUNK
from fastrnn.kernels.numba_program import BesideX, compile_program, evaluate_inside, why_not_program
from fastrnn.kernels.numba_steps import table_size
from fastrnn.kernels.numba_threads import SYNC, new_watch, run
from fastrnn.kernels.numba_vector import Pointer
from fastrnn.parameters import Array
from fastrnn.threads import flops_worth_a_thread, usable_threads, why_no_flops

__all__ = [
    "backward",
    "describe",
    "explain",
    "forward",
    "gates",
    "keep",
    "kept_sizes",
    "pack",
    "recall",
    "why_not_program",
    "why_not_runnable",
]

TAKES_PREPARED = True  # in place of a cell's own parameters what its programs see


def describe() -> str:
    """What this backend is, for `fastrnn.info`."""
    return f"numba {numba.__version__}, {CPU}, vectors of {8 * VECTOR_BYTES} bits"


def why_not_runnable() -> str | None:
    """Nothing, where Numba compiles at all: LLVM makes the kernels for the CPU it finds."""
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set, so that Numba compiles nothing: unset it"
    return why_no_flops()


class Tape(NamedTuple):
    """What `forward` keeps for `backward`; it serves once, since the gates become gradients in place."""

    sizes: Sizes
    x: Array
    starts: Array | None
    weights: Weights
    h_0: Array
    y: Array
    z: Array
    c: Array | None
    u: Array | None
    taken: Array | None
    values: Array | None
    extra: tuple[Array, ...]


_FLOPS_WORTH_A_THREAD = flops_worth_a_thread(10_000_000)  # some 100 us of one core
_FLOPS_OF_PACKING = 40  # of a weight
_STREAMED = 1 << 23  # bytes of weights above which no cache near a core holds them
_ROWS_TO_STREAM = 8  # rows whose products take as long as reading the weights once from far away
_PROJECTED_BYTES = 1 << 19  # of the tape that are projected ahead at a time: they stay in the second-level cache
_LARGE = 1 << 21  # bytes of weights above which they are not in the second-level cache


@functools.cache
def _compiled(dispatcher: Any, arrays: type, dtype: np.dtype[Any]) -> Callable[..., None]:
    """Return the kernel for one dtype, from the disk if it has been compiled before."""
    real = Pointer(numba.from_dtype(dtype))
    integers = ("tokens", "starts", "table", "watch", "code", "beside")
    fields = [Pointer(types.intp) if field in integers else real for field in arrays._fields]
    sizes = types.NamedUniTuple(types.intp, len(Sizes._fields), Sizes)
    signature = (sizes, types.NamedTuple(fields, arrays), Pointer(SYNC), types.intp)
    dispatcher.compile(signature)
    return dispatcher.get_overload(signature)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _row_stride(rows: Array) -> int:
    """Elements between rows of (R, K) or (T, N, K), contiguous in the last axis and evenly apart."""
    return rows.strides[0 if rows.shape[-2] == 1 else -2] // rows.itemsize


def _split(
    T: int, N: int, weights: int, itemsize: int, num_threads: int, *, ready: bool = False
) -> tuple[int, bool, bool]:
    """Return how many threads, whether the weights are packed ahead, and whether threads share units or the batch.

    N is how many rows a step has on average, `weights` how many of them a row meets, and `ready` whether they are
    packed already.
    """
    large = weights * itemsize > _LARGE
    never = N == 1 and weights * itemsize > _STREAMED  # reading them in either order takes as long
    packed = ready or (not never and (8 if N == 1 else 4 if large else 2) < T)
    rows = N if packed else max(N, _ROWS_TO_STREAM)
    threads = num_threads if 2 * T * rows * weights > _FLOPS_WORTH_A_THREAD else 1
    few_rows = 4 * threads > N
    own_cache = N <= 32 and large  # then each thread's half of the weights may stay in its own cache
    return threads, packed, not packed or (threads > 1 and (few_rows or own_cache))


class ForwardPlan(NamedTuple):
    """How a forward call runs, and how many elements its buffers have."""

    sizes: Sizes
    threads: int
    z: int
    c: int
    u: int
    taken: int
    values: int
    panels: int
    hr_panels: int


def _shape(cell: Cell, H: int, dtype: np.dtype[Any]) -> Shape:
    """What follows from the cell, and for an RNN from its size."""
    if cell.program is not None:
        return compile_program(cell, dtype).shape
    return shape_of(CELL_IDS[cell.name], _ceil(H, lanes(dtype)))


def _programs(cell: Cell, dtype: np.dtype[Any]) -> tuple[Array | None, Array | None]:
    """The instructions and the constants of a written cell."""
    return (None, None) if cell.program is None else compile_program(cell, dtype)[:2]


def _layer_sizes(cell: Cell, weights: Weights) -> tuple[int, int, int]:
    """I, H and P."""
    H = len(weights.ih) // len(cell.gates_ih)
    P = H if weights.hr is None else len(weights.hr)
    return weights.ih.shape[1], H, P


@functools.lru_cache(4096)
def _plan_forward(
    shape: Shape,
    T: int,
    N: int,
    R: int,
    I: int,
    H: int,
    P: int,
    real: bool,
    dtype: np.dtype[Any],
    tape: bool,
    ready: bool,
    reverse: bool,
    y_row: int,
    num_threads: int,
) -> ForwardPlan:
    """Plan a call; `real` tells whether x is real input or tokens, `ready` whether the weights are packed already."""
    W = lanes(dtype)
    vectors = _ceil(H, W)
    slots, units = shape.slots, shape.units
    blocks = _ceil(vectors, units)
    columns = I if real or ready else min(I, R)
    of_h = shape.h_slots + shape.m_slots
    weights = blocks * W * (I * real * shape.x_slots + P * of_h)
    rows = _ceil(R, max(1, T))
    threads, packed, split_units = _split(T, rows, weights, dtype.itemsize, num_threads, ready=ready)
    projected = 0 if packed else T
    if packed and real and (rows < 5 or (rows < 16 and weights * dtype.itemsize > _LARGE) or H >= 768):
        projected = min(T, max(1, _PROJECTED_BYTES // max(1, N * blocks * slots * W * dtype.itemsize)))
    block_stride = (R if tape else max(1, projected) * N) * slots * W
    if block_stride * dtype.itemsize % 4096 == 0:
        block_stride += 6 * VECTOR_BYTES // dtype.itemsize  # else the blocks' rows would share few lines of the cache
    panel = columns * shape.x_slots + P * of_h if packed else CHUNK * max(shape.x_slots, of_h)
    panel = (slots + panel) * W
    sizes = Sizes(
        **shape._asdict(),
        T=T,
        N=N,
        R=R,
        I=I,
        H=H,
        P=P,
        blocks=blocks,
        block_stride=block_stride,
        columns=columns,
        reverse=reverse,
        tape=tape,
        packed=packed,
        ready=ready,
        split_units=split_units,
        projected=projected,
        scratch=panel,
        y_row=y_row,
        dy_row=0,
        add_dx=False,
        add=False,
    )
    projected_h = projection.py_func(sizes, W)
    return ForwardPlan(
        sizes,
        threads,
        z=blocks * block_stride + W,
        c=shape.others * vectors * (N + R if tape else N) * W,
        u=(R if tape else N) * H,
        taken=(R if tape else N) * H * shape.takes,
        values=(R if tape else N) * shape.row_values,
        panels=(blocks if packed else threads) * panel + W,
        hr_panels=projected_h.blocks * H * projected_h.slots * W + W,
    )


class Packed(NamedTuple):
    """A layer's weights in the order in which forward reads them."""

    panels: Array
    hr_panels: Array | None
    unit: Array | None
    I: int
    H: int
    P: int


def pack(cell: Cell, weights: Weights, *, num_threads: int) -> Packed:
    """Pack a layer's weights once for many calls of `forward`; the caller sees to it that they have not changed."""
    ih, hh, bias_ih, bias_hh, hr, unit = weights
    dtype, (I, H, P) = ih.dtype, _layer_sizes(cell, weights)
    plan = _plan_forward(_shape(cell, H, dtype), 0, 0, 0, I, H, P, True, dtype, False, True, False, P, 1)
    panels, z = np.empty(plan.panels, dtype), np.empty(plan.z, dtype)
    hr_panels = None if hr is None else np.empty(plan.hr_panels, dtype)
    arrays = ForwardArrays(
        x=z, tokens=None, starts=None, ih=ih, hh=hh, bias_ih=bias_ih, bias_hh=bias_hh, hr=hr, unit=None, code=None,
        constants=None, beside=None, h_0=z, c_0=z, y=z, h_n=z, c_n=z, z=z, c=z, u=None, taken=None, values=None,
        panels=panels, hr_panels=hr_panels, hr_scratch=None if hr is None else z, watch=new_watch(),
    )  # fmt: skip
    threads = usable_threads(num_threads) if panels.size * _FLOPS_OF_PACKING > _FLOPS_WORTH_A_THREAD else 1
    run(_compiled(forward_kernel, ForwardArrays, dtype), plan.sizes._replace(ready=False), arrays, threads)
    return Packed(panels, hr_panels, None if unit is None else unit.copy(), I, H, P)


def forward(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights | None,
    *,
    tape: bool,
    num_threads: int,
    packed: Packed | None = None,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    y: Array | None = None,
    extra: tuple[Array, ...] = (),
) -> tuple[Array, State, Tape | None]:
    """Run a cell over a sequence: `fastrnn.reference.forward`; without a tape, `packed` may replace the weights."""
    h_0 = state[0]
    dtype, N, T, real, starts = h_0.dtype, len(h_0), len(x), x.dtype.kind == "f", None
    R = T * N
    if batch_sizes is not None:
        R, T, starts = T, len(batch_sizes), _starts(batch_sizes)
    hr_panels = None
    if tape or packed is None:
        packed = None  # backward reads the weights themselves
        ih, hh, bias_ih, bias_hh, hr, unit = weights
        I, H, P = _layer_sizes(cell, weights)
    else:
        ih = hh = bias_ih = bias_hh = hr = None
        _, hr_panels, unit, I, H, P = packed
    if y is None:
        y, y_row = np.empty((T, N, P) if starts is None else (R, P), dtype), P
    else:
        y_row = _row_stride(y)
    threads = usable_threads(num_threads)
    shape = _shape(cell, H, dtype)
    plan = _plan_forward(shape, T, N, R, I, H, P, real, dtype, tape, packed is not None, reverse, y_row, threads)
    c_0 = c = c_n = u = hr_scratch = None
    if shape.others:
        c_0, c, c_n = _together(state[1:]), np.empty(plan.c, dtype), np.empty((shape.others, N, H), dtype)
    if hr is not None or hr_panels is not None:
        hr_scratch = np.empty((plan.threads * PROJECTION_SCRATCH + 1) * lanes(dtype), dtype)
        hr_panels = np.empty(plan.hr_panels, dtype) if packed is None else hr_panels
    if hr_panels is not None or shape.m_slots:
        u = np.empty(plan.u, dtype)
    taken = np.empty(plan.taken, dtype) if shape.takes else None
    values = np.empty(plan.values, dtype) if shape.phases and (tape or shape.m_slots) else None
    beside = BesideX.of(cell, extra)
    h_n, z = np.empty((N, P), dtype), np.empty(plan.z, dtype)
    panels = np.empty(plan.panels, dtype) if packed is None else packed.panels
    arrays = ForwardArrays(
        x if real else None, None if real else x, starts, ih, hh, bias_ih, bias_hh, hr, unit, *_programs(cell, dtype),
        beside and beside.words, h_0, c_0, y, h_n, c_n, z, c, u, taken, values, panels, hr_panels, hr_scratch,
        new_watch(),
    )  # fmt: skip
    run(_compiled(forward_kernel, ForwardArrays, dtype), plan.sizes, arrays, plan.threads)
    state_n = (h_n,) if c_n is None else (h_n, *c_n)
    if not tape:
        return y, state_n, None
    of_tape = y.view()  # the caller may give y another shape
    return y, state_n, Tape(plan.sizes, x, starts, weights, h_0, of_tape, z, c, u, taken, values, extra)


def _together(states: State) -> Array:
    """States as one array."""
    return states[0] if len(states) == 1 else np.stack(states)


def _starts(batch_sizes: Array) -> Array:
    """The row at which each step starts, and behind them their number."""
    starts = np.zeros(len(batch_sizes) + 1, np.intp)
    np.cumsum(batch_sizes, out=starts[1:])
    return starts


def explain(
    cell: Cell, weights: Weights, steps: int, batch: int, *, tokens: bool, tape: bool, packed: bool, num_threads: int
) -> dict[str, str]:
    """What `forward`, and after one with a tape `backward`, would choose for x of a size: a dict of words."""
    dtype, (I, H, P) = weights.ih.dtype, _layer_sizes(cell, weights)
    ready = packed and not tape
    threads = usable_threads(num_threads)
    plan = _plan_forward(
        _shape(cell, H, dtype), steps, batch, steps * batch, I, H, P, not tokens, dtype, tape, ready, False, P, threads
    )
    sizes, projected = plan.sizes, plan.sizes.projected
    product = f"multiply-adds of LLVM for {CPU}, vectors of {lanes(dtype)}"
    shared = f", sharing the {'hidden units' if sizes.split_units else 'batch'}" if plan.threads > 1 else ""
    before = "packed by an earlier call" if ready else "packed first"
    ahead = f"{projected} steps ahead" if projected else "step by step"
    chosen = {
        "threads": f"{plan.threads}{shared}",
        "weights": before if sizes.packed else "packed as each step goes",
        "input product": "columns of weight_ih, gathered" if tokens else f"{product}, {ahead}",
    }
    if cell.gates_hh:
        chosen["recurrent product"] = product
    if tape:
        chosen["weight gradients"] = product
    return chosen


class BackwardPlan(NamedTuple):
    """How a backward call runs, and how many elements its buffers have."""

    sizes: Sizes
    threads: int
    dh: int
    carry: int
    dh_rows: int
    du: int
    panels: int
    scratch: int
    sums: int
    table: int


@functools.lru_cache(4096)
def _plan_backward(
    sizes: Sizes,
    projected: bool,
    real: bool,
    dtype: np.dtype[Any],
    dy_row: int,
    add_dx: bool,
    add: bool,
    num_threads: int,
) -> BackwardPlan:
    """Plan the backward call for a forward call's sizes, with or without a projection."""
    W = lanes(dtype)
    T, N, R, I, H, P = sizes.T, sizes.N, sizes.R, sizes.I, sizes.H, sizes.P
    vectors = _ceil(H, W)
    h_panels, u_panels = _ceil(P, 4 * W), _ceil(H, 4 * W)
    projected_h = projection.py_func(sizes, W)
    columns = projected_h.blocks * projected_h.slots * W * projected
    of_h = sizes.h_slots + sizes.m_slots
    weights = 2 * sizes.blocks * W * (I * real * sizes.x_slots + P * of_h)  # met twice: by dh or dx, and by dW
    threads, packed, split_units = _split(T, _ceil(R, max(1, T)), weights, dtype.itemsize, num_threads)
    scratch, sums = buffer_sizes(sizes, real, columns, W)
    sizes = sizes._replace(
        packed=packed, split_units=split_units, scratch=scratch, dy_row=dy_row, add_dx=add_dx, add=add
    )
    return BackwardPlan(
        sizes,
        threads,
        dh=N * h_panels * 4 * W + W,
        carry=sizes.carries * vectors * N * W,
        dh_rows=projected_h.blocks * projected_h.block_stride + W,
        du=N * u_panels * 4 * W + W,
        panels=(h_panels * sizes.blocks * of_h * W + u_panels * columns) * 4 * W + W,
        scratch=threads * scratch + W,
        sums=sums + W,
        table=table_size(T, R),
    )


def backward(
    cell: Cell,
    tape: Tape,
    dy: Array | None,
    dstate: tuple[Array | None, ...],
    *,
    num_threads: int,
    dx: Array | None = None,
    dweights: Weights | None = None,
    rows: int | None = None,
    dextra: tuple[Array, ...] = (),
    dextra_add: bool = True,
) -> tuple[Array | None, State, Weights]:
    """Differentiate `forward`, which made `tape`: `fastrnn.reference.backward`. Sums are the same for any `rows`."""
    sizes, x, starts, (ih, hh, bias_ih, bias_hh, hr, unit), h_0, y, z, c, u, taken, values, extra = tape
    dtype, real = ih.dtype, x.dtype.kind == "f"
    dy_row = 0 if dy is None else _row_stride(dy)
    add = dweights is not None
    threads = usable_threads(num_threads)
    plan = _plan_backward(sizes, hr is not None, real, dtype, dy_row, dx is not None, add, threads)
    dh_n = dstate[0]
    dc_n = dc_0 = dh_rows = du = None
    if c is not None:
        shape = (sizes.N, sizes.H)
        if any(d is not None for d in dstate[1:]):
            dc_n = _together(tuple([np.zeros(shape, dtype) if d is None else d for d in dstate[1:]]))
        dc_0 = np.empty((sizes.others, *shape), dtype)
    carry = np.empty(plan.carry, dtype) if sizes.carries else None
    if hr is not None:
        dh_rows = np.empty(plan.dh_rows, dtype)
    if u is not None:
        du = np.empty(plan.du, dtype)
    if dweights is None:
        dweights = Weights(
            np.empty_like(ih) if sizes.columns == sizes.I else np.zeros_like(ih),
            None if hh is None else np.empty_like(hh),
            None if bias_ih is None else np.zeros(bias_ih.shape, dtype),
            None if bias_hh is None else np.zeros(bias_hh.shape, dtype),
            None if hr is None else np.empty_like(hr),
            None if unit is None else np.zeros(unit.shape, dtype),
        )
    x, tokens = (x, None) if real else (None, x)
    if real and dx is None:
        dx = np.empty_like(x)
    dh_0, dh = np.empty_like(h_0), np.empty(plan.dh, dtype)
    into = tuple([np.empty((sizes.R, sizes.blocks * lanes(dtype)), dtype) for _ in dextra])
    beside = BesideX.of(cell, extra, into)
    panels = np.empty(plan.panels, dtype) if plan.sizes.packed else None
    scratch, sums, table = np.empty(plan.scratch, dtype), np.empty(plan.sums, dtype), np.empty(plan.table, np.intp)
    arrays = BackwardArrays(
        x, tokens, starts, ih, hh, hr, unit, *_programs(cell, dtype), beside and beside.words, h_0, y, c, u, taken,
        values, dy, dh_n, dc_n, dx, dh_0, dc_0, *dweights, z, dh, carry, panels, scratch, sums, table,
        dh_rows, du, new_watch(),
    )  # fmt: skip
    run(_compiled(backward_kernel, BackwardArrays, dtype), plan.sizes, arrays, plan.threads)
    for gradient, found in zip(dextra, into, strict=True):
        np.add(gradient if dextra_add else 0, found[:, : sizes.H], out=gradient)
    return dx, (dh_0,) if c is None else (dh_0, *dc_0), dweights


def _gates_array(sizes: Sizes, z: Array) -> Array:
    """The part of the tape's array that holds Z: it starts where the kernels start, at a whole vector."""
    start = -z.ctypes.data % VECTOR_BYTES // z.itemsize
    return z[start : start + sizes.blocks * sizes.block_stride]


def _units(vectors: Array, H: int) -> Array:
    """(blocks, rows, vectors of units, W), contiguous in the last axis, to (rows, H)."""
    _, rows, units, W = vectors.shape
    full = H // W
    found = np.empty((rows, H), vectors.dtype)
    vector = np.dtype((np.void, W * vectors.itemsize))  # NumPy moves one as a single element
    for unit in range(units):
        its = found[:, : full * W].view(vector)[:, unit::units]
        its[...] = vectors[: its.shape[1], :, unit].view(vector)[..., 0].T
    if full * W < H:
        found[:, full * W :] = vectors[full // units, :, full % units, : H - full * W]
    return found


def gates(
    cell: Cell, tape: Tape, *, num_threads: int = 1, rows: int | None = None, to: Array | None = None
) -> tuple[Array, ...]:
    """The gates of all rows, and the cell state: `fastrnn.reference.gates`."""
    found = _gates(tape) if cell.program is None else _inside(cell, tape)
    if rows is None:
        return found
    spread = tuple([np.empty((rows, array.shape[1]), array.dtype) for array in found])
    for whole, array in zip(spread, found, strict=True):
        whole[to] = array
    return spread


def _gates(tape: Tape) -> tuple[Array, ...]:
    """`gates` in order."""
    sizes, z, c = tape.sizes, tape.z, tape.c
    W, R, H = lanes(z.dtype), sizes.R, sizes.H
    rows = _gates_array(sizes, z).reshape(sizes.blocks, -1)[:, : R * sizes.slots * W]
    rows = rows.reshape(sizes.blocks, R, sizes.slots, W)
    if c is None and sizes.cell != GRU:
        return (_units(rows, H),)
    order = (1, 2, 0) if sizes.cell == GRU else (0, 1, 2, 3)
    found = tuple(_units(rows[:, :, slot : slot + 1], H) for slot in order)
    return found if c is None else (*found, _units(c.reshape(sizes.blocks, sizes.N + R, 1, W)[:, sizes.N :], H))


def _inside(cell: Cell, tape: Tape) -> tuple[Array, ...]:
    """`gates` of a written cell."""
    sizes, z, c = tape.sizes, tape.z, tape.c
    N, R, H, W = sizes.N, sizes.R, sizes.H, lanes(z.dtype)
    rows = _gates_array(sizes, z).reshape(sizes.blocks, -1)[:, : R * sizes.slots * W]
    rows = rows.reshape(sizes.blocks, R, sizes.slots, W)
    slots = [_units(rows[:, :, slot : slot + 1], H) for slot in range(sizes.slots)]
    states = [np.concatenate([tape.h_0, tape.y.reshape(R, sizes.P)])]  # behind the initial one those of all rows
    if c is not None:
        states += [_units(its, H) for its in c.reshape(sizes.others, sizes.blocks, N + R, 1, W)]
    before, after = _rows_before(sizes, tape.starts), [state[N:] for state in states]
    if tape.weights.hr is not None:  # of which y is a product
        assert tape.u is not None
        after[0] = tape.u.reshape(R, H)
    assert cell.program is not None
    ranks = _ranks(sizes, tape.starts)
    of_rows = zip(tape.extra, cell.program.extras, strict=True)
    extra = [array[ranks] if of_sequence else array for array, of_sequence in of_rows]
    values = [] if tape.values is None else list(tape.values.reshape(R, sizes.row_values).T[..., None])
    unit = tape.weights.unit
    shown = evaluate_inside(cell, slots, [state[before] for state in states], after, unit, extra, values)
    return (*shown, *after[1:])


def _ranks(sizes: Sizes, starts: Array | None) -> Array:
    """For each row which one of the batch it is."""
    starts = np.arange(sizes.T + 1) * sizes.N if starts is None else starts
    return np.arange(sizes.R) - np.repeat(starts[:-1], np.diff(starts))


def _rows_before(sizes: Sizes, starts: Array | None) -> Array:
    """For each row, where the row before it is that it carries on from: N initial ones come first."""
    found = np.empty(sizes.R, np.intp)
    starts = np.arange(sizes.T + 1) * sizes.N if starts is None else starts
    before, rows_before = 0, 0
    for t in range(sizes.T)[:: -1 if sizes.reverse else 1]:
        row, rows = starts[t], starts[t + 1] - starts[t]
        carried = min(rows, rows_before)
        found[row : row + rows] = np.arange(rows)
        found[row : row + carried] += sizes.N + before
        before, rows_before = row, rows
    return found


# A tape as a tuple of arrays, for those who can keep nothing else


def keep(tape: Tape) -> tuple[Array, ...]:
    """The arrays that a tape owns, 1-D: Z and, of an LSTM, C and perhaps u. `backward` overwrites the first."""
    others = tape.c, tape.u, tape.taken, tape.values
    return (_gates_array(tape.sizes, tape.z), *(array for array in others if array is not None))


def kept_sizes(
    cell: Cell, steps: int, batch: int, rows: int, hidden: int, proj_size: int, dtype: Any
) -> tuple[int, ...]:
    """How many elements each array of `keep` has; `rows` are those of all steps."""
    plan = _plan_tape(cell, steps, batch, rows, 0, hidden, proj_size or hidden, np.dtype(dtype))
    z, has_u = plan.sizes.blocks * plan.sizes.block_stride, proj_size > 0 or plan.sizes.m_slots > 0
    more = [plan.taken] * (plan.sizes.takes > 0) + [plan.values] * (plan.sizes.phases > 0)
    return (z, *[plan.c] * (plan.sizes.others > 0), *[plan.u] * has_u, *more)


def _plan_tape(
    cell: Cell,
    T: int,
    N: int,
    R: int,
    I: int,
    H: int,
    P: int,
    dtype: np.dtype[Any],
    *,
    real: bool = True,
    reverse: bool = False,
    y_row: int = 0,
) -> ForwardPlan:
    """The plan of a call that makes a tape, as far as the tape depends on it."""
    return _plan_forward(_shape(cell, H, dtype), T, N, R, I, H, P, real, dtype, True, False, reverse, y_row, 1)


def recall(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    y: Array,
    kept: tuple[Array, ...],
    *,
    batch_sizes: Array | None,
    reverse: bool,
    extra: tuple[Array, ...] = (),
) -> Tape:
    """Put a tape together again from what `forward` was given and returned, and what `keep` gave."""
    h_0, dtype = state[0], weights.ih.dtype
    N, T, starts = len(h_0), len(x), None
    R = T * N
    if batch_sizes is not None:
        R, T, starts = T, len(batch_sizes), _starts(batch_sizes)
    I, H, P = _layer_sizes(cell, weights)
    real, y_row = x.dtype.kind == "f", _row_stride(y)
    plan = _plan_tape(cell, T, N, R, I, H, P, dtype, real=real, reverse=reverse, y_row=y_row)
    z, *others = kept
    c = others.pop(0) if len(cell.states) > 1 else None
    values = others.pop() if plan.sizes.phases else None
    taken = others.pop() if plan.sizes.takes else None
    u = others.pop(0) if others else None
    if z.ctypes.data % VECTOR_BYTES:
        whole = np.empty(plan.z, z.dtype)
        z, whole = whole, z
        _gates_array(plan.sizes, z)[:] = whole
    return Tape(plan.sizes, x, starts, weights, h_0, y, z, c, u, taken, values, extra)
