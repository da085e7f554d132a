"""Back-propagation through time: from the tape's gates to the gradients of everything.

Step by step from the last to the first, dh_t is dh_n, or dZ_{t+1} W_hh in the order of Z, then what bypasses that
product, then dy_t, and the cell turns the gates of Z_t into the gradients of their sums, in place; with a projection
dh_t becomes du_t = dh_t W_hr before. A written cell with a second recurrent product does so in two: first those of the
sums that its middle value m_t feeds, whose product makes dm_t, then the rest.

Then Z holds all that the rest needs: dx = dZ W_ih in the order of Z, and dW = dZ^T x, dZ^T h_prev and dZ^T m with the
rows ascending in the pieces of `numba_steps.list_rows`, whose sums are added one by one.
"""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.kernels.numba_cells import PROGRAM, point_backward
from fastrnn.kernels.numba_layout import (
    RECURRENT,
    SECOND,
    Sizes,
    X,
    block_units,
    column_panels,
    column_vectors,
    fed,
    projection,
    side_slots,
    slot_rows,
    tiles,
)
from fastrnn.kernels.numba_options import SUMMED_ROWS, helper, kernel
from fastrnn.kernels.numba_pack import pack_columns, pack_rows, unpack_rows
from fastrnn.kernels.numba_program import (
    BACKWARD,
    MIDDLE_BACK,
    ROWS,
    run_backward,
    run_phases_back,
    run_take_back,
)
from fastrnn.kernels.numba_steps import is_large, list_rows, previous, share_batch, step_at, step_rows, steps_to_look
from fastrnn.kernels.numba_threads import barrier, begin, finish, gather, leaves, offer, share, stopped
from fastrnn.kernels.numba_tile import product
from fastrnn.kernels.numba_vector import (
    aligned,
    first,
    load,
    load_part,
    null_like,
    splat,
    store,
    store_part,
    width,
)
from fastrnn.parameters import Array

__all__ = ["BackwardArrays", "backward_kernel", "buffer_sizes"]

_SUMMED = 128  # terms after which a product turns to the next rows: 32 KB of panel, which stay in the first-level cache
_INPUT_ROWS = 96  # rows of dx that are made at a time
_LOOK = 16  # of pieces of rows, blocks or panels, after so many a thread asks whether to stop


def buffer_sizes(sizes: Sizes, real: bool, projected_columns: int, W: int) -> tuple[int, int]:
    """Elements of one thread's scratch, and of all sums.

    `real` tells whether x is real input or tokens; `projected_columns` elements of a row take part in the product of a
    projection.
    """
    inputs, row = sizes.I * real, max(sizes.x_slots, sizes.h_slots, sizes.m_slots) * W
    tokens = (2 * sizes.I if sizes.columns == sizes.I else SUMMED_ROWS) * row * (not real)
    few_rows = (13 + SUMMED_ROWS) * 4 * W
    many_rows = max(row, 4 * W) + (max(inputs, sizes.H, sizes.P) + 8) * 8 * SUMMED_ROWS
    biases = (sizes.slots + 1) * W
    product = _INPUT_ROWS * 4 * W + sizes.blocks * row * 4 * W
    large = sizes.R > SUMMED_ROWS
    scratch = max(tokens, many_rows if large else few_rows, biases, product)
    of_units = inputs * sizes.x_slots + sizes.P * (sizes.h_slots + sizes.m_slots)
    return scratch, (of_units * sizes.blocks * W + sizes.H * projected_columns) * large


