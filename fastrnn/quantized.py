"""Modules whose parameters are int8 weights with their scales: a quarter of the bytes, for inference."""

from __future__ import annotations

import copy
import inspect
from typing import Any, TypeVar

import numpy as np

from fastrnn.checks import shown
from fastrnn.modules import GRU, LSTM, RNN
from fastrnn.narrow import as_int8
from fastrnn.parameters import Array

__all__ = ["of_integers", "quantize"]

Module = TypeVar("Module", LSTM, GRU, RNN)

SHARES = np.linspace(1, 0.7, 13, dtype=np.float32)  # of a row's largest weight, that its scale may be made of


def quantize(module: Module, calibration: Any = None) -> Module:
    """Return a module for inference whose weights are int8, as `precision="int8"` rounds them; a quarter of the bytes.

    Calls, streams, `state_dict`, `fastrnn.save` and `fastrnn.load`, pickles and copies are those of any module. Its
    `parameters` are weight_ih_l0 and weight_hh_l0, int8, scale_ih_l0 and scale_hh_l0, float32 (G*H,), by which their
    rows are multiplied, and biases and projections as they were. `forward` refuses: it cannot be trained.

    Parameters
    ----------
    module
        An LSTM, GRU or RNN of float32. It stays as it is.
    calibration
        Some input as the module is called with, real or tokens. The scale of each row is then the one, of those of 0.7
        to 1 times its largest weight, by which the squares of the row's errors on this input are the smallest. None
        takes the largest weight, which gives the bits of ``precision="int8"``.

    Raises
    ------
    TypeError
        If `module` is something else, a cell of one's own or of float64 for instance, or `calibration` is no input.
    ValueError
        If the module is quantized already.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> lstm = fastrnn.LSTM(64, 128, seed=0)
    >>> small = fastrnn.quantize(lstm)
    >>> sum(p.nbytes for p in lstm.parameters.values()), sum(p.nbytes for p in small.parameters.values())
    (397312, 106496)
    >>> x = np.ones((5, 3, 64), np.float32)
    >>> bool(np.abs(small(x)[0] - lstm(x)[0]).max() < 0.01)
    True
    """
    if type(module) not in (LSTM, GRU, RNN):
        raise TypeError(f"module is {shown(module)}; expected a fastrnn.LSTM, GRU or RNN")
    if module.dtype != np.float32:
        raise TypeError(f"module has dtype {module.dtype}; expected float32")
    if module.quantized:
        raise ValueError("module is quantized already; expected one with float32 weights")
    moments = {} if calibration is None else _moments(module, calibration)
    names = inspect.signature(type(module)).parameters.keys() - {"seed"}
    options: dict[str, Any] = {name: getattr(module, name) for name in names}
    made = type(module)(**options | {"precision": "int8", "quantized": True})
    parameters = module.state_dict()
    for name in list(parameters):
        if name.startswith(("weight_ih", "weight_hh")):
            scale_name = name.replace("weight", "scale", 1)
            parameters[name], parameters[scale_name] = _round(parameters[name], moments.get(name))
    made.load_state_dict(parameters)
    return made


def of_integers(integers: Array, scale: Any, zero: Any = 0) -> tuple[Array, Array]:
    """int8 weights and their scales of what another library has quantized: (integers - zero) * scale.

    They are the library's own where they are within 128 of its zero; -128, which the kernels do not have, becomes -127.
    A row with others is rounded anew.

    Parameters
    ----------
    integers
        (G*H, K), int8 or uint8.
    scale, zero
        One for all, or (G*H,).
    """
    from_zero = integers.astype(np.int32) - np.reshape(np.asarray(zero, np.int32), (-1, 1))
    scales = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1), len(integers)).copy()
    far = (from_zero < -128).any(axis=1) | (from_zero > 127).any(axis=1)
    found = np.maximum(from_zero, -127).astype(np.int8)
    found[far], scales[far] = as_int8(from_zero[far].astype(np.float32) * scales[far, None])
    return found, scales


def _round(weight: Array, moment: Array | None) -> tuple[Array, Array]:
    """int8 weights and their scales; those with the smallest errors by the second moments of what they multiply."""
    integers, scales = as_int8(weight)
    if moment is None:
        return integers, scales
    least = np.full(len(weight), np.inf)
    tops = scales.copy()
    for share in SHARES:
        candidates = tops * share
        by = np.divide(np.float32(1), candidates, out=np.zeros_like(tops), where=tops > 0)
        rounded = np.clip(np.rint(weight * by[:, None]), -127, 127)
        errors = weight - rounded * candidates[:, None]
        squares = np.einsum("jk,jk->j", errors @ moment, errors)
        better = squares < least
        least[better], scales[better], integers[better] = squares[better], candidates[better], rounded[better]
    return integers, scales


def _moments(module: Any, calibration: Any) -> dict[str, Array]:
    """The second moments (K, K) of the rows that each weight multiplies, by its name."""
    its = copy.copy(module)
    its.precision = "float32"
    try:
        inside = its.trace(calibration)
    except (TypeError, ValueError) as error:
        raise type(error)(f"calibration is no input of the module: {error}") from None
    given = np.asarray(calibration)
    below = np.eye(module.input_size, dtype=np.float32)[given] if given.dtype.kind in "iu" else given
    moments: dict[str, Array] = {}
    for layer in range(module.num_layers):
        outputs = [inside[f"h_l{layer}{suffix}"] for suffix in ("", "_reverse")[: module.directions]]
        for suffix, h in zip(("", "_reverse"), outputs, strict=False):
            moments |= {f"weight_ih_l{layer}{suffix}": _moment(below), f"weight_hh_l{layer}{suffix}": _moment(h)}
        below = np.concatenate(outputs, axis=-1)
    return moments


def _moment(rows: Array) -> Array:
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    moment: Array = (flat.T @ flat / max(len(flat), 1)).astype(np.float32)
    return moment
