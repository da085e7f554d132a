"""Cross-entropy of logits in columns, its gradient, and the smoothed loss that training loops print."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastrnn.checks import Array, check_choice, check_number, check_positive, take_reals
from fastrnn.scratch.columns import as_indices, to_columns
from fastrnn.training.losses import cross_entropy, rows_cross_entropy

__all__ = [
    "compute_loss_and_grad",
    "cross_entropy_loss",
    "cross_entropy_loss_grad_from_logits",
    "get_initial_loss",
    "smooth",
]


def compute_loss_and_grad(logits: Any, y_true: Any, reduction: str = "mean") -> tuple[float, Array]:
    """Return the cross-entropy of softmax(logits) against the true tokens, and its gradient.

    Parameters
    ----------
    logits
        (V, T), (V, 1, T), or (V, m, T) for a batch.
    y_true
        Token indices (T,), or (m, T) for a batch. None in a list, or -1, stands for padding: it does not count.
    reduction
        "mean" over the tokens, or "sum".

    Returns
    -------
    loss : float
        In nats.
    dy : ndarray
        (V, 1, T), or (V, m, T) for a batch.

    Raises
    ------
    TypeError
        If y_true does not hold integers.
    ValueError
        If the reduction is another one, the shapes do not fit, a token is out of range, or none counts.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dy = compute_loss_and_grad(np.zeros((2, 3)), [0, 1, 1], reduction="sum")
    >>> round(loss, 4), dy[:, 0, 0]
    (2.0794, array([-0.5,  0.5]))
    """
    return _loss_and_grad("logits", logits, y_true, reduction)


def _loss_and_grad(name: str, logits: Any, y_true: Any, reduction: str) -> tuple[float, Array]:
    """`compute_loss_and_grad` for a caller who calls the logits `name`."""
    array = take_reals(name, logits)
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; expected (V, T) or (V, m, T)")
    rows = array.transpose(2, 1, 0)
    tokens, complete = as_indices("y_true", y_true, rows.shape[2], "V")
    targets = tokens[:, None] if tokens.ndim == 1 else tokens.T
    if targets.shape != rows.shape[:2]:
        raise ValueError(f"y_true has shape {tokens.shape}; expected (T,) or (m, T), as {name} is {np.shape(logits)}")
    check_choice("reduction", reduction, ("mean", "sum"))
    if not complete:
        loss, drows = cross_entropy(rows, targets, ignore_index=-1, reduction=reduction)
        return loss, to_columns(drows)
    share = 1 / targets.size if reduction == "mean" else 1.0
    loss, drows = rows_cross_entropy(rows.reshape(-1, rows.shape[2]), targets.ravel(), share)
    return loss, to_columns(drows.reshape(rows.shape))


def cross_entropy_loss(z: Any, y_true: Any) -> float:
    """Return the mean cross-entropy of softmax(z) against the true tokens; see `compute_loss_and_grad`."""
    return _loss_and_grad("z", z, y_true, "mean")[0]


def cross_entropy_loss_grad_from_logits(logits: Any, y_true: Any) -> Array:
    """Return the gradient of the mean cross-entropy; see `compute_loss_and_grad`."""
    return compute_loss_and_grad(logits, y_true)[1]


def get_initial_loss(vocab_size: int, seq_length: int) -> float:
    """Return the sum of the losses of `seq_length` tokens, each as likely as the other `vocab_size` - 1.

    Examples
    --------
    >>> round(get_initial_loss(27, 10), 3)
    32.958
    """
    return math.log(check_positive("vocab_size", vocab_size)) * check_number("seq_length", seq_length)


def smooth(loss: float, cur_loss: float) -> float:
    """Return the running average of losses, 0.999 of it old and 0.001 new."""
    return check_number("loss", loss) * 0.999 + check_number("cur_loss", cur_loss) * 0.001
