"""Validate arrays once, pick a backend, call it: the only caller of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from fastrnn.backends import resolve
from fastrnn.cells import Cell, State, Weights
from fastrnn.parameters import Array, take_array
from fastrnn.threads import get_num_threads

__all__ = [
    "PackedWeights",
    "Tape",
    "as_real",
    "as_states",
    "as_tokens",
    "backward",
    "forward",
    "infer",
    "is_tokens",
    "multiply",
]


def is_tokens(x: Array) -> bool:
    """Whether x holds token indices (integers) rather than real input."""
    return x.dtype.kind in "iu"


def as_real(name: str, value: Any, dtype: np.dtype[Any], shape: Sequence[int], letters: str) -> Array:
    """Return `value` as a C-contiguous, aligned, native array of `dtype` and `shape`; a copy only where needed.

    An entry of -1 in `shape` takes any size. `letters` names the expected shape in errors.

    Raises
    ------
    TypeError
        If the dtype differs (in more than byte order).
    ValueError
        If the shape differs.
    """
    array = take_array(name, value)
    if array.dtype is not dtype and array.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} has dtype {array.dtype}; expected {dtype}")
    if len(shape) != array.ndim or any(want not in (got, -1) for want, got in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if n < 0 else str(n) for n in shape)
        raise ValueError(f"{name} has shape {array.shape}; expected {letters} = ({wanted})")
    flags = array.flags
    if flags.c_contiguous and flags.aligned and array.dtype.isnative:
        return array
    return np.require(array, dtype, ["C", "A"])


def as_tokens(name: str, tokens: Array, limit: int, letters: str) -> Array:
    """Return integer `tokens` as contiguous intp; ValueError unless 0 <= token < limit, which `letters` names."""
    if tokens.size and not 0 <= (low := int(tokens.min())) <= (high := int(tokens.max())) < limit:
        raise ValueError(
            f"{name} holds the token {low if low < 0 else high}; expected 0 <= token < {letters} = {limit}"
        )
    return np.require(tokens, np.intp, ["C", "A"])


def as_states(
    names: Sequence[str], values: Any, dtype: np.dtype[Any], shape: Sequence[int], letters: str
) -> tuple[Array, ...]:
    """Return the states `values`, one array or a tuple as `names` says, as a tuple of validated arrays."""
    if len(names) == 1:
        values = (values,)
    elif not isinstance(values, (tuple, list)) or len(values) != len(names):
        raise TypeError(f"the state is {_describe(values)}; expected a tuple ({', '.join(names)})")
    return tuple(as_real(name, value, dtype, shape, letters) for name, value in zip(names, values, strict=True))


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


@dataclass
class Tape:
    """One layer's tape, with the backend that can read it. Backward overwrites it in place: it serves once."""

    cell: Cell
    backend: ModuleType
    kept: Any  # None once used
    num_threads: int


class PackedWeights:
    """One layer's weights as a backend packed them, kept as long as the stamp they were packed under is the same."""

    def __init__(self) -> None:
        self._key: tuple[ModuleType, int] | None = None
        self._packed: Any = None

    def get(self, module: ModuleType, cell: Cell, weights: Weights, stamp: int, num_threads: int) -> dict[str, Any]:
        """The backend's `packed` argument, packed anew if need be; nothing for a backend that does not pack."""
        if not hasattr(module, "pack"):
            return {}
        if self._key != (module, stamp):
            self._packed = module.pack(cell, weights, num_threads=num_threads)
            self._key = (module, stamp)
        return {"packed": self._packed}


def infer(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    packed: PackedWeights,
    *,
    stamp: int | None,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Array, State]:
    """Run one layer for its outputs only, on packed weights if they cannot have changed since the call before."""
    module = resolve(backend)
    threads = num_threads or get_num_threads()
    extra = {} if stamp is None else packed.get(module, cell, weights, stamp, threads)
    y, state_n, _ = module.forward(cell, x, state, weights, tape=False, num_threads=threads, **extra)
    return y, state_n


def forward(
    cell: Cell, x: Array, state: State, weights: Weights, *, backend: str | None, num_threads: int | None
) -> tuple[Array, State, Tape]:
    """Run one layer over a sequence and keep a tape: `fastrnn.reference.forward` on the chosen backend."""
    module = resolve(backend)
    threads = num_threads or get_num_threads()
    y, state_n, kept = module.forward(cell, x, state, weights, tape=True, num_threads=threads)
    return y, state_n, Tape(cell, module, kept, threads)


def backward(tape: Tape, dy: Array | None, dstate: tuple[Array | None, ...]) -> tuple[Array | None, State, Weights]:
    """Differentiate one layer: `fastrnn.reference.backward` on the backend that ran its forward."""
    kept, tape.kept = tape.kept, None
    dx, dstate_0, dweights = tape.backend.backward(tape.cell, kept, dy, dstate, num_threads=tape.num_threads)
    return dx, dstate_0, Weights(*dweights)


def multiply(
    a: Array, b: Array, bias: Array | None = None, *, backend: str | None = None, num_threads: int | None = None
) -> Array:
    """Return a @ b + bias for (R, K), (K, C) and (C,) arrays; each of a and b is contiguous or the transpose of such.

    A backend with kernels of its own for it keeps NumPy's BLAS, and the threads that it leaves spinning, out of a
    training loop, and sums every element in one order whatever the number of threads.
    """
    module = resolve(backend)
    if hasattr(module, "multiply"):
        product: Array = module.multiply(a, b, bias, num_threads=num_threads or get_num_threads())
        return product
    return a @ b if bias is None else a @ b + bias
