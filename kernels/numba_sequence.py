"""The Numba backend: `fastrnn.reference`'s sequence forward and backward for any CPU that LLVM knows.

Here are the calls: what is allocated and how the work is split. `numba_forward` and `numba_backward` run it.

Every element of a result is one chain of fused multiply-adds in one fixed order, so results are the same bits for any
split of the rows, of the units or of time, and for any number of threads.
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
from fastrnn.kernels.numba_cells import CELL_IDS, GRU, LSTM
from fastrnn.kernels.numba_forward import ForwardArrays, forward_kernel
from fastrnn.kernels.numba_layout import Sizes
from fastrnn.kernels.numba_options import CPU, VECTOR_BYTES, lanes
from fastrnn.kernels.numba_pack import CHUNK
from fastrnn.kernels.numba_threads import SYNC, run
from fastrnn.kernels.numba_vector import Pointer
from fastrnn.parameters import Array

__all__ = ["backward", "describe", "explain", "forward", "pack", "why_not_runnable"]


def describe() -> str:
    """What this backend is, for `fastrnn.info`."""
    return f"numba {numba.__version__}, {CPU}, vectors of {8 * VECTOR_BYTES} bits"


def why_not_runnable() -> str | None:
    """Nothing: LLVM compiles the kernels for the CPU it finds."""
    return None


class Tape(NamedTuple):
    """What `forward` keeps for `backward`; it serves once, since the gates become gradients in place."""

    sizes: Sizes
    x: Array
    weights: Weights
    h_0: Array
    y: Array
    z: Array
    c: Array | None


_PARALLEL_WORK = 5e6  # multiplications above which a second thread pays: some 100 us of one core
_PACKED_ALONE = 1 << 18  # weights up to which one thread packs them
_STREAMED = 1 << 23  # bytes of weights above which no cache near a core holds them
_ROWS_TO_STREAM = 8  # rows whose products take as long as reading the weights once from far away
_PROJECTED_BYTES = 1 << 19  # of the tape that are projected ahead at a time: they stay in the second-level cache
_LARGE = 1 << 21  # bytes of weights above which they are not in the second-level cache


@functools.cache
def _compiled(dispatcher: Any, arrays: type, dtype: np.dtype[Any]) -> Callable[..., None]:
    """Return the kernel for one dtype, from the disk if it has been compiled before."""
    real = Pointer(numba.from_dtype(dtype))
    fields = [Pointer(types.intp) if field == "tokens" else real for field in arrays._fields]
    sizes = types.NamedUniTuple(types.intp, len(Sizes._fields), Sizes)
    signature = (sizes, types.NamedTuple(fields, arrays), Pointer(SYNC), types.intp)
    dispatcher.compile(signature)
    return dispatcher.get_overload(signature)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _split(
    T: int, N: int, weights: int, itemsize: int, num_threads: int, *, ready: bool = False
) -> tuple[int, bool, bool]:
    """Return how many threads, whether the weights are packed ahead, and whether threads share units or the batch.

    `weights` is how many of them a row meets, and `ready` whether they are packed already.
    """
    large = weights * itemsize > _LARGE
    never = N == 1 and weights * itemsize > _STREAMED  # reading them in either order takes as long
    packed = ready or (not never and (8 if N == 1 else 4 if large else 2) < T)
    rows = N if packed else max(N, _ROWS_TO_STREAM)
    threads = num_threads if T * rows * weights > _PARALLEL_WORK else 1
    few_rows = 4 * threads > N
    own_cache = N <= 32 and large  # then each thread's half of the weights may stay in its own cache
    return threads, packed, not packed or (threads > 1 and (few_rows or own_cache))


class ForwardPlan(NamedTuple):
    """How a forward call runs, and how many elements its buffers have."""

    sizes: Sizes
    threads: int
    z: int
    c: int
    panels: int


@functools.lru_cache(4096)
def _plan_forward(
    cell: int,
    T: int,
    N: int,
    I: int,
    H: int,
    real: bool,
    dtype: np.dtype[Any],
    tape: bool,
    ready: bool,
    num_threads: int,
) -> ForwardPlan:
    """Plan a call; `real` tells whether x is real input or tokens, `ready` whether the weights are packed already."""
    W = lanes(dtype)
    vectors = _ceil(H, W)
    units = 1 if cell >= LSTM else min(4, vectors)
    slots = 4 if cell >= LSTM else units
    blocks = _ceil(vectors, units)
    columns = I if real or ready else min(I, T * N)
    product_row = (3 if cell == GRU else slots) * W
    weights = blocks * product_row * (I * real + H)
    threads, packed, split_units = _split(T, N, weights, dtype.itemsize, num_threads, ready=ready)
    projected = 0 if packed else T
    if packed and real and (N < 5 or (N < 16 and weights * dtype.itemsize > _LARGE) or H >= 768):
        projected = min(T, max(1, _PROJECTED_BYTES // max(1, N * blocks * slots * W * dtype.itemsize)))
    block_stride = (T if tape else max(1, projected)) * N * slots * W
    if block_stride * dtype.itemsize % 4096 == 0:
        block_stride += 6 * VECTOR_BYTES // dtype.itemsize  # else the blocks' rows would share few lines of the cache
    panel = slots * W + (columns + H if packed else CHUNK) * product_row
    sizes = Sizes(
        cell=cell,
        T=T,
        N=N,
        I=I,
        H=H,
        slots=slots,
        units=units,
        blocks=blocks,
        block_stride=block_stride,
        columns=columns,
        tape=tape,
        packed=packed,
        ready=ready,
        split_units=split_units,
        projected=projected,
        scratch=panel,
        sums=0,
    )
    c = vectors * (T + 1 if tape else 1) * N * W
    return ForwardPlan(sizes, threads, blocks * block_stride + W, c, (blocks if packed else threads) * panel + W)


class Packed(NamedTuple):
    """A layer's weights in the order in which forward reads them."""

    panels: Array
    I: int
    H: int


