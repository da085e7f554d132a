"""Forward through a sequence: for every step and block of units, sums on the tile, then the cell where the sums stand.

The sums start at the bias, take x_t W_ih^T with k ascending, then h_{t-1} W_hh^T with k ascending. They lie in the tape

    Z[block][t * N + n][slots * W]

which holds the activated gates afterwards; see `numba_layout` for blocks and slots. The cell state is kept beside it,
by vectors of units as well: C[u][t * N + n][W], with the initial one as step 0.
"""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.kernels.numba_cells import GRU, LSTM, point_forward
from fastrnn.kernels.numba_layout import RECURRENT, X, block_units, fed, side_slots, slot_rows, tiles
from fastrnn.kernels.numba_options import VECTOR_BYTES, helper, kernel
from fastrnn.kernels.numba_pack import CHUNK, pack_rows, pack_sums
from fastrnn.kernels.numba_threads import barrier, finish, flush_denormals, gather, offer, restore_denormals, share
from fastrnn.kernels.numba_tile import dot, product
from fastrnn.kernels.numba_vector import aligned, load, load_part, null_like, store, store_part, width
from fastrnn.parameters import Array

__all__ = ["ForwardArrays", "forward_kernel"]

_LINES_PER_VECTOR = 64 / VECTOR_BYTES
_FAR = 1 << 20  # bytes of weights above which the next panel is fetched from the third-level cache ahead of its use


class ForwardArrays(NamedTuple):
    """The arrays of a call: inputs, outputs, scratch."""

    x: Array | None  # (T, N, I)
    tokens: Array | None  # (T, N), instead of x
    ih: Array
    hh: Array
    bias_ih: Array | None
    bias_hh: Array | None
    h_0: Array
    c_0: Array | None  # LSTM only, as all of c
    y: Array
    c_n: Array | None
    z: Array  # Z, of all steps or of those projected at a time
    c: Array | None  # C, of T + 1 steps or of one
    panels: Array  # each block's starting sums, x weights and h weights; or a chunk of them for each thread


@helper
def _panel_size(s, W):
    """Elements of a block's panel."""
    _, slots = side_slots(s, RECURRENT)
    return (s.slots + (s.columns + s.H) * slots) * W


@helper
def _pack_panel(s, a, block, panel):
    """Write a block's panel: its starting sums, its x weights, its h weights."""
    W = width(panel)
    _, slots = side_slots(s, RECURRENT)
    none = null_like(a.tokens)
    x_weights = panel + s.slots * W
    pack_sums(s, block, a.bias_ih, a.bias_hh, panel)
    pack_rows(s, X, block, a.ih, s.I, a.tokens if s.columns < s.I else none, 0, s.columns, x_weights)
    pack_rows(s, RECURRENT, block, a.hh, s.H, none, 0, s.H, x_weights + s.columns * slots * W)


@helper
def _project(s, a, block, panel, r, rows, z, ahead, ahead_k):
    """z := bias + x W_ih^T for rows r, r + 1, ... of x."""
    W = width(z)
    z_row = s.slots * W
    _, vectors = fed(s, block, X, W)
    _, slots = side_slots(s, X)
    weights = panel + z_row
    if s.cell == GRU:  # the slot that no x weight feeds
        for i in range(rows):
            store(z + (i * z_row + 3 * W), load(panel + 3 * W))
    if a.tokens:
        for i in range(rows):
            column = a.tokens[r + i] if s.columns == s.I else r + i
            for v in range(slots):
                store(z + (i * z_row + v * W), load(panel + v * W) + load(weights + (column * slots + v) * W))
    else:
        w_row = slots * W
        product(rows, vectors, z, z_row, panel, 0, a.x + r * s.I, s.I, 1, 0, weights, w_row, s.I, 1, ahead, ahead_k)


