"""Back-propagation through time: from the tape's gates to the gradients of everything.

Step by step in reverse, dh_t starts at dy_t (and what bypasses the products), takes dZ_{t+1} W_hh in the order of Z,
and the cell turns the gates of Z_t into the gradients of their sums, in place. Then Z holds all that the rest needs:
dW = dZ^T x and dZ^T h_prev with the rows t * N + n ascending, and dx = dZ W_ih in the order of Z.
"""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.kernels.numba_cells import GRU, LSTM, point_backward
from fastrnn.kernels.numba_layout import (
    RECURRENT,
    Sizes,
    X,
    block_units,
    column_panels,
    column_vectors,
    fed,
    side_slots,
    slot_rows,
    tiles,
)
from fastrnn.kernels.numba_options import helper, kernel
from fastrnn.kernels.numba_pack import pack_columns, unpack_rows
from fastrnn.kernels.numba_threads import barrier, finish, flush_denormals, gather, offer, restore_denormals, share
from fastrnn.kernels.numba_tile import product
from fastrnn.kernels.numba_vector import aligned, load, load_part, null_like, splat, store, store_part, width
from fastrnn.parameters import Array

__all__ = ["BackwardArrays", "backward_kernel", "buffer_sizes"]

_SUMMED = 128  # terms after which a product turns to the next rows: 32 KB of panel, which stay in the first-level cache
_INPUT_ROWS = 96  # rows of dx that are made at a time


def buffer_sizes(sizes: Sizes, real: bool, product_row: int, W: int) -> tuple[int, int, int]:
    """Elements of one thread's scratch, of dW_ih's sums, and of all sums.

    `real` tells whether x is real input or tokens; `product_row` elements of a block's row take part in a product.
    """
    inputs = sizes.I * real
    tokens = sizes.columns * product_row * (not real)
    few_rows = (13 + _SUMMED) * 4 * W
    many_rows = 4 * W + (max(inputs, sizes.H) + 8) * 8 * _SUMMED
    biases = (sizes.slots + 1) * W
    product = _INPUT_ROWS * 4 * W + sizes.blocks * product_row * 4 * W
    large = sizes.T * sizes.N > _SUMMED
    column = sizes.blocks * product_row * large
    scratch = max(tokens, many_rows if large else few_rows, biases, product)
    return scratch, inputs * column, (inputs + sizes.H) * column


class BackwardArrays(NamedTuple):
    """The arrays of a call: inputs, outputs, scratch; z is overwritten."""

    x: Array | None  # (T, N, I)
    tokens: Array | None  # (T, N), instead of x
    ih: Array
    hh: Array
    h_0: Array
    y: Array
    c: Array | None  # LSTM only, as all of c
    dy: Array | None
    dh_n: Array | None
    dc_n: Array | None
    dx: Array | None
    dh_0: Array
    dc_0: Array | None
    dih: Array  # zeros where `Sizes.columns` < I
    dhh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None
    z: Array
    dh: Array  # (N, columns of whole panels)
    dc: Array | None  # (vectors of units, N, W)
    panels: Array  # weight_hh by panels of columns
    scratch: Array  # for each thread
    sums: Array | None  # dW_ih and dW_hh as packed weights, if made from many rows


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


# --- through time


