"""Forward through a sequence: for every step and block of units, sums on the tile, then the cell where the sums stand.

The sums start at the bias, take x_t W_ih^T with k ascending, then h_{t-1} W_hh^T with k ascending. They lie in the tape

    Z[block][row][slots * W]

which holds the activated gates afterwards; see `numba_layout` for blocks and slots. The cell state is kept beside it,
by vectors of units as well: C[u][row][W], behind the N rows of the initial one; the other states of a written cell one
after the other. With a projection u_t = o * tanh(c_t) is kept too, and y_t = u_t W_hr^T is a product of its own, with k
ascending. So is what a second recurrent product of a written cell takes in place of h_{t-1}, its middle value m_t: once
all units of that are there, its product is added to the sums, which wait in the tape, and the cell goes on.
"""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.kernels.numba_cells import PROGRAM, point_forward
from fastrnn.kernels.numba_layout import (
    RECURRENT,
    SECOND,
    X,
    block_units,
    fed,
    projection,
    side_slots,
    slot_rows,
    tiles,
)
from fastrnn.kernels.numba_options import VECTOR_BYTES, helper, kernel
from fastrnn.kernels.numba_pack import CHUNK, pack_rows, pack_sums
from fastrnn.kernels.numba_program import FORWARD, MIDDLE, ROWS, run_forward, run_phases, run_take
from fastrnn.kernels.numba_steps import is_large, last_row, previous, rows_of, share_batch, step_at, steps_to_look
from fastrnn.kernels.numba_threads import barrier, begin, finish, gather, leaves, offer, share, stopped
from fastrnn.kernels.numba_tile import dot, product
from fastrnn.kernels.numba_vector import aligned, load, load_part, null_like, splat, store, store_part, width
from fastrnn.parameters import Array

__all__ = ["PROJECTION_SCRATCH", "ForwardArrays", "forward_kernel"]

PROJECTION_SCRATCH = 4 + 4 * 8  # vectors: a row of zeros and a tile
_LINES_PER_VECTOR = 64 / VECTOR_BYTES
_FAR = 1 << 20  # bytes of weights above which the next panel is fetched from the third-level cache ahead of its use


class ForwardArrays(NamedTuple):
    """The arrays of a call: inputs, outputs, scratch."""

    x: Array | None  # (R, I)
    tokens: Array | None  # (R,), instead of x
    starts: Array | None  # (T + 1,), see `numba_steps`
    ih: Array
    hh: Array | None
    bias_ih: Array | None
    bias_hh: Array | None
    hr: Array | None
    unit: Array | None  # (M, H), of a written cell
    code: Array | None  # of a written cell, as `constants`: see `numba_program.Compiled`
    constants: Array | None
    beside: Array | None  # of one that is given values beside x: see `numba_program.BesideX`
    h_0: Array
    c_0: Array | None  # (others, N, H): the states besides h, as all of c
    y: Array  # (R, P), rows `y_row` apart
    h_n: Array
    c_n: Array | None
    z: Array  # Z, of all steps or of those projected at a time
    c: Array | None  # C, of all steps behind the initial state, or of one
    u: Array | None  # (R, H) or of one step (N, H): h before its projection, or m
    taken: Array | None  # likewise what the recurrent product takes in place of h
    values: Array | None  # (R, V) the values of rows that a program in phases keeps
    panels: Array  # each block's starting sums and weights of x, h and m; or a chunk of them for each thread
    hr_panels: Array | None  # W_hr
    hr_scratch: Array | None  # for each thread `PROJECTION_SCRATCH` vectors
    watch: Array  # `numba_threads.new_watch`


@helper
def _panel_size(s, W):
    """Elements of a block's panel."""
    return (s.slots + s.columns * s.x_slots + s.P * (s.h_slots + s.m_slots)) * W


@helper
def _pack_panel(s, a, block, panel):
    """Write a block's panel: its starting sums, its x weights, its h weights, its m weights."""
    W = width(panel)
    none = null_like(a.tokens)
    pack_sums(s, block, a.bias_ih, a.bias_hh, panel)
    panel += s.slots * W
    for side in range(SECOND + 1):  # one call for all, since LLVM copies it to each
        _, slots = side_slots(s, side)
        weights, K, columns, count = a.hh, s.P, none, s.P
        if side == X:
            weights, K, columns, count = a.ih, s.I, a.tokens if s.columns < s.I else none, s.columns
        pack_rows(s, side, block, weights, K, columns, 0, count, panel)
        panel += count * slots * W


