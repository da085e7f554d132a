"""The machine's own limits, measured beside everything else by the loops of limit_loops.c."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import numpy as np
import psutil

from fastrnn.bench.machine import cache_bytes
from fastrnn.parameters import Array

__all__ = ["Limits", "measure", "multiply_add_rate", "why_absent"]

REPEATS = 3  # of each measurement; the best counts, as a limit is what can be reached
ROUNDS = 500_000  # of multiply-adds, one to two milliseconds
VOLUME = 128 << 20  # bytes to read for one measurement

_loops: Any = None  # the compiled loops, or None where they could not be built
try:
    from fastrnn.bench import loops as _loops
except ImportError as error:
    _reason = f"the machine's limits need compiled loops: {error}"


def why_absent() -> str | None:
    """Why limits cannot be measured, or None."""
    return None if _loops else _reason


@dataclass(frozen=True)
class Limits:
    """What some number of threads can do on this machine, together."""

    threads: int
    peak: dict[str, float]  # dtype -> floating-point operations per second; a multiply-add is two
    bandwidth: tuple[tuple[int, float], ...]  # (bytes that each thread reads again and again, bytes per second), rising

    def bandwidth_at(self, size: float) -> float:
        """Bytes per second when each thread goes again and again through `size` bytes of its own."""
        sizes, rates = zip(*self.bandwidth, strict=True)
        return float(np.interp(math.log(max(size, 1)), np.log(sizes), rates))

    @property
    def l2(self) -> float:
        """Bytes per second from the second-level caches."""
        return self.bandwidth_at(cache_bytes(2) / 2)

    @property
    def dram(self) -> float:
        """Bytes per second from memory."""
        return self.bandwidth[-1][1]


def multiply_add_rate(dtype: str, threads: int) -> float:
    """Floating-point operations per second, right now, of multiply-adds that stay in registers."""

    def work(_: int) -> float:
        begun = time.perf_counter()
        return float(_loops.multiply_add(dtype, ROUNDS)) / (time.perf_counter() - begun)

    return _together(threads, work)


def measure(threads: int) -> Limits:
    """Measure this machine's limits for about two seconds; needs `why_absent()` to be None."""
    memory = psutil.virtual_memory().available // 8
    largest = min(max(256 << 20, 2 * cache_bytes(3)), memory) // threads
    buffers = [_aligned(largest) for _ in range(threads)]
    sizes = [1 << power for power in range(14, largest.bit_length())]
    sizes = [*(size for size in sizes if size < largest / 2), len(buffers[0])]
    return Limits(
        threads,
        {dtype: max(multiply_add_rate(dtype, threads) for _ in range(REPEATS)) for dtype in ("float32", "float64")},
        tuple((size, max(_read_rate(buffers, size) for _ in range(REPEATS))) for size in sizes),
    )


def _together(threads: int, work: Callable[[int], float]) -> float:
    """Run `work(thread)` in every thread at once and add up the rates that they return."""
    barrier = Barrier(threads)

    def run(thread: int) -> float:
        barrier.wait()
        return work(thread)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, range(threads)))


def _read_rate(buffers: list[Array], size: int) -> float:
    """Bytes per second when every thread reads the first `size` bytes of its buffer again and again."""

    def work(thread: int) -> float:
        data = buffers[thread][:size]
        _loops.read(data, 1)
        begun = time.perf_counter()
        return float(_loops.read(data, max(1, VOLUME // size))) / (time.perf_counter() - begun)

    return _together(len(buffers), work)


def _aligned(size: int) -> Array:
    """An array of at most `size` bytes that the loops can read, written once so that its pages are there."""
    size -= size % _loops.READ_BYTES
    buffer = np.ones(size + _loops.ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _loops.ALIGNMENT
    return buffer[start : start + size]
