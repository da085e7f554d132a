"""Several threads in one kernel: who takes part, where they wait for each other, and how denormals are flushed.

Workers are Python threads that spend their lives in `_serve`, without the interpreter's lock: there they look for a
call to take part in, for some 50 us after the last one; then they sleep in Python. A call writes down what is to be
done, where its arguments are, and how many places there are, and closes the team once all have come or a short wait is
over: who comes later finds no place. So a busy machine costs speed, never a deadlock, and since no result depends on
the number of threads, never a bit either. One call at a time has the workers; another meanwhile runs alone.

A call watches for signals: its own thread lets their handlers run about every 50 ms; if one raises, all threads stop.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.kernels.numba_options import X86, helper, inlined, kernel
from fastrnn.kernels.numba_vector import Pointer
from fastrnn.threads import MOST_THREADS, recent_cpus

__all__ = [
    "SYNC",
    "barrier",
    "begin",
    "finish",
    "gather",
    "leaves",
    "new_watch",
    "offer",
    "run",
    "share",
    "stopped",
]

SYNC = types.int64  # the words of a pool, each on a cache line of its own
_TICKET = 0  # generation << 32 | places << 16 | places taken: a late worker never takes the next call for its own
_TASK, _CONTEXT = 8, 16  # addresses: of the function to call, and of its arguments
_TEAM = 24  # how many take part, once that is settled
_ARRIVALS = 32
_CALLER, _CPU = 40, 48  # the calling thread, for the system, and where it runs
_SPINS = 56  # pauses of a wait before it yields
_AWAKE = 64  # a word for each worker
_SPINS_BEFORE_YIELD = 500  # some 30 us; none where there are more threads than CPUs
_SPINS_FOR_TEAM = 1000  # and as many system calls again
_SPINS_BEFORE_SLEEP = 2000  # some 50 us of pauses; waking a sleeping worker takes 40 to 240 us


_STOP = 0  # words of a call's watch: 0, or 1 + the turn of the barrier where all leave
_DUE, _CONTROL, _ERROR = 8, 9, 10  # of its own thread: when to look, -1 for never; its denormals; what a handler raised
_LOOKS = 50  # milliseconds from one look to the next


class _Pool:
    """The workers of this process."""

    def __init__(self) -> None:
        memory = np.zeros(_AWAKE + 8 * MOST_THREADS, np.int64)
        self.words = memory[-memory.ctypes.data % 64 // 8 :]
        self.words[_CPU] = -1
        self.held = threading.Lock()  # by the call that has the workers
        self.workers: list[tuple[threading.Thread, SimpleQueue[bool]]] = []

    def wake(self, count: int) -> None:
        """See to it that so many workers look for a call, or soon will."""
        for number in range(count):
            if number == len(self.workers):
                queue: SimpleQueue[bool] = SimpleQueue()
                own = (_compiled_serve(), self.words, number, queue)
                thread = threading.Thread(target=_work, args=own, name="fastrnn", daemon=True)
                thread.start()
                self.workers.append((thread, queue))
            if not self.words[_AWAKE + 8 * number]:
                self.words[_AWAKE + 8 * number] = 1
                self.workers[number][1].put(True)

    def end(self) -> None:
        """Let no worker be in compiled code while the interpreter frees it."""
        for _, queue in self.workers:
            queue.put(False)
        for thread, _ in self.workers:
            thread.join(1)


_pool = _Pool()
_main_thread = threading.main_thread().ident  # which runs the handlers of signals


def _start_afresh() -> None:
    """Begin without workers in a child made by fork: it has none of its parent's threads."""
    global _pool, _main_thread
    _pool.words[_ARRIVALS] = 1 << 40  # if a signal's handler forked, during a call, that waits for nobody any more
    _pool = _Pool()
    _main_thread = threading.main_thread().ident


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
atexit.register(lambda: _pool.end())


