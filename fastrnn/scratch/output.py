"""The output layer's part of back-propagation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.checks import Array, take_reals
from fastrnn.scratch.columns import to_columns

__all__ = ["compute_output_layer_gradients", "project_logit_grad_to_hidden"]


def project_logit_grad_to_hidden(dy: Any, Wy: Any) -> Array:
    """Return da = Wy^T dy, the loss's gradient with respect to the hidden states by way of the logits.

    Parameters
    ----------
    dy
        (n_y, m, T_x), of `compute_loss_and_grad`.
    Wy
        (n_y, n_a), the output layer's weights; Wya of the RNN.

    Returns
    -------
    ndarray
        da (n_a, m, T_x).

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> project_logit_grad_to_hidden(np.ones((3, 1, 4)), np.ones((3, 5))).shape
    (5, 1, 4)
    """
    rows, weight = _dy_rows(dy), np.ascontiguousarray(take_reals("Wy", Wy))
    if weight.ndim != 2 or len(weight) != rows.shape[2]:
        raise ValueError(f"Wy has shape {weight.shape}; expected (n_y, n_a) = ({rows.shape[2]}, any), as dy says")
    da = ops.multiply(rows.reshape(-1, rows.shape[2]), weight)  # logits = Wy a + by
    return to_columns(da.reshape(*rows.shape[:2], -1))


def compute_output_layer_gradients(dy: Any, a: Any) -> dict[str, Array]:
    """Return the gradients of the output layer's parameters.

    Parameters
    ----------
    dy
        (n_y, m, T_x), of `compute_loss_and_grad`.
    a
        The hidden states: (n_a, m, T_x), of `lstm_forward`, or a dict from the step to (n_a, m), of `rnn_forward`, in
        which the initial state at -1 does not count.

    Returns
    -------
    dict
        dWy (n_y, n_a), the same as dWya, for the name that the RNN's parameter has, and dby (n_y, 1).

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> gradients = compute_output_layer_gradients(np.ones((3, 1, 4)), np.ones((5, 1, 4)))
    >>> gradients["dWy"].shape, gradients["dby"].ravel()
    ((3, 5), array([4., 4., 4.]))
    """
    dy_rows = _dy_rows(dy)
    steps, m, n_y = dy_rows.shape
    if isinstance(a, Mapping):
        count = len(a) - (-1 in a)
        if missing := [t for t in range(count) if t not in a]:
            raise KeyError(f"a has no step {missing[0]}; expected all from 0 on")
        a_rows = take_reals("a", np.array([take_reals(f"a[{t}]", a[t]).T for t in range(count)]))
    else:
        array = take_reals("a", a)
        if array.ndim == 2:
            array = array[:, None]
        if array.ndim != 3:
            raise ValueError(f"a has shape {array.shape}; expected (n_a, m, T_x) or (n_a, T_x)")
        a_rows = np.ascontiguousarray(array.transpose(2, 1, 0))
    if a_rows.ndim != 3 or a_rows.shape[:2] != (steps, m):
        raise ValueError(f"a is of {_of_steps(a_rows)}; expected {steps} steps of {m} examples, as dy")
    flat = dy_rows.reshape(-1, n_y)
    dwy = ops.multiply(flat.T, a_rows.reshape(steps * m, -1))  # logits = Wy a + by
    return {"dWy": dwy, "dWya": dwy.copy(), "dby": flat.sum(0)[:, None]}


def _of_steps(rows: Array) -> str:
    return f"{rows.shape[0]} steps of {rows.shape[1]} examples" if rows.ndim == 3 else f"{len(rows)} steps"


def _dy_rows(dy: Any) -> Array:
    """The rows (T_x, m, n_y) of dy (n_y, m, T_x), or (n_y, T_x) for a single example."""
    array = take_reals("dy", dy)
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"dy has shape {array.shape}; expected (n_y, m, T_x) or (n_y, T_x)")
    return np.ascontiguousarray(array.transpose(2, 1, 0))
