"""What users have as X and y, arrays, lists and frames, as lists of sequences and arrays of targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn.checks import Array, shown

__all__ = ["as_sequences", "as_table", "is_frame", "targets_of_ids"]


def is_frame(value: Any) -> bool:
    """Whether this is a frame of pandas or polars: named columns of one length."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def as_table(X: Any, id_column: Any) -> Any:
    """Return a list of arrays where X is one, and where it is a table (n, T), or three axes, what it is.

    A list of rows of one length is a table; an array of objects that are arrays is a list.
    """
    if is_frame(X) or hasattr(X, "toarray") or id_column is not None:
        return X
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
        X = list(X)
    if isinstance(X, (list, tuple)):
        shapes = {np.shape(each) for each in X if not is_frame(each)}
        return np.asarray(X) if len(shapes) == 1 and len(next(iter(shapes))) == 1 else list(X)
    return np.asarray(X) if hasattr(X, "__array__") else X


def as_sequences(X: Any, id_column: Any) -> tuple[Any, list[Any] | None, list[str] | None]:
    """Return sequences, an array (n, T, I) or a list of arrays (T, I); the ids, if X is a frame; and its columns.

    Raises
    ------
    TypeError, ValueError
        If X is no such thing, or a frame without the column of ids.
    """
    if is_frame(X):
        return _by_id(X, id_column)
    if id_column is not None:
        raise TypeError(f"X is {shown(X)}; expected a frame of pandas or polars, as id_column is {id_column!r}")
    if isinstance(X, np.ndarray) and X.dtype != object:
        return (X[..., None] if X.ndim == 2 else X), None, None
    if not isinstance(X, (Sequence, np.ndarray)) or isinstance(X, (str, bytes)):
        raise TypeError(f"X is {shown(X)}; expected an array (n, T, I), a list of arrays (T, I), or a frame")
    arrays = [each.to_numpy() if is_frame(each) else np.asarray(each) for each in X]
    return [each[:, None] if each.ndim == 1 else each for each in arrays], None, None


def _by_id(X: Any, id_column: Any) -> tuple[list[Array], list[Any], list[str]]:
    """The rows of each id, in their order; the ids as they first occur."""
    if id_column not in list(X.columns):
        names = ", ".join(map(str, list(X.columns)[:20]))
        raise ValueError(f"X has the columns {names}; expected {id_column!r} among them, as id_column says")
    columns = [name for name in X.columns if name != id_column]
    if not columns:
        raise ValueError(f"X has the column {id_column!r} only; expected others besides")
    ids = np.asarray(X[id_column].to_numpy())
    values = [np.asarray(X[name].to_numpy()) for name in columns]
    for name, value in zip(columns, values, strict=True):
        if value.dtype.kind not in "fiub":
            raise TypeError(f"X has the column {name!r} of dtype {value.dtype}; expected numbers: encode or drop it")
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)  # of the sorted ids: as they first occur
    place = np.empty(len(order), np.intp)
    place[order] = np.arange(len(order))
    group = place[inverse]
    rows = np.argsort(group, kind="stable")
    table = np.stack(values, axis=1).astype(np.float64)[rows]
    ends = np.cumsum(np.bincount(group))
    return np.split(table, ends[:-1]), ids[first[order]].tolist(), [str(name) for name in columns]


def targets_of_ids(y: Any, ids: list[Any] | None) -> Any:
    """Return targets in the order of the ids: of a pandas Series those that its index names, else as they are."""
    if ids is None or not hasattr(y, "reindex") or len(y) != len(ids):
        return y
    if set(y.index) != set(ids):
        return y  # numbered from 0: in the order in which the ids first occur
    return y.reindex(ids)