def new_watch() -> Any:
    """The words by which a call of this thread learns that it is to stop."""
    watch = np.zeros(_ERROR + 3, np.int64)
    watch[_DUE] = 0 if threading.get_ident() == _main_thread else -1
    return watch


_restore_error = ctypes.pythonapi.PyErr_Restore
_restore_error.argtypes = [ctypes.c_void_p] * 3
_restore_error.restype = None


def run(function: Callable[..., None], sizes: Any, arrays: Any, num_threads: int) -> None:
    """Call ``function(sizes, arrays, pool, threads)``: a kernel that asks for workers with `offer` and `gather`.

    ``arrays.watch`` is a new one; what a signal's handler raises during the call is raised here.
    """
    pool = _pool
    if num_threads > 1 and pool.held.acquire(blocking=False):
        try:
            num_threads = min(num_threads, MOST_THREADS)
            with contextlib.suppress(RuntimeError):  # the interpreter is going down: no thread starts any more
                pool.wake(num_threads - 1)
            pool.words[_CALLER] = threading.get_native_id()
            pool.words[_SPINS] = _SPINS_BEFORE_YIELD if num_threads <= recent_cpus() else 0
            function(sizes, arrays, pool.words, num_threads)
        finally:
            pool.held.release()
        if pool is not _pool:
            raise RuntimeError("a signal's handler forked this process during a call: the child cannot go on with it")
    else:
        function(sizes, arrays, None, 1)
    if arrays.watch[_STOP]:
        _restore_error(*arrays.watch[_ERROR:].tolist())


def _work(serve: Callable[..., bool], words: Any, number: int, queue: SimpleQueue[bool]) -> None:
    anywhere = False
    while queue.get():
        while serve(words, number, anywhere):
            anywhere = not _leave_callers_cpu(words)


def _leave_callers_cpu(words: Any) -> bool:
    """Leave the caller's CPU to the caller; return whether there is another.

    Where other CPUs are busy the system may wake a worker on the caller's and leave it there, and the two take turns.
    """
    try:
        others = os.sched_getaffinity(int(words[_CALLER])) - {int(words[_CPU])}
        os.sched_setaffinity(0, others)
    except OSError:  # none left, or the caller is gone
        return False
    return True


@functools.cache
def _compiled_serve() -> Callable[..., bool]:
    signature = (Pointer(SYNC), types.intp, types.boolean)
    _serve.compile(signature)
    function: Callable[..., bool] = _serve.get_overload(signature)
    return function


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
def _exchange(typing: Any, pointer: Any, value: Any) -> Any:
    """Store atomically; return what was there."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("xchg", args[0], args[1], "seq_cst")

    return types.int64(pointer, types.int64), generate


@intrinsic
def _replace(typing: Any, pointer: Any, before: Any, after: Any) -> Any:
    """Store `after` if `before` is there, atomically; return whether it was."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_value(builder.cmpxchg(args[0], args[1], args[2], "seq_cst"), 1)

    return types.boolean(pointer, types.int64, types.int64), generate


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


@intrinsic
def _current_cpu(typing: Any) -> Any:
    """The CPU that runs this; -1 where the system lets no thread choose."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = ir.IntType(64)
        if sys.platform != "linux":
            return word(-1)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), "sched_getcpu")
        return builder.sext(builder.call(function, []), word)

    return types.int64(), generate


@intrinsic
def _milliseconds(typing: Any) -> Any:
    """A clock that never goes back."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = ir.IntType(64)
        if sys.platform == "win32":
            function = ir.FunctionType(word, [])
            return builder.call(cgutils.get_or_insert_function(builder.module, function, "GetTickCount64"), [])
        function = ir.FunctionType(ir.IntType(32), [ir.IntType(32), word.as_pointer()])
        clock = cgutils.get_or_insert_function(builder.module, function, "clock_gettime")
        now = cgutils.alloca_once(builder, word, 2)
        builder.call(clock, [ir.IntType(32)(time.CLOCK_MONOTONIC), now])
        seconds, nanoseconds = (builder.load(builder.gep(now, [word(i)])) for i in range(2))
        return builder.add(builder.mul(seconds, word(1000)), builder.sdiv(nanoseconds, word(1_000_000)))

    return types.int64(), generate


