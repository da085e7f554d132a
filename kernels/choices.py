"""The numbers by which the C kernels choose between ways with the same bits: one table.

Each is a formula of facts: `l1d` and `l2`, the bytes of a core's caches, its part of an L2 that cores share; `l3`,
those of L3, 0 without one; `lanes`, how many float32 a vector has. `python -m fastrnn.bench.tune --table` prints what
they are here, `--check` looks whether they are right, and FASTRNN_TUNE=NAME=NUMBER,... replaces them.

Times are of one way beside another, of one thread, float32, on busy machines: SPR, an Intel with AMX (48 KB L1d, 2 MB
L2); Zen 4, AVX-512 at half width (32 KB, 1 MB); Zen 3, AVX2 (32 KB, 512 KB). A number without facts is right on all of
them, or was measured on one.
"""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.machine import Caches

__all__ = ["CHOICES", "Choice", "numbers"]

_NAMES = {"KB": 1 << 10, "MB": 1 << 20, "min": min, "max": max}


class Choice(NamedTuple):
    """A number: what it is computed from, and what it means."""

    formula: str
    meaning: str


# fmt: off
CHOICES = {
    # Threads. 10 million flops take about 100 us of one core.
    "FLOPS_WORTH_A_THREAD": Choice(
        "10_000_000", "flops of a call below which waking a worker costs more than it brings"),
    "ROWS_WORTH_A_THREAD": Choice(
        "4", "rows per thread below which a tile is too low to be worth a split of the batch"),
    # By splitting the units two threads take 0.77 of the time for N = 16, H = 512, 0.83 for N = 20, H = 650, but 1.1
    # for N = 32 (SPR).
    "ROWS_WORTH_LARGE_WEIGHTS": Choice(
        "12", "the same of large weights, which every thread would read at every step"),
    "MEMBERS_APART": Choice(
        "1", "whether the members of a group are shared out among the threads, rather than each member's work"),
    # An L2 that holds them leaves nothing to save; not measured with more than 2 MB.
    "LARGE_BYTES": Choice(
        "max(4 * MB, 2 * l2)", "bytes of packed weights above which they are large"),

    # The input product. Chunks of time at once read weights less often: 1.3 to 1.5 times as fast at N = 1 (SPR). With
    # AVX2 fusing takes 1.17 of the time at N = 4, and 0.85 to 1.12 from N = 5 on (Zen 3).
    "ROWS_WORTH_FUSING": Choice(
        "5", "rows from which on a tile takes x in with h; below, x is projected ahead"),
    # With 512 KB of L2 the half of it takes 0.93 to 1.01 of the time of 512 KB, 1 MB 0.95 to 1.1, 4 MB 0.93 to 1.15
    # (Zen 3).
    "PROJECTION_BYTES": Choice(
        "min(512 * KB, l2 // 2)", "bytes of Z projected at once, which stay in L2 until the steps read them"),
    # From 48 to 384 rows take the same time within 0.04 (Zen 3, min_gru, H = 64 to 256).
    "ROWS_BACK": Choice(
        "192", "rows that a scan goes back through before it takes their products, with the gradients of sums in L2"),

    # Packing. With 16 lanes all of it costs as much as nine steps at H = 1024 (SPR). With 8 lanes two steps or more
    # that pack as they go take 1.4 to 2 times as long (Zen 3, H = 650 to 1024, N = 8 to 32; two of H = 384 to 512 take
    # 0.5 to 1.2); with 4 lanes, of SSE2 there, two take 0.6 to 0.9, four 1.1.
    "STEPS_NOT_WORTH_PACKING": Choice(
        "2", "steps up to which each packs the weights as it goes, into L1"),
    "STEPS_NOT_WORTH_PACKING_LARGE": Choice(
        "8 if lanes == 16 else 1 if lanes == 8 else 2", "the same of large weights"),
    # On a Zen 3 fetching ahead changes nothing, at any size.
    "FETCH_BYTES": Choice(
        "1 * MB", "bytes of a thread's weights beyond which the next panel is fetched into L2 ahead of its use"),

    # Backward. With 512 KB of sums, which stay in L2, packing took a fifth of backward at H = 1024; 4 MB, streamed from
    # L3, take 0.78 of the time there, 0.94 at H = 256 to 512, and 8 MB as long (SPR). On a Zen 3 1 to 16 MB take the
    # same time within 0.06, 256 KB 1.04 to 1.07 (H = 512 to 1024). Not measured with little L3 or none.
    "GRADIENT_BYTES": Choice(
        "min(4 * MB, max(1 * MB, l2, l3 // 8))", "bytes of weight gradients that share a packing of x and h_prev"),
    # Packing 16 rows takes 0.56 to 0.96 of the time, 12 rows 0.77 at H = 1024, 0.94 to 1.15 below (Zen 3: LSTM and GRU,
    # H = 256 to 1024), 12 rows with 16 lanes 1.11 (H = 256).
    "FEW_ROWS": Choice(
        "16 if lanes == 16 else 12", "rows up to which backward reads weights in place and writes their gradients so"),

    # Single rows.
    "PAIRS": Choice(
        "1", "whether a step of a single row takes two blocks at once"),
    # At once, steps take 0.8 to 0.94 of the time up to H = 128, 0.86 to 0.98 up to 192, 0.97 to 0.99 at 256 (Zen 3:
    # LSTM, GRU, RNN; with SSE2 there 0.91 to 0.95 up to 128). With 16 lanes 8 vectors are 128 units.
    "ROW_VECTORS": Choice(
        "8 if lanes == 16 else 24", "unit vectors up to which the steps of a single row are taken at once"),
    # 0.88 to 0.99 of the time; with H = 64, I = 8 to 40 the rest would be 1.14 to 1.3 (Zen 4). With 14 to 32 KB of
    # weights 0.95 to 1.01, with 40 to 49 KB up to 1.22 (Zen 3).
    "ROW_INPUTS": Choice(
        "3", "columns of x up to which these take it in with h; else it is projected ahead"),
    "ROW_BYTES": Choice(
        "min(30 * KB, l1d * 15 // 16)", "bytes of all weights, which stay in L1, up to which they do so, too"),
    # One has work while another waits: 0.7 to 0.95 of the time, with H = I = 25 it would be 1.36; three or four bring
    # no more.
    "ROWS_IN_TURNS": Choice(
        "2", "members of a group that take the steps of their single rows in turns"),
    "BYTES_IN_TURNS": Choice(
        "min(26 * KB, l1d * 13 // 16)", "bytes of the weights of all of them, which stay in L1, up to which they do"),
}
# fmt: on


def numbers(caches: Caches, lanes: int) -> dict[str, int]:
    """Return what they are on a machine."""
    l1d, l2, l3 = caches
    facts = {"l1d": l1d.size, "l2": l2.size // caches.cores(l2), "l3": l3.size, "lanes": lanes}
    return {name: int(eval(choice.formula, _NAMES | facts)) for name, choice in CHOICES.items()}