@helper
def _project(s, a, block, panel, r, rows, z, ahead, ahead_k):
    """z := bias + x W_ih^T for rows r, r + 1, ... of x."""
    W = width(z)
    z_row = s.slots * W
    _, vectors = fed(s, block, X, W)
    _, slots = side_slots(s, X)
    weights = panel + z_row
    for v in range(s.x_slots, s.sums):  # which no x weight feeds
        for i in range(rows):
            store(z + (i * z_row + v * W), load(panel + v * W))
    if a.tokens:
        for i in range(rows):
            column = a.tokens[r + i] if s.columns == s.I else r + i
            for v in range(slots):
                store(z + (i * z_row + v * W), load(panel + v * W) + load(weights + (column * slots + v) * W))
    else:
        w_row = slots * W
        product(rows, vectors, z, z_row, panel, 0, 0, a.x + r * s.I, s.I, 1, 0, weights, w_row, s.I, 1, ahead, ahead_k)


@helper
def _activate(s, a, block, step, side, before, n, rows, z):
    """Turn the sums z of batch rows n, n + 1, ... into gates, and write c_t and h_t; or u_t, or m_t.

    `side` is that whose product came last.
    """
    W = width(z)
    if s.phases:  # which begin once all units of a row have come as far
        return
    h_prev, h_row = before.h + n * before.h_row, before.h_row
    to_u = side == RECURRENT and bool(a.u)
    out, out_row = (a.u, s.H) if to_u else (a.y, s.y_row)
    out += (n + (0 if to_u and not s.tape else step.row)) * out_row
    c_rows, c_next = (s.N + s.R, s.N + step.row + n) if s.tape else (s.N, n)
    for v in range(block_units(s, block, W)):
        u = block * s.units + v
        c_prev, c = a.c + (u * c_rows + before.c_row + n) * W, a.c + (u * c_rows + c_next) * W
        if s.cell == PROGRAM:
            which = MIDDLE if s.m_slots and side == RECURRENT else FORWARD
            plane = s.blocks * c_rows * W
            for i in range(0, rows, ROWS):
                h, there, at = h_prev + i * h_row, out + i * out_row, z + i * s.slots * W
                count = min(ROWS, rows - i)
                run_forward(
                    s, a, which, u, c_prev + i * W, c + i * W, plane, h, h_row, n + i, step.row + n + i, there, out_row,
                    count, at,
                )  # fmt: skip
            continue
        count = s.H - u * W
        for i in range(rows):
            row = z + (i * s.slots + v) * W
            h = point_forward(s.cell, row, c_prev + i * W, c + i * W, h_prev + (i * h_row + u * W), count)
            store_part(out + (i * out_row + u * W), h, count)


@helper
def _project_ahead(s, a, block, panel, step, n_low, n_high, z):
    """Project some batch rows of a step and those after it; z is where the block's row 0 is or would be."""
    W = width(z)
    _, vectors = fed(s, block, X, W)
    last = min(s.T, step + s.projected)
    whole = n_high - n_low == s.N  # then one step's rows follow the other's
    next_panel, line = panel + _panel_size(s, W), int(W * _LINES_PER_VECTOR)
    for first in range(step, step + 1 if whole else last):
        start, count = rows_of(s, a.starts, first, last if whole else first + 1)
        if not whole:
            start, count = start + n_low, max(0, min(n_high, count) - n_low)
        parts = tiles(count, vectors)
        for i in range(parts):
            r = start + count * i // parts
            rows = count * (i + 1) // parts - count * i // parts
            ahead, ahead_k = (next_panel + i * s.I * line, line) if i * line < s.slots * W else (panel, 0)
            _project(s, a, block, panel, r, rows, z + r * s.slots * W, ahead, ahead_k)


@helper
def _left_rows(s, a, step, side, before, n):
    """What a recurrent product takes for batch rows n, n + 1, ...: h_{t-1} or m_t, and elements from row to row."""
    if side == SECOND:
        return a.u + (n + (step.row if s.tape else 0)) * s.H, s.H
    if s.takes:
        return a.taken + (n + (step.row if s.tape else 0)) * s.H, s.H
    return before.h + n * before.h_row, before.h_row


@helper
def _recur(s, side, block, panel, left, left_row, rows, z, ahead, ahead_k):
    """z += h_{t-1} W_hh^T, or of m_t, for some rows of these."""
    W = width(z)
    z_row = s.slots * W
    first, vectors = fed(s, block, side, W)
    _, slots = side_slots(s, side)
    weights = panel + (s.slots + s.columns * s.x_slots + (s.P * s.h_slots if side == SECOND else 0)) * W
    sums, w_row = z + first * W, slots * W
    product(rows, vectors, sums, z_row, sums, z_row, 0, left, left_row, 1, 0, weights, w_row, s.P, 1, ahead, ahead_k)