class BackwardArrays(NamedTuple):
    """The arrays of a call: inputs, outputs, scratch; z is overwritten."""

    x: Array | None  # (R, I)
    tokens: Array | None  # (R,), instead of x
    starts: Array | None  # (T + 1,), see `numba_steps`
    ih: Array
    hh: Array | None
    hr: Array | None
    unit: Array | None  # as the next two of a written cell
    code: Array | None
    constants: Array | None
    beside: Array | None
    h_0: Array
    y: Array
    c: Array | None  # the states besides h, as all of c
    u: Array | None  # h before its projection, or m
    taken: Array | None  # what the recurrent product took in place of h
    values: Array | None  # (R, V) values of rows
    dy: Array | None
    dh_n: Array | None
    dc_n: Array | None  # (others, N, H)
    dx: Array | None
    dh_0: Array
    dc_0: Array | None
    dih: Array  # zeros where `Sizes.columns` < I
    dhh: Array | None
    dbias_ih: Array | None  # zeros, or what is added to
    dbias_hh: Array | None
    dhr: Array | None
    dunit: Array | None  # likewise
    z: Array
    dh: Array  # (N, columns of whole panels)
    carry: Array | None  # (carries, vectors of units, N, W): the part of dh that bypasses the product, if any; dc
    panels: Array  # weight_hh by panels of columns, weight_hr or the rows of weight_hh that m feeds behind it
    scratch: Array  # for each thread
    sums: Array  # dW_ih, dW_hh, of h and of m, and dW_hr as packed weights, if made from many rows
    table: Array  # of `list_rows`
    dh_rows: Array | None  # with a projection: dh of all rows in the layout of its Z
    du: Array | None  # the same as dh for u or m
    watch: Array  # `numba_threads.new_watch`


@helper
def _clear(panel, count):
    W = width(panel)
    for i in range(0, count, W):
        store(panel + i, splat(panel, 0.0))


@helper
def _pack_panel(s, side, weights, K, p, panel):
    """Pack the p-th panel of columns of a side's weights (G*H, K)."""
    W = width(panel)
    _, slots = side_slots(s, side)
    for block in range(s.blocks):
        pack_columns(s, side, block, weights, K, p, panel + block * slots * W * column_vectors(K, p, W) * W)


@helper
def _pack_panels(s, side, weights, K, panels, thread, team):
    """One thread's part of packing all panels of columns; return how many elements a panel has."""
    W = width(panels)
    _, slots = side_slots(s, side)
    size = s.blocks * slots * W * 4 * W
    if s.packed:
        low, high = share(column_panels(K, W), thread, team)
        for p in range(low, high):
            _pack_panel(s, side, weights, K, p, panels + p * size)
    return size


# --- through time


