"""The caches of the CPU, by whose sizes kernels choose between their ways.

The C kernels ask the CPU, or macOS (kernels/c/caches.c). Where these do not say it Linux may, in files; else common
sizes are taken. FASTRNN_L1D, FASTRNN_L2 and FASTRNN_L3, in bytes or as 512K and 2M, replace them, for experiments.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Cache", "Caches", "cache_of_files", "find_caches", "why_no_sizes"]

SYSFS = Path("/sys/devices/system/cpu")
_NAMES = ("FASTRNN_L1D", "FASTRNN_L2", "FASTRNN_L3")


class Cache(NamedTuple):
    """A cache of data; no bytes where there is none."""

    size: int  # bytes
    sharing: int  # logical CPUs that have it in common

    def __str__(self) -> str:
        if not self.size:
            return "none"
        return f"{self.size >> 20} MB" if self.size % (1 << 20) == 0 else f"{self.size / 1024:g} KB"


COMMON = (Cache(32 << 10, 1), Cache(1 << 20, 1), Cache(32 << 20, 8))


class Caches(NamedTuple):
    """Those of one core."""

    l1d: Cache
    l2: Cache
    l3: Cache

    def cores(self, cache: Cache) -> int:
        """How many cores share one: logical CPUs of one core share its L1."""
        return max(1, cache.sharing // self.l1d.sharing)

    def __str__(self) -> str:
        told = zip(("L1d", "L2", "L3"), self, map(self.cores, self), strict=True)
        return ", ".join(f"{name} {cache}" + (f" of {cores} cores" if cores > 1 else "") for name, cache, cores in told)


def _line(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""


def cache_of_files(level: int, folder: Path = SYSFS) -> Cache:
    """What Linux says in files of the data cache of a level that the first core has; none where it does not."""
    for index in sorted(folder.glob("cpu0/cache/index*")):
        size, cpus = _bytes(_line(index / "size")), _line(index / "shared_cpu_list")
        if size and _line(index / "level") == str(level) and _line(index / "type") != "Instruction":
            ends = [part.split("-") for part in cpus.split(",") if re.fullmatch(r"\d+(-\d+)?", part)]
            return Cache(size, max(1, sum(int(end[-1]) - int(end[0]) + 1 for end in ends)))
    return Cache(0, 1)


def _bytes(text: str) -> int:
    """Of 65536, 64K or 2M; 0 of what is none of them, or no cache's size."""
    found = re.fullmatch(r"(\d{1,15})([KM]?)", text, re.ASCII)
    size = int(found[1]) << {"": 0, "K": 10, "M": 20}[found[2]] if found else 0
    return size if size <= 1 << 40 else 0


def _given(name: str) -> str:
    return os.environ.get(name, "").strip()


def why_no_sizes() -> str | None:
    """What is wrong with FASTRNN_L1D, FASTRNN_L2 or FASTRNN_L3, or None."""
    for name in _NAMES:
        if _given(name) and not _bytes(_given(name)):
            return f"{name} is {_given(name)!r}; expected a number of bytes, such as 524288, 512K or 2M"
    return None


def find_caches(told: Sequence[tuple[int, int]] = (), folder: Path = SYSFS) -> Caches:
    """Return the caches of a core: as the environment says, as `told` (size, sharing), as files say, or common ones.

    There are CPUs without an L3: where L1 and L2 are known, one of which nothing is said is not there.
    """
    known = [Cache(*each) for each in told]
    if not any(cache.size for cache in known):
        known = [cache_of_files(level, folder) for level in (1, 2, 3)]
    if not (known[0].size and known[1].size):
        known = list(COMMON)
    given = [_bytes(_given(name)) for name in _NAMES]
    return Caches(*(Cache(size or its.size, its.sharing) for size, its in zip(given, known, strict=True)))