@helper
def _packed_block(s, a, block, following, panels, step, side, before, z):
    """Some rows of a step and a block; z is where the block's row 0 is, `following` the next block."""
    W = width(z)
    _, slots = side_slots(s, side)
    size = _panel_size(s, W)
    panel, next_panel = panels + block * size, panels + following * size
    line = int(W * _LINES_PER_VECTOR)
    lines = s.P if s.projected or a.tokens else s.columns + s.P
    far = size * s.blocks * VECTOR_BYTES > _FAR * W and following != block
    _, vectors = fed(s, block, side, W)
    if side == RECURRENT and not s.projected:  # a tile is low enough for both products
        _, of_x = fed(s, block, X, W)
        vectors = max(vectors, of_x)
    low, count = before.low, before.high - before.low
    parts = tiles(count, vectors) if vectors else 1
    for i in range(parts):
        n = low + count * i // parts
        rows = low + count * (i + 1) // parts - n
        ahead, ahead_k = panel, 0
        if far and i * line < slots * W:
            ahead, ahead_k = next_panel + i * lines * line, line
        r = step.row + n
        sums = z + r * s.slots * W
        if side == RECURRENT and not s.projected:
            _project(s, a, block, panel, r, rows, sums, ahead, ahead_k)
            ahead += s.I * ahead_k
        left, left_row = _left_rows(s, a, step, side, before, n)
        _recur(s, side, block, panel, left, left_row, rows, sums, ahead, ahead_k)
        _activate(s, a, block, step, side, before, n, rows, sums)


@helper
def _multiply_row(s, side, block, weights, K, a, z):
    """z += a weights^T for one row a (K,), from the weights (G*H, K) as they are; return how many k are done."""
    W = width(z)
    done = K // W * W
    first, slots = side_slots(s, side)
    for slot in range(slots):
        row, units = slot_rows(s, side, block, slot, W)
        if units < W:
            return 0
    for slot in range(slots):
        row, _ = slot_rows(s, side, block, slot, W)
        dot(z + (first + slot) * W, weights + row * K, K, a, done)
    return done


@helper
def _multiply_unpacked(s, side, block, weights, K, none, a, a_row, rows, z, panel):
    """z += a weights^T for a (rows, K), packing a chunk of the weights (G*H, K) at a time; `none` is a null pointer."""
    W = width(z)
    z_row = s.slots * W
    first, vectors = fed(s, block, side, W)
    _, slots = side_slots(s, side)
    if slots == 0:
        return
    w_row = slots * W
    parts = tiles(rows, vectors)
    done = _multiply_row(s, side, block, weights, K, a, z) if rows == 1 else 0
    for k in range(done, K, CHUNK):
        end = min(K, k + CHUNK)
        pack_rows(s, side, block, weights, K, none, k, end, panel)
        for i in range(parts):
            r = rows * i // parts
            count = rows * (i + 1) // parts - r
            sums, at = z + (r * z_row + first * W), a + (r * a_row + k)
            product(count, vectors, sums, z_row, sums, z_row, 0, at, a_row, 1, 0, panel, w_row, end - k, 1, panel, 0)


@helper
def _project_unpacked(s, a, block, panel, z):
    """z := bias + x W_ih^T for all steps, without packed weights; z is the block's first row."""
    W = width(z)
    rows = s.R
    weights, none = panel + s.slots * W, null_like(a.tokens)
    pack_sums(s, block, a.bias_ih, a.bias_hh, panel)
    for r in range(rows):
        for v in range(s.slots):
            store(z + (r * s.slots + v) * W, load(panel + v * W))
    if a.tokens:
        _, slots = side_slots(s, X)
        for start in range(0, rows, CHUNK):
            end = min(rows, start + CHUNK)
            pack_rows(s, X, block, a.ih, s.I, a.tokens, start, end, weights)
            for r in range(start, end):
                for v in range(slots):
                    place = z + (r * s.slots + v) * W
                    store(place, load(place) + load(weights + ((r - start) * slots + v) * W))
    else:
        _multiply_unpacked(s, X, block, a.ih, s.I, none, a.x, s.I, rows, z, weights)