@helper
def _recur(s, a, block, panel, t, n, rows, z, ahead, ahead_k):
    """z += h_{t-1} W_hh^T for batch rows n, n + 1, ..."""
    W = width(z)
    z_row = s.slots * W
    first, vectors = fed(s, block, RECURRENT, W)
    _, slots = side_slots(s, RECURRENT)
    weights = panel + (s.slots + s.columns * slots) * W
    h_prev = (a.y + (t - 1) * s.N * s.H if t else a.h_0) + n * s.H
    sums, w_row = z + first * W, slots * W
    product(rows, vectors, sums, z_row, sums, z_row, h_prev, s.H, 1, 0, weights, w_row, s.H, 1, ahead, ahead_k)


@helper
def _activate(s, a, block, t, n, rows, z):
    """Turn the sums z of batch rows n, n + 1, ... into gates, and write y_t and c_t."""
    W = width(z)
    h_prev = (a.y + (t - 1) * s.N * s.H if t else a.h_0) + n * s.H
    y = a.y + (t * s.N + n) * s.H
    steps, step = (s.T + 1, t) if s.tape else (1, 0)
    following = s.N * W if s.tape else 0
    for v in range(block_units(s, block, W)):
        u = block * s.units + v
        c_prev = a.c + ((u * steps + step) * s.N + n) * W
        count = s.H - u * W
        for i in range(rows):
            row, place = z + (i * s.slots + v) * W, i * s.H + u * W
            c = c_prev + i * W
            h = point_forward(s.cell, row, c, c + following, h_prev + place, count)
            store_part(y + place, h, count)


@helper
def _project_ahead(s, a, block, panel, t, n_low, n_high, z):
    """Project steps t, t + 1, ... of some batch rows; z is the block's row of step t and n = 0."""
    W = width(z)
    _, vectors = fed(s, block, X, W)
    steps = min(s.projected, s.T - t)
    whole = n_high - n_low == s.N  # then one step's rows follow the other's
    count = steps * s.N if whole else n_high - n_low
    parts = tiles(count, vectors)
    next_panel, line = panel + _panel_size(s, W), int(W * _LINES_PER_VECTOR)
    for step in range(1 if whole else steps):
        for i in range(parts):
            row = step * s.N + n_low + count * i // parts
            rows = count * (i + 1) // parts - count * i // parts
            ahead, ahead_k = (next_panel + i * s.I * line, line) if i * line < s.slots * W else (panel, 0)
            _project(s, a, block, panel, t * s.N + row, rows, z + row * s.slots * W, ahead, ahead_k)


@helper
def _packed_block(s, a, block, following, panels, t, n_low, n_high, z):
    """Step t of some batch rows and a block; z is the block's row of the step and n = 0, `following` the next block."""
    W = width(z)
    _, slots = side_slots(s, RECURRENT)
    size = _panel_size(s, W)
    panel, next_panel = panels + block * size, panels + following * size
    line = int(W * _LINES_PER_VECTOR)
    lines = s.H if s.projected or a.tokens else s.columns + s.H
    far = size * s.blocks * VECTOR_BYTES > _FAR * W and following != block
    _, vectors = fed(s, block, RECURRENT, W)
    parts = tiles(n_high - n_low, vectors)
    for i in range(parts):
        n = n_low + (n_high - n_low) * i // parts
        rows = n_low + (n_high - n_low) * (i + 1) // parts - n
        ahead, ahead_k = panel, 0
        if far and i * line < slots * W:
            ahead, ahead_k = next_panel + i * lines * line, line
        rows_z = z + n * s.slots * W
        if not s.projected:
            _project(s, a, block, panel, t * s.N + n, rows, rows_z, ahead, ahead_k)
            ahead += s.I * ahead_k
        _recur(s, a, block, panel, t, n, rows, rows_z, ahead, ahead_k)
        _activate(s, a, block, t, n, rows, rows_z)


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
def _multiply_unpacked(s, side, block, weights, K, none, a, rows, z, panel):
    """z += a weights^T for a (rows, K), packing a chunk of the weights (G*H, K) at a time; `none` is a null pointer."""
    W = width(z)
    z_row = s.slots * W
    first, vectors = fed(s, block, side, W)
    _, slots = side_slots(s, side)
    w_row = slots * W
    parts = tiles(rows, vectors)
    done = _multiply_row(s, side, block, weights, K, a, z) if rows == 1 else 0
    for k in range(done, K, CHUNK):
        end = min(K, k + CHUNK)
        pack_rows(s, side, block, weights, K, none, k, end, panel)
        for i in range(parts):
            r = rows * i // parts
            count = rows * (i + 1) // parts - r
            sums, at = z + (r * z_row + first * W), a + (r * K + k)
            product(count, vectors, sums, z_row, sums, z_row, at, K, 1, 0, panel, w_row, end - k, 1, panel, 0)


