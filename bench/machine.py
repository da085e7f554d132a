"""The machine that figures come from: what it is, which CPUs to use, and what else it is doing."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import threadpoolctl

from fastrnn.machine import SYSFS, find_caches
from fastrnn.threads import available_cpus

__all__ = ["CpuTimes", "cache_bytes", "describe", "pin", "sums_bytes", "versions"]

PACKAGES = ("fastrnn", "numpy", "numba", "torch", "onnxruntime", "jax", "jaxlib")
CPUINFO = Path("/proc/cpuinfo")


def cache_bytes(level: int) -> int:
    """Bytes of the data cache of a level that one core sees, 0 without one."""
    return find_caches()[level - 1].size


def sums_bytes() -> bool:
    """Whether the CPU adds up products of bytes in 32 bits; elsewhere those of some libraries overflow."""
    flags = CPUINFO.read_text("utf-8") if CPUINFO.exists() else ""
    return "avx" not in flags or "vnni" in flags


def pin(threads: int) -> None:
    """Give this process `threads` CPUs, on cores of their own as far as there are enough, and its BLAS as many threads.

    Pools that are made later take their size from that. Where a system does not pin, only the BLAS is told.

    Raises
    ------
    ValueError
        If the process may use fewer CPUs.
    """
    if threads > available_cpus():
        raise ValueError(f"{threads} threads are more than the {available_cpus()} CPUs that this process may use")
    if hasattr(os, "sched_setaffinity"):
        first_of_core, others, seen = list[int](), list[int](), set[str]()
        for cpu in sorted(os.sched_getaffinity(0)):
            siblings = SYSFS / f"cpu{cpu}/topology/thread_siblings_list"
            core = siblings.read_text("utf-8") if siblings.exists() else str(cpu)
            (others if core in seen else first_of_core).append(cpu)
            seen.add(core)
        os.sched_setaffinity(0, (first_of_core + others)[:threads])
    threadpoolctl.threadpool_limits(threads)


def describe() -> dict[str, str | int]:
    """What this machine is."""
    model = platform.processor()
    if CPUINFO.exists():
        names = [
            line.partition(":")[2].strip() for line in CPUINFO.read_text("utf-8").splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "cpu": model or platform.machine(),
        "cpus": available_cpus(),
        "l1_bytes": cache_bytes(1),
        "l2_bytes": cache_bytes(2),
        "l3_bytes": cache_bytes(3),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """The versions of what is installed of fastrnn, its peers and what they stand on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class CpuTimes:
    """CPU time since this object was made: all threads of this process, and everything else on the machine."""

    def __init__(self) -> None:
        self._wall, self._own, self._machine = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = (
            times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))
        )
        return time.perf_counter(), time.process_time(), busy

    def others(self) -> float:
        """How many CPUs other processes (and other virtual machines, as far as known) kept busy, on the mean."""
        wall, own, machine = (
            now - then for now, then in zip(self._read(), (self._wall, self._own, self._machine), strict=True)
        )
        return max(0.0, machine - own) / wall if wall > 0.05 else 0.0  # the system counts in hundredths of a second
