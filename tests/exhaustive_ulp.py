"""Measure the error of the kernels' elementary functions: of every float32, and of a large sample of float64.

    python tests/exhaustive_ulp.py [function ...]

takes some minutes a function. It prints the worst error per function, dtype and instruction set that runs here, with
the argument it occurs at, and fails if one is above its limit. tests/test_activations.py does the same with a smaller
sample.

An error is |got - truth| in units of the distance between the floats around the truth, which is computed with eleven
more bits or all of float64's. The kernels flush denormal numbers to zero: they count as zero, and 0 is right where the
truth is denormal. NaN must come of what it comes of in NumPy, and the sign must be the truth's, that of zero included.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backends import load
from fastrnn.parameters import Array


def erf(a: Array) -> Array:
    """erf by its series 2 / sqrt(pi) exp(-a^2) (a + 2 a^3 / 3 + 4 a^5 / 15 + ...), whose terms have one sign."""
    a = np.clip(a, -7, 7)
    square, term, total, n = 2 * a * a, a, a, 1
    while np.any(np.abs(term) > np.abs(total) * np.finfo(a.dtype).eps / 4):
        n += 2
        term = term * square / n
        total = total + term
    return total * np.exp(-a * a) * (2 / np.sqrt(np.arccos(a.dtype.type(-1))))


class Function(NamedTuple):
    """What a function is, and the largest errors allowed, in ulp, of float32 and float64: the measured, rounded up."""

    truth: Callable[[Array], Array]
    limits: tuple[float, float]


FUNCTIONS = {
    "sigmoid": Function(lambda a: 1 / (1 + np.exp(-a)), (2.8, 3.2)),
    "tanh": Function(np.tanh, (2.8, 3.2)),
    "exp": Function(np.exp, (1.8, 1.8)),
    "expm1": Function(np.expm1, (3.2, 3.6)),
    "log": Function(np.log, (0.95, 0.95)),
    "log1p": Function(np.log1p, (0.95, 0.95)),
    "sin": Function(np.sin, (2.7, 2.7)),
    "cos": Function(np.cos, (2.9, 2.9)),
    "erf": Function(erf, (2.7, 1.9)),
    "sqrt": Function(np.sqrt, (0.5, 0.5)),
}


def limit_of(name: str, dtype: str) -> float:
    """Return the largest error allowed, in ulp."""
    return FUNCTIONS[name].limits[dtype == "float64"]


class Worst(NamedTuple):
    """The largest error, in ulp, and where it is."""

    error: float
    at: float


Operation = Callable[..., Array]  # of its name and one to three operands


def operations(backend: str = "cython") -> dict[str, Operation]:
    """Return what computes an operation: the C kernels by instruction set, of those that run here; or Numba's."""
    if backend == "numba":
        from fastrnn.kernels.numba_program import activation

        return {"numba": activation}
    return {isa: _on(isa) for isa in re.findall(r"(\w+): (?:used|runs)", load("cython").describe())}


def _on(isa: str) -> Operation:
    kernels: Any = load("cython")
    return lambda name, a, b=None, c=None: kernels.activation(name, a, isa, b, c)


def worst_of(name: str, a: Array, backend: str = "cython") -> dict[str, Worst]:
    """Compare a function of the floats `a` on every instruction set with the same in the next larger dtype."""
    info, found = np.finfo(a.dtype), {}
    with np.errstate(all="ignore"):
        wide = a.astype(np.float64 if a.dtype == np.float32 else np.longdouble)
        wide[np.abs(a) < info.smallest_normal] *= 0
        want = FUNCTIONS[name].truth(wide)
        ulp = np.ldexp(1.0, np.clip(np.frexp(want)[1] - 1, info.minexp, info.maxexp - 1) - info.nmant)
        denormal, nan, infinite = np.abs(want) < info.smallest_normal, np.isnan(want), np.isinf(want.astype(a.dtype))
        for isa, operation in operations(backend).items():
            got = operation(name, a)
            error = (np.abs(got - want) / ulp).astype(np.float64)
            error[denormal & (got == 0) | nan & np.isnan(got) | infinite & np.isinf(got)] = 0
            error[(np.signbit(got) != np.signbit(want)) & ~nan] = np.inf
            error[np.isnan(error)] = np.inf
            at = error.argmax()
            found[isa] = Worst(float(error[at]), float(a[at]))
    return found