@helper
def _unpacked_block(s, a, block, panel, step, side, before, z):
    """Some rows of a step and a block, which has been projected, without packed weights; z is the block's row 0."""
    n, rows = before.low, before.high - before.low
    sums = z + (step.row + n) * s.slots * width(z)
    left, left_row = _left_rows(s, a, step, side, before, n)
    _multiply_unpacked(s, side, block, a.hh, s.P, null_like(a.tokens), left, left_row, rows, sums, panel)
    _activate(s, a, block, step, side, before, n, rows, sums)


@helper
def _take(s, a, step, u_low, u_high, n_low, n_high):
    """What the recurrent product of a step takes, of some batch rows and units."""
    for carried in range(2):
        before = previous(s, a, step, carried, n_low, n_high)
        for n in range(before.low, before.high, ROWS):
            h, out = before.h + n * before.h_row, a.taken + (n + (step.row if s.tape else 0)) * s.H
            for u in range(u_low, u_high):
                run_take(s, a, u, h, before.h_row, n, step.row + n, min(ROWS, before.high - n), out)


@helper
def _phases(s, a, step, to_m, n_low, n_high, z):
    """The phases of some batch rows of a step, those up to m or the others; z is where row 0 of all is or would be."""
    W = width(z)
    to_u = bool(a.u) and (to_m or not s.m_slots)
    out, out_row = (a.u, s.H) if to_u else (a.y, s.y_row)
    for carried in range(2):
        before = previous(s, a, step, carried, n_low, n_high)
        for n in range(before.low, before.high, ROWS):
            here = out + (n + (0 if to_u and not s.tape else step.row)) * out_row
            c_row = s.N + step.row + n if s.tape else n
            at = z + (step.row + n) * s.slots * W
            run_phases(s, a, step, to_m, before, n, min(ROWS, before.high - n), c_row, at, here, out_row)


@helper
def _pack_projection(s, p, a, low, high):
    """Pack some blocks of W_hr; p are the projection's sizes."""
    W = width(a.y)
    for block in range(low, high):
        panel = aligned(a.hr_panels) + block * s.H * p.slots * W
        pack_rows(p, X, block, a.hr, s.H, null_like(a.tokens), 0, s.H, panel)


@helper
def _project_state(s, p, a, step, low, high, n_low, n_high, scratch):
    """y_t := u_t W_hr^T for some blocks of its columns and some batch rows."""
    W = width(a.y)
    sums, sums_row, w_row = scratch + 4 * W, 4 * W, p.slots * W
    for v in range(4):
        store(scratch + v * W, splat(scratch, 0.0))
    n_high = max(n_low, min(n_high, step.rows))
    for block in range(low, high):
        vectors = block_units(p, block, W)
        panel = aligned(a.hr_panels) + block * s.H * w_row
        parts = tiles(n_high - n_low, vectors)
        for part in range(parts):
            n = n_low + (n_high - n_low) * part // parts
            rows = n_low + (n_high - n_low) * (part + 1) // parts - n
            u = a.u + (n + (step.row if s.tape else 0)) * s.H
            product(rows, vectors, sums, sums_row, scratch, 0, 0, u, s.H, 1, 0, panel, w_row, s.H, 1, panel, 0)
            for i in range(rows):
                for v in range(vectors):
                    column = (block * p.units + v) * W
                    place = a.y + ((step.row + n + i) * s.y_row + column)
                    store_part(place, load(sums + (i * sums_row + v * W)), s.P - column)


@helper
def _end(s, a, n_low, n_high, h_low, h_high, u_low, u_high):
    """Write the final states of some batch rows, some vectors of h and some of c."""
    W = width(a.y)
    step = s.T - 1
    for n in range(n_low, n_high):
        step, row = last_row(s, a.starts, n, step)
        h = a.h_0 + n * s.P if row < 0 else a.y + row * s.y_row
        for u in range(h_low, h_high):
            store_part(a.h_n + (n * s.P + u * W), load_part(h + u * W, s.P - u * W), s.P - u * W)
        c_rows, c_row = (s.N + s.R, n if row < 0 else s.N + row) if s.tape else (s.N, n)
        for k in range(s.others):
            for u in range(u_low, u_high):
                value = load(a.c + ((k * s.blocks + u) * c_rows + c_row) * W)
                store_part(a.c_n + ((k * s.N + n) * s.H + u * W), value, s.H - u * W)


