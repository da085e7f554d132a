"""Between arrays of columns, the convention of from-scratch code, and the rows that the kernels run over.

Columns are (features, m) per step and (features, m, T_x) per sequence; rows are (m, features) and (T, m, features),
T = T_x. Rows that come from kernels are handed out as their transpose, without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.checks import Array, check_mapping, shown, take_array, take_integers, take_reals

__all__ = [
    "as_indices",
    "as_rows",
    "project",
    "sequence_rows",
    "state_rows",
    "step_rows",
    "take",
    "to_columns",
]


def to_columns(rows: Array) -> Array:
    """The (features, m, T_x) view of rows (T, m, features)."""
    return rows.transpose(2, 1, 0)


def as_rows(name: str, columns: Any, shape: tuple[int, ...], letters: str) -> Array:
    """Return columns (features, m, T_x) of a shape as contiguous rows; ValueError, with `letters`, for another."""
    array = take_reals(name, columns)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {letters} = {shape}")
    return np.ascontiguousarray(array.transpose(2, 1, 0), np.float64)


def state_rows(name: str, state: Any, n_a: int, m: int) -> Array:
    """Return a copy of a state (n_a, m) as rows; ValueError for another shape."""
    array = take_reals(name, state)
    if array.shape != (n_a, m):
        raise ValueError(f"{name} has shape {array.shape}; expected (n_a, m) = {(n_a, m)}")
    return np.array(array.T, np.float64, order="C")


def step_rows(name: str, x: Any, n_x: int, m: int | None = None) -> Array:
    """Return a copy of one step's input (n_x, m) as rows (1, m, n_x); ValueError for another shape, or number m."""
    array = take_reals(name, x)
    if array.ndim != 2 or len(array) != n_x or array.shape[1] != (m or array.shape[1]):
        raise ValueError(f"{name} has shape {array.shape}; expected (n_x, m) = ({n_x}, {m or 'any'})")
    return np.array(array.T, np.float64, order="C")[None]


def sequence_rows(name: str, sequence: Any, n_x: int) -> Array:
    """Return the input of a sequence as new rows (T, m, n_x).

    Parameters
    ----------
    name
        Of the argument, for errors.
    sequence
        Token indices (T_x,), or (m, T_x) for a batch, where None in a list, or -1, stands for a column of zeros; or
        real columns (n_x, m, T_x).
    n_x
        The number of tokens, or of features.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or an index is out of range, or there is no step.
    """
    array = None if isinstance(sequence, (list, tuple)) else take_array(name, sequence)
    if array is not None and array.ndim == 3:
        if len(array) != n_x or not array.shape[2]:
            raise ValueError(f"{name} has shape {array.shape}; expected (n_x, m, T_x) = ({n_x}, any, at least 1)")
        array = take_reals(name, array)
        return np.array(array.transpose(2, 1, 0), np.float64, order="C")
    tokens, _ = as_indices(name, sequence, n_x, "n_x")
    if tokens.ndim == 1:
        tokens = tokens[:, None]
    elif tokens.ndim == 2:
        tokens = tokens.T
    else:
        raise ValueError(f"{name} has shape {tokens.shape}; expected (T_x,) or (m, T_x) for token indices")
    one_hot: Array = tokens[..., None] == np.arange(n_x)
    return one_hot.astype(np.float64, order="C")


def as_indices(name: str, indices: Any, limit: int, letters: str) -> tuple[Array, bool]:
    """Return token indices as an array of intp in which -1 stands for None, and whether there is none of these.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If there are none, or one is below -1 or not below `limit`, which `letters` names.
    """
    if isinstance(indices, (list, tuple)) and any(index is None for index in indices):
        indices = [-1 if index is None else index for index in indices]
    tokens = take_array(name, indices)
    if not tokens.size:
        raise ValueError(f"{name} is empty; expected at least one token")
    take_integers(name, tokens)
    if type(indices) is list and tokens.ndim == 1:  # of a dozen numbers that takes a tenth of the time
        low, high = min(indices), max(indices)
    else:
        low, high = int(tokens.min()), int(tokens.max())
    if low < -1 or high >= limit:
        raise ValueError(
            f"{name} holds {low if low < -1 else high}; expected 0 <= token < {letters} = {limit}, or -1 for none"
        )
    return np.asarray(tokens, np.intp), low >= 0


def take(parameters: Mapping[str, Any], name: str, rows: int | None = None, columns: int | None = None) -> Array:
    """Return the matrix of a name and, where they are given, of so many rows and columns.

    Raises
    ------
    KeyError
        If there is no such parameter.
    ValueError
        If it has another shape.
    """
    if name not in check_mapping("parameters", parameters, "names to arrays"):
        found = ", ".join(other if isinstance(other, str) else shown(other) for other in list(parameters)[:20])
        raise KeyError(f"parameters has no {name!r}; found {found or 'none'}; expected all that the network has")
    array = parameters[name] if type(parameters[name]) is np.ndarray else take_array(name, parameters[name])
    if array.dtype.kind not in "fiub":
        raise TypeError(f"parameters[{name!r}] has dtype {array.dtype}; expected real numbers")
    shape = array.shape
    if len(shape) != 2 or (rows or shape[0]) != shape[0] or (columns or shape[1]) != shape[1]:
        raise ValueError(f"parameters[{name!r}] has shape {shape}; expected ({rows or 'any'}, {columns or 'any'})")
    return array


def project(rows: Array, weight: Array, bias: Array) -> Array:
    """Return rows (T, m, in) times weight (out, in) plus bias (out, 1), as rows (T, m, out)."""
    weight, bias = np.ascontiguousarray(weight, np.float64), np.asarray(bias, np.float64).ravel()
    if weight.shape != (len(bias), rows.shape[-1]):
        raise ValueError(
            f"the output layer's weight has shape {weight.shape}; expected {(len(bias), rows.shape[-1])}, as its bias "
            "and the states say"
        )
    flat = ops.multiply(rows.reshape(-1, rows.shape[-1]), weight.T, bias)
    return flat.reshape(*rows.shape[:-1], len(weight))
