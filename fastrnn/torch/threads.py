"""One set of threads for torch's operators and fastrnn's kernels."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from fastrnn import backends
from fastrnn.errors import BackendError

__all__ = ["share_threads"]


def share_threads() -> bool:
    """Run the C kernels on the threads of torch's OpenMP runtime, if it has one that is known here; return whether.

    Threads of that runtime spin for milliseconds after each of torch's operators. Workers of our own would have to
    share the CPUs with them, and the other way round.
    """
    try:
        borrow = getattr(backends.load("cython"), "borrow_threads", None)
    except BackendError:
        borrow = None
    if borrow is None or not hasattr(os, "RTLD_NOLOAD") or _is_forked():
        return False
    for path in _openmp_libraries():
        try:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)
            parallel, team_size = library.GOMP_parallel, library.omp_get_num_threads
        except (OSError, AttributeError):
            continue
        borrow(ctypes.cast(parallel, ctypes.c_void_p).value, ctypes.cast(team_size, ctypes.c_void_p).value)
        return True
    return False


def _is_forked() -> bool:
    """Whether this process is a child made by fork, where the runtime may wait for ever for its parent's threads.

    Linux says so, whoever forked and whatever was loaded then; elsewhere at least multiprocessing does.
    """
    try:
        flags = int(Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[6])
    except OSError:
        return multiprocessing.parent_process() is not None
    return bool(flags & 0x40)  # PF_FORKNOEXEC: not a program of its own since


def _openmp_libraries() -> Iterator[str]:
    """Where torch's own OpenMP runtime may be: wheels bring it along, other builds use the system's."""
    package = Path(torch.__file__).parent
    for folder in (package / "lib", package.parent / "torch.libs"):
        yield from map(str, sorted(folder.glob("libgomp*.so*")))
    yield "libgomp.so.1"
