"""Arrays that end where memory begins that nobody may read: what reads beyond one ends the process."""

from __future__ import annotations

import ctypes
import mmap
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastrnn.parameters import Array

needs_closed_pages = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is closed by a system call of Linux"
)


def before_a_closed_page(array: Array) -> Array:
    """A copy that ends where memory begins that nobody may read."""
    size = -(-max(array.nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    address = np.frombuffer(memory, np.uint8).ctypes.data + size
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


def _closed(value: Any) -> Any:
    """An argument of a backend with such copies for its arrays."""
    if isinstance(value, np.ndarray):
        return before_a_closed_page(value)
    if isinstance(value, tuple):
        parts = map(_closed, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def close_inputs(monkeypatch: pytest.MonkeyPatch, backend: ModuleType) -> list[str]:
    """Give a backend such copies of whatever it reads; the list tells of which calls that is true."""
    called: list[str] = []

    def closing(name: str, kernel: Any) -> Any:
        def call(cell: Any, *given: Any, extra: tuple[Array, ...] = (), **others: Any) -> Any:
            called.append(name)
            more = {"extra": _closed(extra)} if extra else {}
            own = 1 if name == "backward" else 0  # a tape, whose memory is the backend's own
            return kernel(cell, *given[:own], *map(_closed, given[own:]), **more, **others)

        return call

    for name in ("forward", "backward"):
        monkeypatch.setattr(backend, name, closing(name, getattr(backend, name)))
    return called
