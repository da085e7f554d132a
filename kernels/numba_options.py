"""How every Numba kernel is compiled, and what the vector code may assume of the CPU.

The CPU is the one Numba compiles for: the host, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say. Numba files compiled
code by the same three strings that are read here, so code kept for one CPU never runs on another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numba.core import config as numba_config
from numba.core.compiler import Compiler
from numba.core.registry import cpu_target

from fastrnn.cells.program import Kind, Op
from fastrnn.steps import SUMMED_ROWS

__all__ = [
    "CPU",
    "FUSED",
    "SOURCES",
    "SUMMED_ROWS",
    "TILE_ROWS",
    "VECTOR_BYTES",
    "X86",
    "helper",
    "inlined",
    "kernel",
    "lanes",
]

_TRIPLE, CPU, _features = cpu_target.target_context.codegen().magic_tuple()
_FEATURES = frozenset(_features.split(","))

X86 = _TRIPLE.startswith(("x86_64", "i386", "i686"))
_AVX512 = {"+avx512f", "+avx512dq", "+avx512bw", "+avx512vl"} <= _FEATURES

VECTOR_BYTES = 64 if _AVX512 else 32 if "+avx2" in _FEATURES else 16

# Whether a fused multiply-add is one instruction; where it is not, it would be a library call per lane.
FUSED = not X86 or "+fma" in _FEATURES

# Rows of the register tile by its vectors: accumulators, one row of weights and a broadcast fit the registers.
_REGISTERS = 16 if X86 and not _AVX512 else 32
TILE_ROWS = {vectors: min(8, (_REGISTERS - vectors - 1) // vectors) for vectors in (1, 2, 3, 4)}

# Numba renews its cache when the file of the cached function changes, not when a function called from it does. This
# digest is part of a type's name in every cached signature, so that a change in any file here renews them all, and so
# does one of the numbers that come from elsewhere.
_numbers = repr([SUMMED_ROWS, *[(number.name, int(number)) for number in (*Kind, *Op)]])
SOURCES = hashlib.sha256(
    b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("numba_*.py"))) + _numbers.encode()
).hexdigest()[:16]


def lanes(dtype: Any) -> int:
    """How many elements of `dtype` one vector holds."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def kernel(function: Callable[..., Any]) -> Any:
    """Compile an entry that Python calls; the machine code is kept on disk where a folder for it can be written."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep it in
        return njit(nogil=True, error_model="numpy")(function)


class _Linked(Compiler):
    """Compiles a function without optimizing it: the kernel that it is linked into is optimized as a whole.

    Numba would optimize a helper with all that it calls, and again all of it in each helper that calls it in turn.
    """

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        level, numba_config.OPT = numba_config.OPT, type(numba_config.OPT)(0)
        try:
            return super().compile_extra(function)
        finally:
            numba_config.OPT = level


def helper(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call, and nothing else: without what Python or C would need to call it."""
    return njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_Linked)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function of vectors, which must not be called through memory."""
    return njit(
        error_model="numpy", forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_Linked
    )(function)