@helper
def _multiply(s, side, p, K, panel, weights, z, rows, out, out_row):
    """out += z W for `rows` rows of Z and the p-th panel of columns of W (G*H, K).

    `weights` are read where they stand if the panel's columns fill its vectors, else packed into `panel` a chunk at a
    time; where they are null, the panel is packed already.
    """
    W = width(out)
    z_row = s.slots * W
    vectors = column_vectors(K, p, W)
    first, slots = side_slots(s, side)
    inner, row = slots * W, vectors * W
    parts = tiles(rows, vectors)
    if weights and p * 4 * W + row <= K:
        for block in range(s.blocks):
            for slot in range(slots):
                weight_row, units = slot_rows(s, side, block, slot, W)
                here = weights + (weight_row * K + p * 4 * W)
                for i in range(parts):
                    r = rows * i // parts
                    count = rows * (i + 1) // parts - r
                    at, sums = z + (block * s.block_stride + r * z_row + (first + slot) * W), out + r * out_row
                    product(
                        count, vectors, sums, out_row, sums, out_row, 0, at, z_row, 1, 0, here, K, units, 1, here, 0
                    )
        return
    chunk = max(1, _SUMMED // inner)
    for block in range(0, s.blocks, chunk):
        end = min(s.blocks, block + chunk)
        here = panel
        if weights:
            for b in range(block, end):
                pack_columns(s, side, b, weights, K, p, panel + (b - block) * inner * row)
        else:
            here += block * inner * row
        for i in range(parts):
            r = rows * i // parts
            count = rows * (i + 1) // parts - r
            at, sums = z + (block * s.block_stride + r * z_row + first * W), out + r * out_row
            ahead = here + (end - block) * inner * row
            if i < 4:  # the panel's next chunk, a quarter during each tile
                ahead += i * ((end - block) * inner * row // 4)
            z_outer, outer = s.block_stride, end - block
            product(
                count,
                vectors,
                sums,
                out_row,
                sums,
                out_row,
                0,
                at,
                z_row,
                1,
                z_outer,
                here,
                row,
                inner,
                outer,
                ahead,
                row // 4,
            )


@helper
def _differentiate(s, a, p, step, second, n_low, n_high, tape, dh, dh_row):
    """Turn a step's gates into gradients of their sums, for the units of the p-th panel of columns.

    `dh` is that of batch row 0: the gradient of h_t but for `carry` and dy_t, or with a projection of u_t, or, if
    `second`, of m_t.
    """
    W = width(dh)
    dy = null_like(a.hr) if a.hr or second or not a.dy else a.dy + step.row * s.dy_row
    vectors, c_rows, bypasses = (s.H + W - 1) // W, s.N + s.R, s.carries > s.others
    for carried in range(2):
        before = previous(s, a, step, carried, n_low, n_high)
        h_row = before.h_row
        for v in range(column_vectors(s.H, p, W)):
            u = p * 4 + v
            count = s.H - u * W
            z = tape + ((u // s.units) * s.block_stride + (step.row * s.slots + u % s.units) * W)
            c_prev, c = a.c + (u * c_rows + before.c_row) * W, a.c + (u * c_rows + s.N + step.row) * W
            carry = a.carry + u * s.N * W
            for n in range(before.low, before.low if second else before.high):
                of_h = load(dh + (n * dh_row + v * W))
                if bypasses:
                    of_h = of_h + load(carry + n * W)
                if dy:
                    of_h = of_h + load_part(dy + (n * s.dy_row + u * W), count)
                if s.cell == PROGRAM:
                    store(carry + n * W if bypasses else dh + (n * dh_row + v * W), of_h)
                    continue
                row, h = z + n * s.slots * W, before.h + (n * h_row + u * W)
                point_backward(s.cell, row, c_prev + n * W, c + n * W, h, count, of_h, carry + n * W)
            if s.cell == PROGRAM and not s.phases:
                which = MIDDLE_BACK if s.m_slots and not second else BACKWARD
                plane, carry_plane = vectors * c_rows * W, vectors * s.N * W
                for n in range(before.low, before.high, ROWS):
                    rows = min(ROWS, before.high - n)
                    given = dh + (n * dh_row + v * W)
                    of_h, of_h_row = (carry + n * W, W) if bypasses else (given, dh_row)
                    states = carry + (n * W + (carry_plane if bypasses else 0))
                    before_it, after_it, h, at = c_prev + n * W, c + n * W, before.h + n * h_row, z + n * s.slots * W
                    run_backward(
                        s, a, which, u, before_it, after_it, plane, h, h_row, n, step.row + n, of_h, of_h_row, states,
                        carry_plane, given, dh_row, rows, at,
                    )  # fmt: skip


@helper
def _take_back(s, a, p, step, n_low, n_high, tape, dh, dh_row):
    """From the gradients of what a step's recurrent product took to those of h, for the p-th panel of columns.

    `dh` is that of batch row 0.
    """
    W = width(dh)
    for carried in range(2):
        before = previous(s, a, step, carried, n_low, n_high)
        for v in range(column_vectors(s.H, p, W)):
            u = p * 4 + v
            for n in range(before.low, before.high, ROWS):
                h, z = before.h + n * before.h_row, tape + (u * s.block_stride + (step.row + n) * s.slots * W)
                rows = min(ROWS, before.high - n)
                dtaken = dh + (n * dh_row + v * W)
                run_take_back(s, a, u, h, before.h_row, n, step.row + n, rows, dtaken, dh_row, z)


@helper
def _phases_back(s, a, step, to_m, n_low, n_high, tape, dh, dh_row, dm, dm_row):
    """The phases of some batch rows of a step, back to m or the others; `dh` and `dm` are those of batch row 0."""
    W = width(dh)
    for carried in range(2):
        before = previous(s, a, step, carried, n_low, n_high)
        for n in range(before.low, before.high, ROWS):
            rows, z, carry = min(ROWS, before.high - n), tape + (step.row + n) * s.slots * W, a.carry + n * W
            of_h, of_m = dh + n * dh_row, dm + n * dm_row
            run_phases_back(s, a, step, to_m, before, n, rows, z, of_h, dh_row, of_m, dm_row, carry, s.N * W)


@helper
def _keep_rows(p, a, block, step, n, rows, dh, dh_row, dh_rows):
    """Add dy_t to dh_t, of a projection's block, into the rows of its Z."""
    W = width(dh)
    for v in range(block_units(p, block, W)):
        out = dh_rows + (block * p.block_stride + ((step.row + n) * p.slots + v) * W)
        column = (block * p.units + v) * W
        count = p.H - column
        for i in range(rows):
            vector = load(dh + (i * dh_row + v * W))
            if a.dy:
                vector = vector + load_part(a.dy + ((step.row + n + i) * p.dy_row + column), count)
            store(out + i * p.slots * W, first(vector, count))


@helper
def _clear_missing_units(s, starts, tape, n_low, n_high, W):
    """Zero the vectors of an RNN's last block that stand for no unit: products over whole blocks read them."""
    z = tape + (s.blocks - 1) * s.block_stride
    for v in range(block_units(s, s.blocks - 1, W), s.units):
        for step in range(s.T):
            row, rows = step_rows(s, starts, step)
            for n in range(n_low, min(n_high, rows)):
                store(z + ((row + n) * s.slots + v) * W, splat(z, 0.0))


@helper
def _through_time(s, q, a, sync, thread, team):
    """One thread's part of the way from the last step to the initial states; q are the projection's sizes."""
    W = width(a.dh)
    tape, panels, dh = aligned(a.z), aligned(a.panels), aligned(a.dh)
    du, dh_rows = aligned(a.du) if a.du else dh, aligned(a.dh_rows) if a.hr else dh
    vectors, bypasses = (s.H + W - 1) // W, s.carries - s.others
    h_panels, u_panels = column_panels(s.P, W), column_panels(s.H, W)
    dh_row, du_row = h_panels * 4 * W, u_panels * 4 * W
    turn = 0
    size = _pack_panels(s, RECURRENT, a.hh, s.P, panels, thread, team)
    # a product that follows or precedes the step's own: of a projection, h = u W_hr^T, or of m
    second_panels, second_size, second_side = panels + h_panels * size, 0, X if a.hr else SECOND
    second, second_weights = (q, a.hr) if a.hr else (s, a.hh)
    if a.du:
        second_size = _pack_panels(second, second_side, second_weights, s.H, second_panels, thread, team)
    if s.packed:
        turn = barrier(sync, team, turn, thread, a.watch)
    n, n_high = (0, s.N) if s.split_units else share_batch(s, a.starts, thread, team)
    p_low, p_high = share(h_panels, thread, team) if s.split_units else (0, h_panels)
    q_low, q_high = share(u_panels, thread, team) if s.split_units else (0, u_panels)
    h_low, h_high = p_low * 4, min(p_high * 4, (s.P + W - 1) // W)
    u_low, u_high = q_low * 4, min(q_high * 4, (s.H + W - 1) // W)
    if s.units > 1 and p_high == h_panels:
        _clear_missing_units(s, a.starts, tape, n, n_high, W)
    if a.hr and p_high == h_panels:
        _clear_missing_units(q, a.starts, dh_rows, n, n_high, W)
    for i in range(n, n_high):
        for v in range(h_low, h_high):
            of_h = load_part(a.dh_n + (i * s.P + v * W), s.P - v * W) if a.dh_n else splat(dh, 0.0)
            store(dh + (i * dh_row + v * W), of_h)
        for k in range(s.carries):
            of_state = k - bypasses
            for u in range(u_low, u_high):
                of_c = splat(dh, 0.0)
                if a.dc_n and of_state >= 0:
                    of_c = load_part(a.dc_n + ((of_state * s.N + i) * s.H + u * W), s.H - u * W)
                store(a.carry + ((k * vectors + u) * s.N + i) * W, of_c)

    scratch = aligned(a.scratch) + thread * s.scratch
    every = steps_to_look(s)
    to_look, large = every, is_large(s)
    for t in range(s.T - 1, -2, -1):
        step = step_at(s, a.starts, t)
        after, after_rows = step_rows(s, a.starts, t + 1) if t < s.T - 1 else (0, 0)
        carried = max(0, min(n_high, after_rows) - n)
        own = max(0, min(n_high, step.rows) - n)
        for i in range(p_low, p_high):
            p = p_low + p_high - 1 - i if t % 2 else i  # back and forth: the last panels are still in the cache
            if large and stopped(a.watch, thread, turn):
                break
            place = dh + (n * dh_row + p * 4 * W)
            for row in range(carried):
                _clear(place + row * dh_row, column_vectors(s.P, p, W) * W)
            if carried and s.h_slots:
                z_next = tape + (after + n) * s.slots * W
                panel = panels + p * size if s.packed else scratch
                weights = null_like(a.hh) if s.packed else a.hh
                _multiply(s, RECURRENT, p, s.P, panel, weights, z_next, carried, place, dh_row)
            if carried and s.takes:
                _take_back(s, a, p, step_at(s, a.starts, t + 1), n, n_high, tape, dh + p * 4 * W, dh_row)
            if a.hr:
                _keep_rows(q, a, p, step, n, own, place, dh_row, dh_rows)
            else:
                _differentiate(s, a, p, step, False, n, n_high, tape, dh + p * 4 * W, dh_row)
        to_look -= 1
        if to_look == 0:
            to_look = every
            if stopped(a.watch, thread, turn) and not s.split_units:
                return turn
        if s.split_units:
            turn = barrier(sync, team, turn, thread, a.watch)
            if leaves(a.watch, turn):
                return turn
        for to_m in range(1 if s.phases_middle_back else 0, -1, -1):
            if a.du and not to_m:
                for p in range(q_low, q_high):
                    place = du + p * 4 * W
                    for i in range(n, n + own):
                        _clear(place + i * du_row, 4 * W)
                    panel = second_panels + p * second_size if s.packed else scratch
                    weights = null_like(a.hr) if s.packed else second_weights
                    rows = (dh_rows if a.hr else tape) + (step.row + n) * second.slots * W
                    _multiply(second, second_side, p, s.H, panel, weights, rows, own, place + n * du_row, du_row)
                    _differentiate(s, a, p, step, second_side == SECOND, n, n_high, tape, place, du_row)
                if s.split_units:
                    turn = barrier(sync, team, turn, thread, a.watch)
                    if leaves(a.watch, turn):
                        return turn
            if s.phases:
                low, high = share(s.N, thread, team) if s.split_units else (n, n_high)
                of_h, of_h_row = (du, du_row) if a.hr else (dh, dh_row)
                _phases_back(s, a, step, to_m, low, high, tape, of_h, of_h_row, du, du_row)
                if s.split_units:
                    turn = barrier(sync, team, turn, thread, a.watch)
                    if leaves(a.watch, turn):
                        return turn

    for i in range(n, n_high):
        for v in range(h_low, h_high):
            of_h = load(dh + (i * dh_row + v * W))
            if bypasses:
                of_h = of_h + load(a.carry + (v * s.N + i) * W)
            store_part(a.dh_0 + (i * s.P + v * W), of_h, s.P - v * W)
        for k in range(s.others):
            for u in range(u_low, u_high):
                of_c = load(a.carry + (((k + bypasses) * vectors + u) * s.N + i) * W)
                store_part(a.dc_0 + ((k * s.N + i) * s.H + u * W), of_c, s.H - u * W)
    return turn


# --- the gradients of the weights and of x


class Left(NamedTuple):
    """The left operand of a forward product, as the gradient of its weights reads it."""

    rows: Array
    stride: int
    K: int
    h_0: Array | None  # for h_prev, whose rows `table` finds in `rows`, or here
    table: Array


@helper
def _copy_rows(left, r, rows, k, step, count, out):
    """out[i, :count] := columns k, k + 1, ... of the left operand's rows r, r + 1, ..., `step` elements apart.

    Lanes behind its last column become zero; those of the last vector that are behind `count` or `step` are overwritten
    by the next row, so `out` needs room for one more vector.
    """
    W = width(out)
    for i in range(rows):
        row = left.table[r + i] if left.h_0 else r + i
        source = left.rows + row * left.stride if row >= 0 else left.h_0 + (-1 - row) * left.K
        for j in range(0, count, W):
            store(out + (i * step + j), load_part(source + (k + j), left.K - k - j))


@helper
def _weights_of_few_rows(s, side, left, z, weights, thread, team, watch, turn, scratch):
    """One thread's part of dW from at most `SUMMED_ROWS` rows: some panels of columns of some blocks.

    Gate rows are the tile's rows and the left operand its panel: dW, which is larger than them, is written once, in
    place.
    """
    W = width(scratch)
    z_row, K = s.slots * W, left.K
    first_slot, slots = side_slots(s, side)
    zero, sums = scratch, scratch + 4 * W
    panel = sums + 8 * 4 * W
    _clear(zero, 4 * W)
    low, high = share(column_panels(K, W) * s.blocks, thread, team)
    for place in range(low, high):
        p, block = place // s.blocks, place % s.blocks
        k, vectors = p * 4 * W, column_vectors(K, p, W)
        row = vectors * W
        if place % _LOOK == 0 and stopped(watch, thread, turn):
            return
        whole = k + row <= K  # the tile writes whole vectors
        if place == low or block == 0:
            _copy_rows(left, 0, s.R, k, row, row, panel)
        for slot in range(slots):
            weight_row, units = slot_rows(s, side, block, slot, W)
            parts = tiles(units, vectors)
            for i in range(parts):
                unit = units * i // parts
                count = units * (i + 1) // parts - unit
                at = z + (block * s.block_stride + (first_slot + slot) * W + unit)
                here = weights + ((weight_row + unit) * K + k)
                out, out_row, add = (here, K, s.add) if whole else (sums, row, 0)
                product(count, vectors, out, out_row, zero, 0, add, at, 1, z_row, 0, panel, row, s.R, 1, panel, 0)
                if not whole:
                    for r in range(count):
                        for v in range(0, row, W):
                            place, total, columns = here + (r * K + v), load(sums + (r * row + v)), K - k - v
                            if s.add:
                                total = load_part(place, columns) + total
                            store_part(place, total, columns)


@helper
def _weights_of_many_rows(s, side, left, z, weights, pieces, thread, team, watch, turn, sums, scratch):
    """One thread's part of dW: some columns of all blocks.

    Columns of the left operand are the tile's rows, copied together a piece of rows at a time, and Z is its panel; dW
    is summed in the order of packed weights, `sums`, and unpacked at the end.
    """
    W = width(scratch)
    z_row, K = s.slots * W, left.K
    first_slot, slots = side_slots(s, side)
    row = slots * W
    _, vectors = fed(s, 0, side, W)
    parts = tiles(K, vectors)
    low, high = share(parts, thread, team)
    first_k, last_k = K * low // parts, K * high // parts
    zero, copied = scratch, scratch + max(row, 4 * W)
    _clear(zero, row)
    if s.add:
        for block in range(s.blocks):
            panel = sums + (block * K + first_k) * row
            pack_rows(s, side, block, weights, K, null_like(left.table), first_k, last_k, panel)
    for piece in range(pieces[0]):
        r, rows = pieces[1 + 2 * piece], pieces[2 + 2 * piece]
        add = int(piece > 0 or s.add)
        for i in range(low, high):
            k = K * i // parts
            count = K * (i + 1) // parts - k
            _copy_rows(left, r, rows, k, 8, count, copied + (i - low) * SUMMED_ROWS * 8)
        for block in range(s.blocks):
            if block % _LOOK == 0 and stopped(watch, thread, turn):
                return
            panel = z + (block * s.block_stride + r * z_row + first_slot * W)
            _, vectors = fed(s, block, side, W)
            for i in range(low, high):
                k = K * i // parts
                count = K * (i + 1) // parts - k
                out = sums + (block * K + k) * row
                ahead, ahead_k = out + count * row, count * row // SUMMED_ROWS
                at = copied + (i - low) * SUMMED_ROWS * 8
                product(count, vectors, out, row, zero, 0, add, at, 1, 8, 0, panel, z_row, rows, 1, ahead, ahead_k)
    for block in range(s.blocks):
        panel = sums + (block * K + first_k) * row
        unpack_rows(s, side, block, panel, first_k, last_k, weights, K, null_like(left.table))


@helper
def _weights(s, side, left, z, weights, pieces, thread, team, watch, turn, sums, scratch):
    """One thread's part of dW = Z^T left."""
    if s.R <= SUMMED_ROWS:
        _weights_of_few_rows(s, side, left, z, weights, thread, team, watch, turn, scratch)
    else:
        _weights_of_many_rows(s, side, left, z, weights, pieces, thread, team, watch, turn, sums, scratch)


@helper
def _weights_of_tokens(s, a, pieces, thread, team, turn, panel):
    """One thread's part of dW_ih from tokens: some blocks.

    The rows of a piece are summed in a column for each token, or where tokens are scarce for each row, which then holds
    those of its later twins too, and the columns are added to the total, or to dW_ih itself.
    """
    W = width(panel)
    z_row = s.slots * W
    _, slots = side_slots(s, X)
    row = slots * W
    none, twins = null_like(a.tokens), a.table + s.R
    scarce = s.columns < s.I
    total = panel + s.columns * row
    low, high = share(s.blocks, thread, team)
    for block in range(low, high):
        _clear(panel, (min(s.R, SUMMED_ROWS) if scarce else 2 * s.columns) * row)
        if s.add and not scarce:
            pack_rows(s, X, block, a.dih, s.I, none, 0, s.I, total)
        for piece in range(pieces[0]):
            r, rows = pieces[1 + 2 * piece], pieces[2 + 2 * piece]
            if piece % _LOOK == 0 and stopped(a.watch, thread, turn):
                return
            for i in range(r, r + rows):
                z = aligned(a.z) + (block * s.block_stride + i * z_row)
                sums = panel + (twins[i] if scarce else a.tokens[i]) * row
                for v in range(0, row, W):
                    store(sums + v, load(sums + v) + load(z + v))  # a_x = W_ih[:, token]
            if scarce:
                unpack_rows(s, X, block, panel, 0, rows, a.dih, s.I, a.tokens + r)
                _clear(panel, rows * row)
                continue
            for i in range(r, r + rows):
                sums, out = panel + a.tokens[i] * row, total + a.tokens[i] * row
                for v in range(0, row, W):
                    store(out + v, load(out + v) + load(sums + v))
                _clear(sums, row)
        if not scarce:
            unpack_rows(s, X, block, total, 0, s.columns, a.dih, s.I, none)


@helper
def _biases(s, a, pieces, thread, team, turn, sums):
    """One thread's part of the gradients of biases and of a cell's own parameters: the sums of rows of some blocks."""
    W = width(sums)
    row = s.slots * W
    one = sums + row
    one[0] = 1.0
    low, high = share(s.blocks, thread, team)
    for block in range(low, high):
        for piece in range(pieces[0]):
            r, rows = pieces[1 + 2 * piece], pieces[2 + 2 * piece]
            if piece % _LOOK == 0 and stopped(a.watch, thread, turn):
                return
            z = aligned(a.z) + (block * s.block_stride + r * row)
            _clear(sums, row)
            product(1, s.slots, sums, 0, sums, 0, 0, one, 0, 0, 0, z, row, rows, 1, z, 0)
            for side in range(SECOND + 1 if a.dbias_ih else 0):
                bias = a.dbias_ih if side == X else a.dbias_hh
                first_slot, slots = side_slots(s, side)
                for slot in range(slots):
                    weight_row, units = slot_rows(s, side, block, slot, W)
                    place, total = bias + weight_row, load(sums + (first_slot + slot) * W)
                    store_part(place, load_part(place, units) + total, units)
            for m in range(s.parameters):
                place, total, units = a.dunit + (m * s.H + block * W), load(sums + (s.own + m) * W), s.H - block * W
                store_part(place, load_part(place, units) + total, units)


@helper
def _input(s, a, thread, team, turn, scratch):
    """One thread's part of dx: some rows, or, where there are few, some panels of columns."""
    W = width(scratch)
    few = _INPUT_ROWS * team > s.R
    r_low, r_high = (0, s.R) if few else share(s.R, thread, team)
    count = column_panels(s.I, W)
    p_low, p_high = share(count, thread, team) if few else (0, count)
    panel = scratch + _INPUT_ROWS * 4 * W
    for p in range(p_low, p_high):
        column = p * 4 * W
        vectors = column_vectors(s.I, p, W)
        one_pass = r_high - r_low <= _INPUT_ROWS
        if not one_pass:
            _pack_panel(s, X, a.ih, s.I, p, panel)
        for r in range(r_low, r_high, _INPUT_ROWS):
            rows = min(_INPUT_ROWS, r_high - r)
            if (r - r_low) % (_LOOK * _INPUT_ROWS) == 0 and stopped(a.watch, thread, turn):
                return
            _clear(scratch, rows * vectors * W)
            weights = a.ih if one_pass else null_like(a.ih)
            z = aligned(a.z) + r * s.slots * W
            _multiply(s, X, p, s.I, panel, weights, z, rows, scratch, vectors * W)  # a_x = x W_ih^T
            for i in range(rows):
                for v in range(vectors):
                    k = column + v * W
                    place, total = a.dx + ((r + i) * s.I + k), load(scratch + (i * vectors + v) * W)
                    if s.add_dx:
                        total = load_part(place, s.I - k) + total
                    store_part(place, total, s.I - k)


@helper
def _gradients(s, q, a, thread, team, turn):
    """One thread's part of the gradients of the weights and of x; q are the projection's sizes."""
    W = width(a.dh)
    scratch = aligned(a.scratch) + thread * s.scratch
    pieces, sums = a.table + 2 * s.R, aligned(a.sums)
    if a.tokens:
        _weights_of_tokens(s, a, pieces, thread, team, turn, scratch)
    for weights in range(1 if a.tokens else 0, 4):  # one call for all, since LLVM copies it to each
        sizes, side, z, dweights = s, X, aligned(a.z), a.dih
        left = Left(a.x, s.I, s.I, null_like(a.h_0), a.table)  # a_x = x W_ih^T
        if weights == 1:
            side, dweights = RECURRENT, a.dhh
            left = Left(a.y, s.y_row, s.P, a.h_0, a.table)  # a_h = h_prev W_hh^T
            if s.takes:
                left = Left(a.taken, s.H, s.H, null_like(a.h_0), a.table)
        elif weights == 2:
            side, dweights = SECOND, a.dhh
            left = Left(a.u, s.H, s.H, null_like(a.h_0), a.table)  # a_m = m W_hh^T
        elif weights == 3:
            sizes, z, dweights = q, aligned(a.dh_rows), a.dhr
            left = Left(a.u, s.H, s.H, null_like(a.h_0), a.table)  # h = u W_hr^T
        _, slots = side_slots(sizes, side)
        if slots == 0 or (weights == 3 and not a.hr):
            continue
        _weights(sizes, side, left, z, dweights, pieces, thread, team, a.watch, turn, sums, scratch)
        sums += left.K * sizes.blocks * slots * W
    if a.dbias_ih or a.dunit:
        _biases(s, a, pieces, thread, team, turn, scratch)
    if a.dx:
        _input(s, a, thread, team, turn, scratch)


@helper
def _backward_part(s, a, sync, thread, team):
    """One thread's part, from its first to its last wait."""
    setting = begin(thread, a.watch)
    q = projection(s, width(a.dh))
    if thread == 0:
        list_rows(s, a.starts, a.tokens, a.table)
    turn = _through_time(s, q, a, sync, thread, team)
    turn = barrier(sync, team, turn, thread, a.watch)
    if not leaves(a.watch, turn):
        _gradients(s, q, a, thread, team, turn)
    finish(sync, team, turn, thread, a.watch, setting)


@kernel
def backward_kernel(s, a, pool, threads):
    """`fastrnn.reference.backward`, as `numba_threads.run` calls it."""
    team = 1
    if threads > 1:
        offer(pool, _backward_part, s, a)
        team = gather(pool, threads)
    _backward_part(s, a, pool, 0, team)