def pack(cell: Cell, weights: Weights, *, num_threads: int) -> Packed:
    """Pack a layer's weights once for many calls of `forward`; the caller sees to it that they have not changed."""
    ih, hh, bias_ih, bias_hh = weights
    dtype, I, H = hh.dtype, ih.shape[1], hh.shape[1]
    plan = _plan_forward(CELL_IDS[cell.name], 0, 0, I, H, True, dtype, False, True, num_threads)
    panels, nothing = np.empty(plan.panels, dtype), np.empty(plan.z, dtype)
    arrays = ForwardArrays(
        nothing, None, ih, hh, bias_ih, bias_hh, nothing, nothing, nothing, nothing, nothing, nothing, panels
    )
    threads = num_threads if panels.size > _PACKED_ALONE else 1
    run(_compiled(forward_kernel, ForwardArrays, dtype), (plan.sizes._replace(ready=False), arrays), threads)
    return Packed(panels, I, H)


def forward(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights | None,
    *,
    tape: bool,
    num_threads: int,
    packed: Packed | None = None,
) -> tuple[Array, State, Tape | None]:
    """Run a cell over a sequence: `fastrnn.reference.forward`; without a tape, `packed` may replace the weights."""
    h_0 = state[0]
    dtype, (T, N), real = h_0.dtype, x.shape[:2], x.ndim == 3
    if tape or packed is None:
        packed = None  # backward reads the weights themselves
        ih, hh, bias_ih, bias_hh = weights
        I, H = ih.shape[1], hh.shape[1]
    else:
        ih = hh = bias_ih = bias_hh = None
        I, H = packed.I, packed.H
    plan = _plan_forward(CELL_IDS[cell.name], T, N, I, H, real, dtype, tape, packed is not None, num_threads)
    c_0, c, c_n = None, None, None
    if len(state) == 2:
        c_0, c, c_n = state[1], np.empty(plan.c, dtype), np.empty((N, H), dtype)
    y, z = np.empty((T, N, H), dtype), np.empty(plan.z, dtype)
    panels = np.empty(plan.panels, dtype) if packed is None else packed.panels
    arrays = ForwardArrays(
        x if real else None, None if real else x, ih, hh, bias_ih, bias_hh, h_0, c_0, y, c_n, z, c, panels
    )
    run(_compiled(forward_kernel, ForwardArrays, dtype), (plan.sizes, arrays), plan.threads)
    h_n = (y[-1] if T else h_0).copy()
    return y, (h_n,) if c_n is None else (h_n, c_n), Tape(plan.sizes, x, weights, h_0, y, z, c) if tape else None


