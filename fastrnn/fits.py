"""Whether the arrays of a call on one layer fit one another: a backend must never read beyond one of them.

`fastrnn.modules` validates what callers give; but a parameter is an array that the caller has too, and its shape and
dtype are attributes that anyone can set. So every call takes its sizes from the weights as they are, and looks here.
The compiled driver looks for itself and comes here only to say what does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn.cells import Cell, State, Weights
from fastrnn.narrow import NarrowWeight
from fastrnn.parameters import Array

__all__ = ["check_call", "check_gradients", "check_product", "check_weights", "layout"]

_REMEDY = ": write into a parameter, but leave its shape and dtype as they are"


def layout(*arrays: Array | NarrowWeight | None) -> tuple[Any, ...]:
    """All that a backend must be able to rely on between two calls: where arrays lie, their shapes and dtypes."""
    given = [array.values if isinstance(array, NarrowWeight) else array for array in arrays]
    return tuple(
        [None if a is None else (a.__array_interface__["data"][0], a.shape, a.strides, a.dtype) for a in given]
    )


def _check(
    name: str,
    array: Any,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    letters: str,
    remedy: str = "",
    apart: bool = False,
) -> None:
    if isinstance(array, NarrowWeight):
        if array.scale is not None:
            _check(
                f"the scale of {name}", array.scale, dtype, shape[:1], letters[: letters.index(",") + 1] + ")", remedy
            )
        array, dtype = array.values, dtype if array.scale is None else np.dtype(np.int8)
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"{name} is a {type(array).__name__}; expected an array {letters} = {shape} of {dtype}{remedy}"
        )
    if array.dtype != dtype or array.shape != shape:
        came = f"shape {array.shape} and dtype {array.dtype}"
        raise ValueError(f"{name} has {came}; expected {letters} = {shape} of {dtype}{remedy}")
    contiguous = array.flags.c_contiguous or (apart and array.strides[-1] == array.itemsize)  # its rows at least
    if not (contiguous and array.flags.aligned):
        raise ValueError(f"{name} is not contiguous and aligned; expected an array that is{remedy}")


def check_weights(cell: Cell, weights: Weights, *, prepared: bool = False) -> tuple[int, int, int]:
    """Return I, H and P of a layer's weights; ValueError unless they fit one another and the cell.

    `prepared` are those of `fastrnn.ops.prepared`.
    """
    ih, hh, bias_ih, bias_hh, hr, unit = weights
    X, Y = len(cell.gates_ih), len(cell.gates_hh)
    for name, weight, G in (("weight_ih", ih, X), ("weight_hh", hh, Y)):
        if weight is None and G == 0:
            continue
        if (
            not isinstance(weight, (np.ndarray, NarrowWeight))
            or weight.ndim != 2
            or weight.dtype not in (np.float32, np.float64)
            or weight.shape[0] % G
            or not weight.size
        ):
            came = f"{getattr(weight, 'shape', None)} and dtype {getattr(weight, 'dtype', None)}"
            raise ValueError(
                f"{name} has shape {came}; expected two axes, the first of {G}*H, of float32 or float64{_REMEDY}"
            )
    I, dtype = ih.shape[1], ih.dtype
    H = len(ih) // X
    P = H if hh is None and hr is None else len(hr) if hh is None and hr is not None else hh.shape[1]  # type: ignore[union-attr]
    _check("weight_ih", ih, dtype, (X * H, I), "(G*H, I)", _REMEDY)
    if hh is not None:
        _check("weight_hh", hh, dtype, (Y * H, H if hr is None else P), "(G*H, P)", _REMEDY)
    if hr is not None:
        _check("weight_hr", hr, dtype, (P, H), "(P, H)", _REMEDY)
    if bias_ih is not None or bias_hh is not None:
        _check("bias_ih", bias_ih, dtype, (X * H,), "(G*H,)", _REMEDY)
        if hh is not None:
            _check("bias_hh", bias_hh, dtype, (Y * H,), "(G*H,)", _REMEDY)
    M = 0 if cell.program is None else cell.program.seen_units if prepared else cell.program.units
    if unit is not None or M:
        _check("unit", unit, dtype, (M, H), "(M, H)", _REMEDY)
    return I, H, P


def check_call(
    cell: Cell,
    x: Array,
    state: State,
    sizes: tuple[int, int, int],
    dtype: np.dtype[Any],
    batch_sizes: Array | None = None,
    extra: Sequence[Array] = (),
) -> None:
    """ValueError unless x and the initial state fit a layer of sizes I, H, P and a dtype; see `check_weights`."""
    I, H, P = sizes
    N = len(state[0])
    _check("h_0", state[0], dtype, (N, P), "(N, P)")
    for name, other in zip(cell.states_0[1:], state[1:], strict=False):
        _check(name, other, dtype, (N, H), "(N, H)")
    if len(state) != len(cell.states):
        raise ValueError(f"the state has {len(state)} arrays; expected {len(cell.states)}")
    leading: tuple[int, ...] = (len(x), N)
    if batch_sizes is not None:
        leading = (int(batch_sizes.sum()),)
        if len(batch_sizes) and not (batch_sizes.min() >= 0 and batch_sizes.max() <= N):
            raise ValueError(f"batch_sizes has sizes beyond 0 to N = {N}")
    letters = "(T, N" if batch_sizes is None else "(R"
    if x.dtype.kind == "f":
        _check("x", x, dtype, (*leading, I), f"{letters}, I)")
    else:
        _check("x", x, np.dtype(np.intp), leading, f"{letters})")
    wanted = () if cell.program is None else cell.program.extras
    if len(extra) != len(wanted):
        raise ValueError(f"the cell is given {len(extra)} values beside x; expected {len(wanted)}")
    for array, of_sequence in zip(extra, wanted, strict=True):
        rows = N if of_sequence else math.prod(leading)
        W = 1 if array.shape[-1:] == (1,) else H
        _check("a value beside x", array, dtype, (rows, W), f"({'N' if of_sequence else 'R'}, 1 or H)", apart=True)


def check_gradients(
    dy: Array | None, dstate: Sequence[Array | None], y: tuple[Any, ...], states: Sequence[tuple[Any, ...]]
) -> None:
    """ValueError unless gradients fit y and the states; each of the latter is what `layout` says of it."""
    _, shape, _, dtype = y
    if dy is not None:
        if dy.dtype != dtype or dy.shape != shape:
            raise ValueError(f"dy has shape {dy.shape} and dtype {dy.dtype}; expected y's shape = {shape} of {dtype}")
        even = dy.ndim < 3 or 1 in shape[:2] or dy.strides[0] == shape[1] * dy.strides[1]
        if dy.size and not (even and (shape[-1] == 1 or dy.strides[-1] == dy.itemsize)):
            raise ValueError("dy has rows that are not contiguous or not evenly apart; expected a contiguous array")
    for name, d, (_, shape, _, dtype) in zip(("dh_n", "dc_n"), dstate, states, strict=False):
        if d is not None:
            _check(name, d, dtype, shape, "h_0's shape" if name == "dh_n" else "c_0's shape")


def check_product(a: Array, b: Array, bias: Array | None) -> None:
    """ValueError unless a (R, K), b (K, C) and bias (C,) are of one dtype and fit, and an axis of b is contiguous."""
    itemsize = a.itemsize
    if (
        a.dtype not in (np.float32, np.float64)
        or a.dtype != b.dtype
        or a.ndim != 2
        or b.ndim != 2
        or a.shape[1] != b.shape[0]
        or not (itemsize in b.strides or b.shape[0] == 1 or b.size == 0)
        or not (a.flags.aligned and b.flags.aligned)
    ):
        raise ValueError(
            f"a product of {a.shape} of {a.dtype} and {b.shape} of {b.dtype}; expected (R, K) and (K, C) of one dtype, "
            f"float32 or float64{_REMEDY}"
        )
    if bias is not None:
        _check("bias", bias, b.dtype, b.shape[1:], "(C,)", _REMEDY)
