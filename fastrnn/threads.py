"""How many threads a call may use.

Threads that are more than the CPUs would keep each other from running where they wait for each other, at every step. So
a call looks again at how many there are: the process may be pinned to others, or its container's quota changed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from fastrnn.checks import check_positive

__all__ = [
    "MOST_THREADS",
    "allowed_threads",
    "available_cpus",
    "flops_worth_a_thread",
    "get_num_threads",
    "recent_cpus",
    "set_num_threads",
    "usable_threads",
    "why_no_flops",
]

MOST_THREADS = 256  # of a call: FASTRNN_MOST_THREADS of kernels/c/pool.h
_RECENT, _RECENT_QUOTA = 0.05, 1.0  # seconds for which the number of CPUs and the container's quota are taken as known

_OVERSUBSCRIBE = os.environ.get("FASTRNN_OVERSUBSCRIBE", "") not in ("", "0")  # more threads than CPUs, for tests
_FLOPS = os.environ.get("FASTRNN_THREAD_FLOPS", "").strip()

_num_threads: int | None = None
_recent = (-math.inf, 1)  # when the CPUs were counted, and how many there were
_recent_quota = (-math.inf, math.inf)  # the same of the quota


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _cgroups(process: Path) -> Iterator[Path]:
    """The folders of the process's own cgroups that may hold a CPU quota, and of those around them."""
    own = {}  # the cgroup by the type of its file system: cgroup2, or cgroup for version 1
    for line in _lines(process / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            own["cgroup"] = path
    for line in _lines(process / "mountinfo"):
        mount, _, system = line.partition(" - ")
        root, folder = (field.replace("\\040", " ") for field in mount.split(" ")[3:5])
        kind, _, options = system.partition(" ")
        if kind not in own or (kind == "cgroup" and "cpu" not in options.rpartition(" ")[2].split(",")):
            continue
        within = os.path.relpath(own[kind], root)
        parts = () if within.startswith("..") else Path(within).parts  # "..": a container that does not show its own
        for depth in range(len(parts) + 1):
            yield Path(folder, *parts[:depth])


def _quota(cgroup: Path) -> float:
    """The quota of one cgroup, in CPUs; inf where there is none."""
    try:
        if lines := _lines(cgroup / "cpu.max"):  # version 2
            quota, period = lines[0].split()
        else:
            quota, period = _lines(cgroup / "cpu.cfs_quota_us")[0], _lines(cgroup / "cpu.cfs_period_us")[0]
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (IndexError, ValueError, ZeroDivisionError):
        return math.inf


def _cgroup_cpus(process: Path = Path("/proc/self")) -> float:
    """The CPU quota of a container, in CPUs: the least of all cgroups of this process; inf where there is none."""
    return min(map(_quota, _cgroups(process)), default=math.inf)


def _count_cpus(quota: float) -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpus if quota >= cpus else max(1, math.ceil(quota))


def available_cpus() -> int:
    """CPUs this process may run on: its affinity mask, within its container's quota."""
    return _count_cpus(_cgroup_cpus())


def recent_cpus() -> int:
    """`available_cpus` of a moment ago: the affinity of 50 ms, the quota of a second."""
    global _recent, _recent_quota
    now = time.monotonic()
    if now - _recent[0] > _RECENT:
        if now - _recent_quota[0] > _RECENT_QUOTA:
            _recent_quota = now, _cgroup_cpus()
        _recent = now, _count_cpus(_recent_quota[1])
    return _recent[1]


def usable_threads(num_threads: int) -> int:
    """How many of so many threads a call may use now: no more than there are CPUs.

    With FASTRNN_OVERSUBSCRIBE=1 in the environment it may use more: the tests try threads so, on however few CPUs.
    """
    if num_threads == 1:
        return 1
    return min(num_threads, MOST_THREADS if _OVERSUBSCRIBE else recent_cpus())


def why_no_flops() -> str | None:
    """What is wrong with FASTRNN_THREAD_FLOPS, or None."""
    if not _FLOPS or _FLOPS.isdecimal():
        return None
    return f"FASTRNN_THREAD_FLOPS is {_FLOPS!r}; expected an integer of at least 0"


def flops_worth_a_thread(default: int) -> int:
    """Below how many flops a call uses one thread: what FASTRNN_THREAD_FLOPS says, else a kernel's own number."""
    return min(int(_FLOPS), 1 << 62) if _FLOPS.isdecimal() else default


def set_num_threads(num_threads: int | None) -> None:
    """Set how many threads a call uses at most; None means all available CPUs.

    A module's own `num_threads` goes before it. Results are the same bits for any number of threads. Whatever it says,
    a call uses no more threads than there are CPUs for this process at that time.

    Raises
    ------
    TypeError, ValueError
        If `num_threads` is not an integer of at least 1.
    """
    global _num_threads
    _num_threads = None if num_threads is None else check_positive("num_threads", num_threads)


def get_num_threads() -> int:
    """How many threads a call uses at most: what `set_num_threads` said, else all CPUs that are available now."""
    return _num_threads or available_cpus()


def allowed_threads() -> int:
    """What `set_num_threads` said, else any number: a kernel asks `usable_threads` how many there are."""
    return _num_threads or (recent_cpus() if _OVERSUBSCRIBE else MOST_THREADS)
