"""One set of threads for torch's operators and fastrnn's kernels."""

from __future__ import annotations

import ctypes
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
    if borrow is None or not hasattr(os, "RTLD_NOLOAD"):
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


def _openmp_libraries() -> Iterator[str]:
    """Where torch's own OpenMP runtime may be: wheels bring it along, other builds use the system's."""
    package = Path(torch.__file__).parent
    for folder in (package / "lib", package.parent / "torch.libs"):
        yield from map(str, sorted(folder.glob("libgomp*.so*")))
    yield "libgomp.so.1"
