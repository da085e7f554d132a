"""Weights in the order in which the tile reads them, and weight gradients back out of it; see `numba_layout`."""

from __future__ import annotations

from fastrnn.kernels.numba_layout import RECURRENT, SECOND, X, column_vectors, side_slots, slot_rows
from fastrnn.kernels.numba_options import helper
from fastrnn.kernels.numba_tile import transpose
from fastrnn.kernels.numba_vector import load_part, splat, store, width

__all__ = ["CHUNK", "pack_columns", "pack_rows", "pack_sums", "unpack_rows"]

CHUNK = 64  # columns that are packed at a time: 16 KB, which stay in the first-level cache


@helper
def pack_rows(s, side, block, weights, K, columns, first, last, panel):
    """panel[j - first, slot, lane] := weights[row of (slot, lane), columns[j]] for first <= j < last.

    Parameters
    ----------
    weights, K
        IN (G*H, K).
    columns
        IN which columns; null for all.
    panel
        OUT (last - first, the side's slots, W); lanes that stand for no unit become zero.
    """
    W = width(panel)
    _, slots = side_slots(s, side)
    stride = slots * W
    for start in range(first, last, CHUNK):
        end = min(last, start + CHUNK)
        for slot in range(slots):
            row, units = slot_rows(s, side, block, slot, W)
            here, there = panel + ((start - first) * stride + slot * W), weights + row * K
            tiled = 0 if columns or units < W else (end - start) // W * W
            for j in range(0, tiled, W):
                transpose(here + j * stride, stride, there + (start + j), K)
            for j in range(tiled, end - start):
                k = columns[start + j] if columns else start + j
                for lane in range(W):
                    here[j * stride + lane] = there[lane * K + k] if lane < units else 0.0


@helper
def unpack_rows(s, side, block, panel, first, last, weights, K, columns):
    """The inverse of `pack_rows`; with `columns` given, added to what `weights` (INOUT) holds."""
    W = width(panel)
    _, slots = side_slots(s, side)
    stride = slots * W
    for slot in range(slots):
        row, units = slot_rows(s, side, block, slot, W)
        here, there = panel + slot * W, weights + row * K
        tiled = first if columns or units < W else first + (last - first) // W * W
        for j in range(first, tiled, W):
            transpose(there + j, K, here + (j - first) * stride, stride)
        for lane in range(units):
            for j in range(tiled, last):
                value = here[(j - first) * stride + lane]
                if columns:
                    there[lane * K + columns[j]] += value
                else:
                    there[lane * K + j] = value


@helper
def pack_sums(s, block, bias_ih, bias_hh, sums):
    """sums[slot, lane] := what the gates' sums start with (slots, W): both biases, or zero where they are null."""
    W = width(sums)
    for slot in range(s.slots):
        store(sums + slot * W, splat(sums, 0.0))
    if bias_ih:
        for side in (X, RECURRENT, SECOND):
            bias = bias_ih if side == X else bias_hh
            first, slots = side_slots(s, side)
            for slot in range(slots):
                row, units = slot_rows(s, side, block, slot, W)
                for lane in range(units):
                    sums[(first + slot) * W + lane] += bias[row + lane]


@helper
def pack_columns(s, side, block, weights, K, p, panel):
    """panel[slot, lane, :] := weights[row of (slot, lane), the p-th panel's columns], zeros outside (G*H, K)."""
    W = width(panel)
    _, slots = side_slots(s, side)
    vectors = column_vectors(K, p, W)
    for slot in range(slots):
        row, units = slot_rows(s, side, block, slot, W)
        for lane in range(W):
            for v in range(vectors):
                k = (p * 4 + v) * W
                if lane < units:
                    store(panel + v * W, load_part(weights + ((row + lane) * K + k), K - k))
                else:
                    store(panel + v * W, splat(panel, 0.0))
            panel += vectors * W
