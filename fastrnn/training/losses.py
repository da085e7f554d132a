"""Losses: one call gives the value and its gradient, both equal torch.nn.functional's."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.checks import Array, check_choice, check_integer, take_array, take_floats, take_integers

__all__ = ["bce_with_logits", "cross_entropy", "mse", "rows_cross_entropy"]


def mse(y: Any, targets: Any, *, reduction: str = "mean") -> tuple[float, Array]:
    """Return the mean of ``(y - targets)^2`` over all elements, or their sum, and its gradient.

    Parameters
    ----------
    y
        (...), float32 or float64.
    targets
        (...), of the shape of y; real numbers of any dtype, which are taken in that of y.
    reduction
        "mean" or "sum".

    Returns
    -------
    loss : float
    dy : ndarray
        (...), of the dtype of y.

    Raises
    ------
    TypeError
        If y is not of floats, or the targets are not real numbers.
    ValueError
        If the shapes differ, the reduction is another one, or a mean is asked for and there is no element.

    Examples
    --------
    >>> import numpy as np
    >>> mse(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    (2.0, array([0., 2.]))
    """
    y = take_floats("y", y)
    targets = _like("targets", targets, "y", y)
    share = _share(reduction, y.size, "y is empty")
    difference = np.subtract(y, targets, out=np.empty_like(y))
    loss = share * np.sum(np.square(difference, dtype=np.float64))
    difference *= 2 * share
    return float(loss), difference


def bce_with_logits(logits: Any, targets: Any, *, reduction: str = "mean") -> tuple[float, Array]:
    """Return the mean binary cross-entropy of sigmoid(logits) against targets, or the sum, and its gradient.

    With p the sigmoid, an element's loss is ``-t log p - (1 - t) log(1 - p)``, computed without overflow from logits of
    any size, and its gradient ``p - t``.

    Parameters
    ----------
    logits
        (...), float32 or float64.
    targets
        (...), from 0 to 1; floats, integers or bools, which are taken in the dtype of the logits.
    reduction
        "mean" or "sum", over all elements.

    Returns
    -------
    loss : float
        In nats.
    dlogits : ndarray
        (...), of the dtype of the logits.

    Raises
    ------
    TypeError
        If the logits are not floats, or the targets no real numbers.
    ValueError
        If the shapes differ, a target is not from 0 to 1, the reduction is another one, or a mean is asked for and
        there is no element.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = bce_with_logits(np.zeros(2), np.array([0.0, 1.0]))
    >>> round(loss, 4), dlogits
    (0.6931, array([ 0.25, -0.25]))
    """
    logits = take_floats("logits", logits)
    targets = _like("targets", targets, "logits", logits)
    if not np.all((targets >= 0) & (targets <= 1)):
        raise ValueError(f"targets holds values from {targets.min()} to {targets.max()}; expected 0 <= target <= 1")
    share = _share(reduction, logits.size, "logits is empty")
    small = np.exp(-np.abs(logits))
    losses = np.maximum(logits, 0) - logits * targets + np.log1p(small)
    p = np.where(logits >= 0, logits.dtype.type(1), small) / (1 + small)
    return float(share * np.sum(losses, dtype=np.float64)), np.asarray((p - targets) * share, logits.dtype)


def cross_entropy(
    logits: Any, targets: Any, *, ignore_index: int | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """Return the mean cross-entropy of softmax(logits) against integer targets, or the sum, and its gradient.

    With p the softmax over the last axis, the loss is the mean of ``-log p[target]`` and its gradient is
    ``(p - one_hot(target)) / n`` with n the number of targets. Logits of any size are safe from overflow.

    Parameters
    ----------
    logits
        (..., V), float32 or float64.
    targets
        (...), integers in 0..V-1, or `ignore_index`.
    ignore_index
        Targets of this value, in or out of 0..V-1, count neither in the loss nor in n, and have a gradient of zero.
    reduction
        "mean" or "sum", over the targets that count.

    Returns
    -------
    loss : float
        In nats; divide by ``math.log(2)`` for bits.
    dlogits : ndarray
        (..., V), of the dtype of the logits.

    Raises
    ------
    TypeError
        If the logits are not floats or the targets not integers.
    ValueError
        If the shapes do not agree, V is 0, a target is negative or not below V, the reduction is another one, or a mean
        is asked for and no target counts (where torch gives NaN).

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = cross_entropy(np.zeros((5, 2)), np.array([0, 1, 1, 0, 1]))
    >>> round(loss, 4)
    0.6931
    """
    logits, targets = take_floats("logits", logits), take_integers("targets", targets)
    if ignore_index is not None:
        ignore_index = check_integer("ignore_index", ignore_index)
    if logits.shape[:-1] != targets.shape or logits.ndim == 0:
        raise ValueError(
            f"targets has shape {targets.shape}; expected {logits.shape[:-1]}, as logits is {logits.shape}"
        )
    vocabulary = logits.shape[-1]
    if not vocabulary:
        raise ValueError(f"logits has shape {logits.shape}; expected (..., V) with V of at least 1")
    counted = slice(None) if ignore_index is None else (targets != ignore_index).ravel()
    z, flat = logits.reshape(-1, vocabulary)[counted], targets.ravel()[counted]
    none = f"every target is ignore_index = {ignore_index}" if targets.size else "targets is empty"
    share = _share(reduction, flat.size, none)
    if not flat.size:
        return 0.0, np.zeros(logits.shape, logits.dtype)

    loss, p = rows_cross_entropy(z, ops.as_tokens("targets", flat, vocabulary, "V"), share)
    if ignore_index is None:
        return loss, p.reshape(logits.shape)
    dlogits = np.zeros((targets.size, vocabulary), logits.dtype)
    dlogits[counted] = p
    return loss, dlogits.reshape(logits.shape)


def rows_cross_entropy(z: Array, targets: Array, share: float) -> tuple[float, Array]:
    """Return `share` of the sum of the cross-entropies of rows z (n, V) against targets (n,), and its gradient.

    Arguments are as `cross_entropy` validated them; for a dozen rows that takes as long as this.
    """
    of_target = np.arange(targets.size) * z.shape[1] + targets
    p, top, total = ops.softmax(np.ascontiguousarray(z), share)
    losses = np.log(total) - (z.take(of_target) - top)  # -log(exp(z - top) / total)
    loss = float(share * losses.sum(dtype=np.float64))
    p.reshape(-1)[of_target] -= p.dtype.type(share)
    return loss, p


def _like(name: str, value: Any, of: str, other: Array) -> Array:
    """Return `value`, real numbers, as an array of the dtype and shape of `other`, which is called `of`."""
    array = take_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    if array.shape != other.shape:
        raise ValueError(f"{name} has shape {array.shape}; expected the shape of {of} = {other.shape}")
    return np.asarray(array, other.dtype)


def _share(reduction: str, count: int, none: str) -> float:
    """What each of `count` terms is multiplied with; `none` says why there is none."""
    if check_choice("reduction", reduction, ("mean", "sum")) == "sum":
        return 1.0
    if not count:
        raise ValueError(f"{none}; expected at least one: the mean of none is undefined")
    return 1 / count
