"""Several threads in one kernel: who takes part, where they wait for each other, and how denormals are flushed.

Python's threads enter a kernel one after another, whenever the scheduler and the interpreter's lock let them. The
caller closes the team once all have come or a short wait is over; who comes later finds it closed and leaves. So a
busy machine costs speed, never a deadlock, and since no result depends on the number of threads, never a bit either.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.kernels.numba_options import X86, inlined

__all__ = ["SYNC", "barrier", "flush_denormals", "join", "restore_denormals", "run", "share"]

SYNC = types.int64  # the words of one call: tickets, team size, arrivals, each on a cache line of its own
_TEAM, _ARRIVALS, _WORDS = 8, 16, 24
_CLOSED = 1 << 32
_SPINS_BEFORE_YIELD = 500  # some 30 us
_SPINS_FOR_TEAM = 1000  # and as many system calls again

_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # process, threads, pool


def run(kernel: Callable[..., None], arguments: tuple[Any, ...], num_threads: int) -> None:
    """Call ``kernel(*arguments, sync, worker, num_threads)`` on this thread and, if it takes several, on others."""
    sync = None
    if num_threads > 1:
        sync, pool = np.zeros(_WORDS, np.int64), _workers(num_threads - 1)
        with contextlib.suppress(RuntimeError):  # the interpreter is going down: the caller computes alone
            for _ in range(num_threads - 1):
                pool.submit(kernel, *arguments, sync, 1, num_threads)
    kernel(*arguments, sync, 0, num_threads)


def _workers(count: int) -> ThreadPoolExecutor:
    """A pool of at least `count` threads of this process: a child made by fork has none of its parent's."""
    global _pool
    if _pool is None or _pool[0] != os.getpid() or _pool[1] < count:
        _pool = (os.getpid(), count, ThreadPoolExecutor(count, "fastrnn"))
    return _pool[2]


@intrinsic
def _fetch_add(typing: Any, pointer: Any, value: Any) -> Any:
    """Add atomically; return what was there."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], args[1], "seq_cst")

    return types.int64(pointer, types.int64), generate


@intrinsic
def _fetch(typing: Any, pointer: Any) -> Any:
    """Load atomically."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(args[0], "seq_cst", 8)

    return types.int64(pointer), generate


@intrinsic
def _relax(typing: Any) -> Any:
    """Tell the core that this is a spin loop."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if X86:
            void = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, void, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _yield(typing: Any) -> Any:
    """Let another thread have this CPU."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function, name), [])
        return context.get_dummy_value()

    return types.void(), generate


@inlined
def _pause(spins):
    _relax()
    if spins > _SPINS_BEFORE_YIELD:
        _yield()


@inlined
def join(sync, worker, wanted):
    """Enter a kernel; return this thread's number and how many there are, 0 of them for one that came too late."""
    if wanted == 1:
        return 0, 1
    if worker:
        ticket = _fetch_add(sync, 1)
        if ticket >= _CLOSED:
            return 0, 0
        spins = 0
        while _fetch(sync + _TEAM) == 0:
            _pause(spins)
            spins += 1
        return ticket + 1, _fetch(sync + _TEAM)
    spins = 0
    while _fetch(sync) < wanted - 1 and spins < _SPINS_FOR_TEAM:
        _pause(spins)
        spins += 1
    team = _fetch_add(sync, _CLOSED) + 1
    _fetch_add(sync + _TEAM, team)
    return 0, team


@inlined
def barrier(sync, team, turn):
    """Wait until every thread of the team has come here for the `turn`-th time, counted from 0; return turn + 1."""
    if team > 1:
        _fetch_add(sync + _ARRIVALS, 1)
        spins = 0
        while _fetch(sync + _ARRIVALS) < team * (turn + 1):
            _pause(spins)
            spins += 1
    return turn + 1


@inlined
def share(count, thread, team):
    """The range of `count` things that falls to a thread."""
    return count * thread // team, count * (thread + 1) // team


# --- denormals: gradients that shrink through time would cost some 50 times an ordinary number


def _control(builder: Any, name: str, place: Any) -> None:
    function = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    where = builder.bitcast(place, ir.IntType(8).as_pointer())
    builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.sse.{name}mxcsr"), [where])


@intrinsic
def flush_denormals(typing: Any) -> Any:
    """Read and write denormals as zero from here on; return the setting before, for `restore_denormals`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = ir.IntType(32)
        if not X86:
            return word(0)
        place = cgutils.alloca_once(builder, word)
        _control(builder, "st", place)
        before = builder.load(place)
        builder.store(builder.or_(before, word(0x8040)), place)  # FTZ and DAZ
        _control(builder, "ld", place)
        return before

    return types.int32(), generate


@intrinsic
def restore_denormals(typing: Any, setting: Any) -> Any:
    """Undo `flush_denormals`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if X86:
            _control(builder, "ld", cgutils.alloca_once_value(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.int32), generate