@helper
def _start(s, a, p, t, n, rows, dh, dh_row):
    """dh := what reaches h_t without a product: dy_t, and dh_n at the end or what bypasses a_h before it."""
    W = width(dh)
    for v in range(column_vectors(s.H, p, W)):
        unit = (p * 4 + v) * W
        count = s.H - unit
        for i in range(rows):
            place = dh + (i * dh_row + v * W)
            total = splat(dh, 0.0)
            if t == s.T - 1:
                if a.dh_n:
                    total = load_part(a.dh_n + ((n + i) * s.H + unit), count)
            elif s.cell == GRU:
                total = load(place)
            if a.dy and t >= 0:
                total = total + load_part(a.dy + ((t * s.N + n + i) * s.H + unit), count)
            store(place, total)


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
                    product(count, vectors, sums, out_row, sums, out_row, at, z_row, 1, 0, here, K, units, 1, here, 0)
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
def _differentiate(s, a, p, t, n, rows, tape, dh, dh_row):
    """Turn the gates of step t into gradients of their sums, for the units of the p-th panel of columns."""
    W = width(dh)
    for v in range(column_vectors(s.H, p, W)):
        u = p * 4 + v
        count = s.H - u * W
        z = tape + ((u // s.units) * s.block_stride + ((t * s.N + n) * s.slots + u % s.units) * W)
        h_prev = (a.y + (t - 1) * s.N * s.H if t else a.h_0) + (n * s.H + u * W)
        c_prev, dc = a.c + ((u * (s.T + 1) + t) * s.N + n) * W, a.dc + (u * s.N + n) * W
        for i in range(rows):
            place, row, c = dh + (i * dh_row + v * W), z + i * s.slots * W, c_prev + i * W
            bypass = point_backward(s.cell, row, c, c + s.N * W, h_prev + i * s.H, count, load(place), dc + i * W)
            store(place, bypass)


@helper
def _clear_missing_units(s, tape, n_low, n_high, W):
    """Zero the vectors of an RNN's last block that stand for no unit: products over whole blocks read them."""
    z = tape + (s.blocks - 1) * s.block_stride
    for v in range(block_units(s, s.blocks - 1, W), s.units):
        for t in range(s.T):
            for n in range(n_low, n_high):
                store(z + ((t * s.N + n) * s.slots + v) * W, splat(z, 0.0))


@helper
def _through_time(s, a, sync, thread, team):
    """One thread's part of the way from step T - 1 to the initial states."""
    W = width(a.dh)
    tape, panels, dh = aligned(a.z), aligned(a.panels), aligned(a.dh)
    _, slots = side_slots(s, RECURRENT)
    count = column_panels(s.H, W)
    dh_row = count * 4 * W
    size = s.blocks * slots * W * 4 * W
    turn = 0
    if s.packed:
        low, high = share(count, thread, team)
        for p in range(low, high):
            _pack_panel(s, RECURRENT, a.hh, s.H, p, panels + p * size)
        turn = barrier(sync, team, turn)
    n, n_high = (0, s.N) if s.split_units else share(s.N, thread, team)
    p_low, p_high = share(count, thread, team) if s.split_units else (0, count)
    u_low, u_high = p_low * 4, min(p_high * 4, (s.H + W - 1) // W)
    rows = n_high - n
    if s.units > 1 and p_high == count:
        _clear_missing_units(s, tape, n, n_high, W)
    if s.cell == LSTM:
        for u in range(u_low, u_high):
            for i in range(n, n_high):
                dc = load_part(a.dc_n + (i * s.H + u * W), s.H - u * W) if a.dc_n else splat(dh, 0.0)
                store(a.dc + (u * s.N + i) * W, dc)

    for t in range(s.T - 1, -2, -1):
        for i in range(p_low, p_high):
            p = p_low + p_high - 1 - i if t % 2 else i  # back and forth: the last panels are still in the cache
            place = dh + (n * dh_row + p * 4 * W)
            _start(s, a, p, t, n, rows, place, dh_row)
            if t < s.T - 1:
                z_next = tape + ((t + 1) * s.N + n) * s.slots * W
                panel = panels + p * size if s.packed else aligned(a.scratch) + thread * s.scratch
                weights = null_like(a.hh) if s.packed else a.hh
                _multiply(s, RECURRENT, p, s.H, panel, weights, z_next, rows, place, dh_row)
            if t >= 0:
                _differentiate(s, a, p, t, n, rows, tape, place, dh_row)
        if s.split_units:
            turn = barrier(sync, team, turn)

    for u in range(u_low, u_high):
        for i in range(n, n_high):
            place, units = i * s.H + u * W, s.H - u * W
            store_part(a.dh_0 + place, load(dh + (i * dh_row + u * W)), units)
            if s.cell == LSTM:
                store_part(a.dc_0 + place, load(a.dc + (u * s.N + i) * W), units)
    return turn


# --- the gradients of the weights and of x


@helper
def _copy_rows(s, a, side, r, rows, k, step, count, out):
    """out[i, :count] := columns k, k + 1, ... of the left operand's rows r, r + 1, ..., `step` elements apart.

    The left operand is x or h_prev. Lanes behind its last column become zero; those of the last vector that are
    behind `count` or `step` are overwritten by the next row, so `out` needs room for one more vector.
    """
    W = width(out)
    K = s.H if side else s.I
    for i in range(rows):
        if side == X:
            source = a.x + ((r + i) * K + k)  # a_x = x W_ih^T
        elif r + i < s.N:
            source = a.h_0 + ((r + i) * K + k)  # a_h = h_prev W_hh^T
        else:
            source = a.y + ((r + i - s.N) * K + k)
        for j in range(0, count, W):
            store(out + (i * step + j), load_part(source + j, K - k - j))


@helper
def _weights_of_few_rows(s, a, side, thread, team, scratch):
    """One thread's part of dW from at most `_SUMMED` rows: some panels of columns of some blocks.

    Gate rows are the tile's rows and x or h_prev its panel: dW, which is larger than them, is written once, in place.
    """
    W = width(scratch)
    z_row, total = s.slots * W, s.T * s.N
    K, weights = (s.H, a.dhh) if side else (s.I, a.dih)
    first_slot, slots = side_slots(s, side)
    zero, sums = scratch, scratch + 4 * W
    panel = sums + 8 * 4 * W
    _clear(zero, 4 * W)
    low, high = share(column_panels(K, W) * s.blocks, thread, team)
    for place in range(low, high):
        p, block = place // s.blocks, place % s.blocks
        k, vectors = p * 4 * W, column_vectors(K, p, W)
        row = vectors * W
        whole = k + row <= K
        if place == low or block == 0:
            _copy_rows(s, a, side, 0, total, k, row, row, panel)
        for slot in range(slots):
            weight_row, units = slot_rows(s, side, block, slot, W)
            parts = tiles(units, vectors)
            for i in range(parts):
                unit = units * i // parts
                count = units * (i + 1) // parts - unit
                at = aligned(a.z) + (block * s.block_stride + (first_slot + slot) * W + unit)
                here = weights + ((weight_row + unit) * K + k)
                out, out_row = (here, K) if whole else (sums, row)  # the tile writes whole vectors
                product(count, vectors, out, out_row, zero, 0, at, 1, z_row, 0, panel, row, total, 1, panel, 0)
                if not whole:
                    for r in range(count):
                        for v in range(vectors):
                            store_part(here + (r * K + v * W), load(sums + (r * row + v * W)), K - k - v * W)


@helper
def _weights_of_many_rows(s, a, side, thread, team, sums, scratch):
    """One thread's part of dW: some columns of all blocks.

    Columns of x or h_prev are the tile's rows, copied together a chunk of rows at a time, and Z is its panel; dW is
    summed in the order of packed weights, `sums`, and unpacked at the end.
    """
    W = width(scratch)
    z_row, total = s.slots * W, s.T * s.N
    K, weights = (s.H, a.dhh) if side else (s.I, a.dih)
    first_slot, slots = side_slots(s, side)
    row = slots * W
    _, vectors = fed(s, 0, side, W)
    parts = tiles(K, vectors)
    low, high = share(parts, thread, team)
    first, last = K * low // parts, K * high // parts
    zero, copied = scratch, scratch + 4 * W
    _clear(zero, 4 * W)
    for r in range(0, total, _SUMMED):
        rows = min(_SUMMED, total - r)
        for i in range(low, high):
            k = K * i // parts
            count = K * (i + 1) // parts - k
            _copy_rows(s, a, side, r, rows, k, 8, count, copied + (i - low) * _SUMMED * 8)
        for block in range(s.blocks):
            z = aligned(a.z) + (block * s.block_stride + r * z_row + first_slot * W)
            _, vectors = fed(s, block, side, W)
            for i in range(low, high):
                k = K * i // parts
                count = K * (i + 1) // parts - k
                out = sums + (block * K + k) * row
                init, init_row = (out, row) if r else (zero, 0)
                ahead, ahead_k = out + count * row, count * row // _SUMMED
                at = copied + (i - low) * _SUMMED * 8
                product(count, vectors, out, row, init, init_row, at, 1, 8, 0, z, z_row, rows, 1, ahead, ahead_k)
    for block in range(s.blocks):
        panel = sums + (block * K + first) * row
        unpack_rows(s, side, block, panel, first, last, weights, K, null_like(a.tokens))


@helper
def _weights_of_tokens(s, a, thread, team, panel):
    """One thread's part of dW_ih from tokens: some blocks."""
    W = width(panel)
    _, slots = side_slots(s, X)
    columns = a.tokens if s.columns < s.I else null_like(a.tokens)
    low, high = share(s.blocks, thread, team)
    for block in range(low, high):
        z = aligned(a.z) + block * s.block_stride
        _clear(panel, s.columns * slots * W)
        for r in range(s.T * s.N):
            column = r if columns else a.tokens[r]
            for v in range(slots):
                place = panel + (column * slots + v) * W
                store(place, load(place) + load(z + (r * s.slots + v) * W))  # a_x = W_ih[:, token]
        unpack_rows(s, X, block, panel, 0, s.columns, a.dih, s.I, columns)


@helper
def _biases(s, a, thread, team, sums):
    """One thread's part of the bias gradients: the sums of the rows of some blocks."""
    W = width(sums)
    row = s.slots * W
    one = sums + row
    one[0] = 1.0
    low, high = share(s.blocks, thread, team)
    for block in range(low, high):
        z = aligned(a.z) + block * s.block_stride
        _clear(sums, row)
        product(1, s.slots, sums, 0, sums, 0, one, 0, 0, 0, z, row, s.T * s.N, 1, z, 0)
        for side in (X, RECURRENT):
            bias = a.dbias_hh if side else a.dbias_ih
            first, slots = side_slots(s, side)
            for slot in range(slots):
                weight_row, units = slot_rows(s, side, block, slot, W)
                for lane in range(units):
                    bias[weight_row + lane] = sums[(first + slot) * W + lane]


@helper
def _input(s, a, thread, team, scratch):
    """One thread's part of dx: some rows t * N + n, or, where there are few rows, some panels of columns."""
    W = width(scratch)
    few = _INPUT_ROWS * team > s.T * s.N
    r_low, r_high = (0, s.T * s.N) if few else share(s.T * s.N, thread, team)
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
            _clear(scratch, rows * vectors * W)
            weights = a.ih if one_pass else null_like(a.ih)
            z = aligned(a.z) + r * s.slots * W
            _multiply(s, X, p, s.I, panel, weights, z, rows, scratch, vectors * W)  # a_x = x W_ih^T
            for i in range(rows):
                for v in range(vectors):
                    k = column + v * W
                    store_part(a.dx + ((r + i) * s.I + k), load(scratch + (i * vectors + v) * W), s.I - k)


@helper
def _backward_part(s, a, sync, thread, team):
    """One thread's part, from its first to its last wait."""
    setting = flush_denormals()
    turn = _through_time(s, a, sync, thread, team)
    turn = barrier(sync, team, turn)
    scratch = aligned(a.scratch) + thread * s.scratch
    sums = aligned(a.sums)
    for side in (X, RECURRENT):
        if side == X and a.tokens:
            _weights_of_tokens(s, a, thread, team, scratch)
        elif s.T * s.N <= _SUMMED:
            _weights_of_few_rows(s, a, side, thread, team, scratch)
        else:
            _weights_of_many_rows(s, a, side, thread, team, sums + side * s.sums, scratch)
    if a.dbias_ih:
        _biases(s, a, thread, team, scratch)
    if a.dx:
        _input(s, a, thread, team, scratch)
    restore_denormals(setting)
    finish(sync, team, turn, thread)


@kernel
def backward_kernel(s, a, pool, threads):
    """`fastrnn.reference.backward`, as `numba_threads.run` calls it."""
    team = 1
    if threads > 1:
        offer(pool, _backward_part, s, a)
        team = gather(pool, threads)
    _backward_part(s, a, pool, 0, team)
