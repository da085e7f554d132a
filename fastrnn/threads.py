"""How many threads a call may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from fastrnn.checks import check_positive

__all__ = ["available_cpus", "get_num_threads", "set_num_threads"]

_num_threads: int | None = None


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> float:
    """The CPU quota of a container, in CPUs; inf where there is none."""
    try:
        if (root / "cpu.max").exists():  # cgroup v2
            quota, period = (root / "cpu.max").read_text("utf-8").split()
        else:  # cgroup v1
            quota = (root / "cpu/cpu.cfs_quota_us").read_text("utf-8").strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text("utf-8").strip()
        cpus = math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        cpus = math.inf
    return cpus


def available_cpus() -> int:
    """CPUs this process may run on: its affinity mask, within its container's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpus()
    return cpus if quota >= cpus else max(1, math.ceil(quota))


def set_num_threads(num_threads: int | None) -> None:
    """Set how many threads a call uses at most; None means all available CPUs.

    A module's own `num_threads` goes before it. Results are the same bits for any number of threads.

    Raises
    ------
    TypeError, ValueError
        If `num_threads` is not an integer of at least 1.
    """
    global _num_threads
    _num_threads = None if num_threads is None else check_positive("num_threads", num_threads)


def get_num_threads() -> int:
    """How many threads a call uses at most: what `set_num_threads` said, else all available CPUs."""
    global _num_threads
    if _num_threads is None:
        _num_threads = available_cpus()
    return _num_threads