def explain(
    cell: Cell, weights: Weights, steps: int, batch: int, *, tokens: bool, tape: bool, packed: bool, num_threads: int
) -> dict[str, str]:
    """What `forward`, and after one with a tape `backward`, would choose for x of a size: a dict of words."""
    dtype, columns, hidden = weights.hh.dtype, weights.ih.shape[1], weights.hh.shape[1]
    ready = packed and not tape
    plan = _plan_forward(
        CELL_IDS[cell.name], steps, batch, columns, hidden, not tokens, dtype, tape, ready, num_threads
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
        "recurrent product": product,
    }
    if tape:
        chosen["weight gradients"] = product
    return chosen


class BackwardPlan(NamedTuple):
    """How a backward call runs, and how many elements its buffers have."""

    sizes: Sizes
    threads: int
    dh: int
    dc: int
    panels: int
    scratch: int
    sums: int


@functools.lru_cache(4096)
def _plan_backward(sizes: Sizes, real: bool, dtype: np.dtype[Any], num_threads: int) -> BackwardPlan:
    """Plan the backward call for a forward call's sizes."""
    W = lanes(dtype)
    T, N, I, H, slots, blocks = sizes.T, sizes.N, sizes.I, sizes.H, sizes.slots, sizes.blocks
    vectors = _ceil(H, W)
    column_panels = _ceil(vectors, 4)
    product_row = (3 if sizes.cell == GRU else slots) * W
    weights = 2 * blocks * product_row * (I * real + H)  # met twice: by dh or dx, and by dW
    threads, packed, split_units = _split(T, N, weights, dtype.itemsize, num_threads)
    panel = blocks * product_row * 4 * W
    scratch, sums, all_sums = buffer_sizes(sizes, real, product_row, W)
    sizes = sizes._replace(packed=packed, split_units=split_units, scratch=scratch, sums=sums)
    return BackwardPlan(
        sizes,
        threads,
        dh=N * column_panels * 4 * W + W,
        dc=vectors * N * W,
        panels=column_panels * panel + W,
        scratch=threads * scratch + W,
        sums=all_sums + W,
    )


def backward(
    cell: Cell, tape: Tape, dy: Array | None, dstate: tuple[Array | None, ...], *, num_threads: int
) -> tuple[Array | None, State, Weights]:
    """Differentiate `forward`, which made `tape`: `fastrnn.reference.backward`."""
    sizes, x, (ih, hh, bias_ih, bias_hh), h_0, y, z, c = tape
    dtype, real = hh.dtype, x.ndim == 3
    plan = _plan_backward(sizes, real, dtype, num_threads)
    dh_n, dc_n, dc_0, dc = dstate[0], None, None, None
    if c is not None:
        dc_n, dc_0, dc = dstate[1], np.empty_like(h_0), np.empty(plan.dc, dtype)
    dih = np.empty_like(ih) if sizes.columns == sizes.I else np.zeros_like(ih)
    dweights = Weights(
        dih,
        np.empty_like(hh),
        None if bias_ih is None else np.empty_like(bias_ih),
        None if bias_hh is None else np.empty_like(bias_hh),
    )
    x, tokens, dx = (x, None, np.empty_like(x)) if real else (None, x, None)
    dh_0, dh = np.empty_like(h_0), np.empty(plan.dh, dtype)
    panels = np.empty(plan.panels, dtype) if plan.sizes.packed else None
    scratch, sums = np.empty(plan.scratch, dtype), np.empty(plan.sums, dtype)
    arrays = BackwardArrays(
        x, tokens, ih, hh, h_0, y, c, dy, dh_n, dc_n, dx, dh_0, dc_0, *dweights, z, dh, dc, panels, scratch, sums
    )
    run(_compiled(backward_kernel, BackwardArrays, dtype), (plan.sizes, arrays), plan.threads)
    return dx, (dh_0,) if c is None else (dh_0, dc_0), dweights