@intrinsic
def _handle_signals(typing: Any, error: Any) -> Any:
    """Let the handlers of signals run; return whether one raised, and keep that in three words at `error`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word, integer = ir.IntType(64), ir.IntType(32)

        def call(name: str, result: Any, *values: Any) -> Any:
            function = ir.FunctionType(result, [value.type for value in values])
            return builder.call(cgutils.get_or_insert_function(builder.module, function, name), values)

        state = call("PyGILState_Ensure", integer)
        raised = builder.icmp_signed("!=", call("PyErr_CheckSignals", integer), integer(0))
        with builder.if_then(raised):
            call("PyErr_Fetch", ir.VoidType(), *(builder.gep(args[0], [word(i)]) for i in range(3)))
        call("PyGILState_Release", ir.VoidType(), state)
        return raised

    return types.boolean(error), generate


@helper
def _look(watch, turn):
    """Let the handlers of signals run, if it is time to; if one raises, have all leave at a turn of the barrier."""
    if watch[_DUE] < 0 or watch[_STOP]:
        return
    now = _milliseconds()
    if watch[_DUE] == 0:
        watch[_DUE] = now + _LOOKS
    if now < watch[_DUE]:
        return
    of_task = _flush_denormals()
    _restore_denormals(watch[_CONTROL])  # a handler may compute
    if _handle_signals(watch + _ERROR):
        _exchange(watch + _STOP, turn + 1)
    _restore_denormals(of_task)
    after = _milliseconds()
    watch[_DUE] = after + _LOOKS + min(_LOOKS, 20 * (after - now))  # another thread may keep the interpreter busy


@inlined
def stopped(watch, thread, turn):
    """Whether the call is to stop: then work may be left, but no barrier. `turn` is that of the next one."""
    if thread == 0:
        _look(watch, turn)
    return _fetch(watch + _STOP) != 0


@inlined
def leaves(watch, turn):
    """Whether all threads leave after the barrier that has returned `turn`."""
    stop = _fetch(watch + _STOP)
    return stop != 0 and stop <= turn


@inlined
def _pause(spins, spins_before_yield):
    _relax()
    if spins > spins_before_yield:
        _yield()


_TASK_ARGUMENTS = (types.voidptr, types.intp, types.intp)  # context, thread, team


@intrinsic
def offer(typing: Any, pool: Any, part: Any, s: Any, a: Any) -> Any:
    """Write down ``part(s, a, pool, thread, team)`` as the task. The arguments lie in the frame of the kernel."""
    part_signature = part.get_call_type(typing, (s, a, pool, types.intp, types.intp), {})

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = ir.IntType(64)
        arguments = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [args[2], args[3], args[0]]))
        function_type = context.call_conv.get_function_type(types.none, _TASK_ARGUMENTS)
        task = ir.Function(builder.module, function_type, f"{builder.function.name}.task")
        task.linkage = "internal"
        inner = ir.IRBuilder(task.append_basic_block())
        where, thread, team = context.call_conv.get_arguments(task)
        kept = inner.load(inner.bitcast(where, arguments.type))
        own = [inner.extract_value(kept, i) for i in range(3)]
        context.get_function(part, part_signature)(inner, [*own, thread, team])
        context.call_conv.return_value(inner, context.get_dummy_value())
        for place, address in ((_TASK, task), (_CONTEXT, arguments)):
            builder.store(builder.ptrtoint(address, word), builder.gep(args[0], [word(place)]))
        return context.get_dummy_value()

    return types.void(pool, part, s, a), generate


@intrinsic
def _call(typing: Any, task: Any, arguments: Any, thread: Any, team: Any) -> Any:
    """Do a thread's part of the task that `offer` wrote down."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = context.call_conv.get_function_type(types.none, _TASK_ARGUMENTS)
        function = builder.inttoptr(args[0], kind.as_pointer())
        where = builder.inttoptr(args[1], context.get_value_type(types.voidptr))
        context.call_conv.call_function(builder, function, types.none, _TASK_ARGUMENTS, [where, args[2], args[3]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.intp, types.intp), generate


@inlined
def gather(pool, wanted):
    """Wait a little for so many threads with the caller; return how many have come to do the task that was offered."""
    _exchange(pool + _TEAM, 0)
    _exchange(pool + _ARRIVALS, 0)
    _exchange(pool + _CPU, _current_cpu())
    generation = ((_fetch(pool + _TICKET) >> 32) + 1) << 32
    _exchange(pool + _TICKET, generation | (wanted - 1) << 16)
    spins = 0
    while _fetch(pool + _TICKET) & 0xFFFF < wanted - 1 and spins < _SPINS_FOR_TEAM:
        _pause(spins, _SPINS_BEFORE_YIELD)
        spins += 1
    team = (_exchange(pool + _TICKET, generation) & 0xFFFF) + 1
    _exchange(pool + _TEAM, team)
    return team


@kernel
def _serve(pool, number, anywhere):
    """A worker's time awake, or until it should move; return whether it should."""
    spins = 0
    while spins < _SPINS_BEFORE_SLEEP:
        ticket = _fetch(pool + _TICKET)
        taken = ticket & 0xFFFF
        open_places = taken < ticket >> 16 & 0xFFFF
        if not anywhere and (open_places or spins == 0):
            cpu = _current_cpu()
            if cpu >= 0 and cpu == _fetch(pool + _CPU):
                return True
        if open_places and _replace(pool + _TICKET, ticket, ticket + 1):
            spins = 0
            while _fetch(pool + _TEAM) == 0:
                _pause(spins, _fetch(pool + _SPINS))
                spins += 1
            _call(_fetch(pool + _TASK), _fetch(pool + _CONTEXT), taken + 1, _fetch(pool + _TEAM))
            spins = 0
        _relax()
        spins += 1
    _exchange(pool + (_AWAKE + 8 * number), 0)
    return False


@inlined
def _wait(sync, team, turn, thread, watch):
    spins, spins_before_yield = 0, _fetch(sync + _SPINS)
    while _fetch(sync + _ARRIVALS) < team * (turn + 1):
        _pause(spins, spins_before_yield)
        spins += 1
        if thread == 0 and spins > spins_before_yield:
            _look(watch, turn + 1)  # for this barrier the others may have gone on already


@inlined
def barrier(sync, team, turn, thread, watch):
    """Wait until every thread of the team has come here for the `turn`-th time, counted from 0; return turn + 1."""
    if team > 1:
        _fetch_add(sync + _ARRIVALS, 1)
        _wait(sync, team, turn, thread, watch)
    return turn + 1


@inlined
def begin(thread, watch):
    """Begin a thread's part: flush denormals. Returns what `end` takes."""
    setting = _flush_denormals()
    if thread == 0:
        watch[_CONTROL] = setting
    return setting


@inlined
def finish(sync, team, turn, thread, watch, setting):
    """End a thread's part; the caller's waits for the others, who must not touch anything afterwards."""
    _restore_denormals(setting)
    if thread == 0:
        barrier(sync, team, turn, thread, watch)
    else:
        _fetch_add(sync + _ARRIVALS, 1)


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
def _flush_denormals(typing: Any) -> Any:
    """Read and write denormals as zero from here on; return the setting before, for `_restore_denormals`."""

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
def _restore_denormals(typing: Any, setting: Any) -> Any:
    """Undo `_flush_denormals`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if X86:
            _control(builder, "ld", cgutils.alloca_once_value(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.int32), generate