@helper
def _forward(s, a, sync, thread, team):
    """One thread's part."""
    W = width(a.y)
    z_row = s.slots * W
    panels, tape = aligned(a.panels), aligned(a.z)
    p = projection(s, W)
    turn = 0
    if s.packed and not s.ready:
        low, high = share(s.blocks, thread, team)
        for block in range(low, high):
            _pack_panel(s, a, block, panels + block * _panel_size(s, W))
    if a.hr_panels and not s.ready:
        low, high = share(p.blocks, thread, team)
        _pack_projection(s, p, a, low, high)
    if s.packed and not s.ready:
        turn = barrier(sync, team, turn, thread, a.watch)
    n_low, n_high = (0, s.N) if s.split_units else share_batch(s, a.starts, thread, team)
    b_low, b_high = share(s.blocks, thread, team) if s.split_units else (0, s.blocks)
    p_low, p_high = share(p.blocks, thread, team) if s.split_units else (0, p.blocks)

    c_stride = (s.N + s.R if s.tape else s.N) * W
    for k in range(s.others):
        for u in range(b_low, b_high):
            for n in range(n_low, n_high):
                value = load_part(a.c_0 + ((k * s.N + n) * s.H + u * W), s.H - u * W)
                store(a.c + ((k * s.blocks + u) * c_stride + n * W), value)

    if not s.packed:
        panels += thread * s.scratch
        for block in range(b_low, b_high):
            _project_unpacked(s, a, block, panels, tape + block * s.block_stride)

    base = 0  # the tape's first row
    every = steps_to_look(s)
    to_look, large = every, is_large(s)
    for t in range(s.T):
        step = step_at(s, a.starts, t)
        if not s.tape and not s.projected:
            base = step.row
        if s.packed and s.projected and t % s.projected == 0:
            if not s.tape:
                base, _ = rows_of(s, a.starts, t, min(s.T, t + s.projected))
            for block in range(b_low, b_high):
                panel = panels + block * _panel_size(s, W)
                _project_ahead(s, a, block, panel, t, n_low, n_high, tape + (block * s.block_stride - base * z_row))
        if s.takes:
            _take(s, a, step, b_low, b_high, n_low, n_high)
            if s.split_units:
                turn = barrier(sync, team, turn, thread, a.watch)
                if leaves(a.watch, turn):
                    return turn
        for side in range(RECURRENT, SECOND + 1 if s.m_slots else SECOND):
            for carried in range(2):
                before = previous(s, a, step, carried, n_low, n_high)
                if before.low == before.high:
                    continue
                for i in range(b_low, b_high):
                    back = t % 2  # back and forth through the blocks: the last ones are still in the cache
                    block = b_low + b_high - 1 - i if back else i
                    following = max(b_low, block - 1) if back else min(b_high - 1, block + 1)
                    z = tape + (block * s.block_stride - base * z_row)
                    if large and stopped(a.watch, thread, turn):
                        break
                    if s.packed:
                        _packed_block(s, a, block, following, panels, step, side, before, z)
                    else:
                        _unpacked_block(s, a, block, panels, step, side, before, z)
            to_look -= 1
            if to_look == 0:
                to_look = every
                if stopped(a.watch, thread, turn) and not s.split_units:
                    return turn
            if s.split_units:
                turn = barrier(sync, team, turn, thread, a.watch)
                if leaves(a.watch, turn):
                    return turn
            if s.phases:
                low, high = share(s.N, thread, team) if s.split_units else (n_low, n_high)
                to_m = s.m_slots > 0 and side == RECURRENT
                _phases(s, a, step, to_m, low, high, tape + -base * z_row)
                if s.split_units:
                    turn = barrier(sync, team, turn, thread, a.watch)
                    if leaves(a.watch, turn):
                        return turn
        if a.hr_panels:
            scratch = aligned(a.hr_scratch) + thread * PROJECTION_SCRATCH * W
            _project_state(s, p, a, step, p_low, p_high, n_low, n_high, scratch)
            if s.split_units:
                turn = barrier(sync, team, turn, thread, a.watch)
                if leaves(a.watch, turn):
                    return turn

    vectors = (s.P + W - 1) // W
    units, h_low, h_high = (p.units, p_low, p_high) if a.hr_panels else (s.units, b_low, b_high)
    _end(s, a, n_low, n_high, h_low * units, min(h_high * units, vectors), b_low, b_high)
    return turn


@helper
def _forward_part(s, a, sync, thread, team):
    """One thread's part, from its first to its last wait."""
    setting = begin(thread, a.watch)
    turn = _forward(s, a, sync, thread, team)
    finish(sync, team, turn, thread, a.watch, setting)


@kernel
def forward_kernel(s, a, pool, threads):
    """`fastrnn.reference.forward`, as `numba_threads.run` calls it."""
    team = 1
    if threads > 1:
        offer(pool, _forward_part, s, a)
        team = gather(pool, threads)
    _forward_part(s, a, pool, 0, team)