@helper
def _project_unpacked(s, a, block, panel, z):
    """z := bias + x W_ih^T for all steps, without packed weights; z is the block's first row."""
    W = width(z)
    rows = s.T * s.N
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
        _multiply_unpacked(s, X, block, a.ih, s.I, none, a.x, rows, z, weights)


@helper
def _unpacked_block(s, a, block, panel, t, z):
    """Step t of a block, which has been projected, without packed weights; z is the block's row of the step."""
    h_prev = a.y + (t - 1) * s.N * s.H if t else a.h_0
    _multiply_unpacked(s, RECURRENT, block, a.hh, s.H, null_like(a.tokens), h_prev, s.N, z, panel)
    _activate(s, a, block, t, 0, s.N, z)


@helper
def _forward(s, a, sync, thread, team):
    """One thread's part."""
    W = width(a.y)
    z_row = s.slots * W
    panels, tape = aligned(a.panels), aligned(a.z)
    turn = 0
    if s.packed and not s.ready:
        low, high = share(s.blocks, thread, team)
        for block in range(low, high):
            _pack_panel(s, a, block, panels + block * _panel_size(s, W))
        turn = barrier(sync, team, turn)
    n_low, n_high = (0, s.N) if s.split_units else share(s.N, thread, team)
    b_low, b_high = share(s.blocks, thread, team) if s.split_units else (0, s.blocks)

    c_stride = (s.T + 1 if s.tape else 1) * s.N * W
    if s.cell == LSTM:
        for u in range(b_low, b_high):
            for n in range(n_low, n_high):
                store(a.c + (u * c_stride + n * W), load_part(a.c_0 + (n * s.H + u * W), s.H - u * W))

    if not s.packed:
        panels += thread * s.scratch
        for block in range(b_low, b_high):
            _project_unpacked(s, a, block, panels, tape + block * s.block_stride)

    for t in range(s.T):
        if s.packed and s.projected and t % s.projected == 0:
            z = tape + (t * s.N * z_row if s.tape else 0)
            for block in range(b_low, b_high):
                panel = panels + block * _panel_size(s, W)
                _project_ahead(s, a, block, panel, t, n_low, n_high, z + block * s.block_stride)
        step = t if s.tape else t % max(1, s.projected)
        for i in range(b_low, b_high):
            back = t % 2  # back and forth through the blocks: the last ones are still in the cache
            block = b_low + b_high - 1 - i if back else i
            following = max(b_low, block - 1) if back else min(b_high - 1, block + 1)
            z = tape + (block * s.block_stride + step * s.N * z_row)
            if s.packed:
                _packed_block(s, a, block, following, panels, t, n_low, n_high, z)
            else:
                _unpacked_block(s, a, block, panels, t, z)
        if s.split_units:
            turn = barrier(sync, team, turn)

    if s.cell == LSTM:
        last = s.T * s.N * W if s.tape else 0
        for u in range(b_low, b_high):
            for n in range(n_low, n_high):
                c = load(a.c + (u * c_stride + last + n * W))
                store_part(a.c_n + (n * s.H + u * W), c, s.H - u * W)
    return turn


@helper
def _forward_part(s, a, sync, thread, team):
    """One thread's part, from its first to its last wait."""
    setting = flush_denormals()
    turn = _forward(s, a, sync, thread, team)
    restore_denormals(setting)
    finish(sync, team, turn, thread)


@kernel
def forward_kernel(s, a, pool, threads):
    """`fastrnn.reference.forward`, as `numba_threads.run` calls it."""
    team = 1
    if threads > 1:
        offer(pool, _forward_part, s, a)
        team = gather(pool, threads)
    _forward_part(s, a, pool, 0, team)