def every_float32(chunk: int = 1 << 16) -> Iterator[Array]:
    """All 2^32 of them, in chunks."""
    for start in range(0, 1 << 32, chunk):
        yield np.arange(start, start + chunk, dtype=np.uint64).astype(np.uint32).view(np.float32)


def sample(dtype: str, count: int, seed: int = 0) -> Array:
    """Draw stratified floats of a dtype.

    Every sign and exponent, so also zeros, denormals, infinities and NaN, with the first and last mantissas and `count`
    random ones, ten times as many where the functions are neither linear nor saturated. Besides the neighbours of all
    multiples of log(2) / 4 and pi / 4, where the reduction of the argument changes its integer, and sin and cos are 0.
    """
    rng, info = np.random.default_rng(seed), np.finfo(dtype)
    bits = np.dtype(f"u{info.dtype.itemsize}")
    signs = np.arange(2)[:, None] << info.nexp
    bias = info.maxexp - 1
    everywhere = (signs + np.arange(1 << info.nexp)).ravel()
    curved = (signs + np.arange(bias - info.nmant - 2, bias + info.nexp)).ravel()
    first_and_last = np.concatenate([np.arange(4), (1 << info.nmant) - 1 - np.arange(4)])
    drawn = [
        (everywhere[:, None], first_and_last),
        (everywhere[:, None], rng.integers(1 << info.nmant, size=(everywhere.size, count))),
        (curved[:, None], rng.integers(1 << info.nmant, size=(curved.size, 9 * count))),
    ]
    parts = [(high.astype(bits) << bits.type(info.nmant) | low.astype(bits)).ravel() for high, low in drawn]
    multiples = np.outer([np.log(2) / 4, np.pi / 4], np.arange(-4200, 4201)).ravel().astype(dtype).view(bits)
    parts.append((multiples[:, None] + np.arange(-8, 9).astype(bits)).ravel())
    return np.concatenate(parts).view(dtype)


def measure(dtype: str, names: Iterable[str], chunks: Iterable[Array]) -> bool:
    """Print the worst of all chunks per function and instruction set; return whether all are within their limits."""
    began, worst = time.perf_counter(), {}

    def of_chunk(a: Array) -> dict[tuple[str, str], Worst]:
        return {(name, isa): its for name in names for isa, its in worst_of(name, a).items()}

    with ThreadPoolExecutor(2) as pool:
        waiting = []
        for a in chunks:
            waiting.append(pool.submit(of_chunk, a))
            while len(waiting) > 8 or (waiting and waiting[0].done()):
                worst = merged(worst, waiting.pop(0).result())
        for last in waiting:
            worst = merged(worst, last.result())
    for name, isa in product(names, operations()):
        error, at = worst[name, isa]
        print(f"{dtype:8} {name:8} {isa:10} {error:.4f} ulp at {at!r}")
    print(f"{dtype}: {time.perf_counter() - began:.0f} s", flush=True)
    return all(its.error <= limit_of(name, dtype) for (name, _), its in worst.items())


def merged(a: dict[tuple[str, str], Worst], b: dict[tuple[str, str], Worst]) -> dict[tuple[str, str], Worst]:
    """The worse of both by key."""
    return {key: max(a.get(key, its), its) for key, its in b.items()}


if __name__ == "__main__":
    assert np.finfo(np.longdouble).nmant > 60, "long double has no more bits than double here"
    chosen = sys.argv[1:] or list(FUNCTIONS)
    samples = (sample("float64", 200, seed) for seed in range(100))
    sys.exit(not all([measure("float64", chosen, samples), measure("float32", chosen, every_float32())]))
