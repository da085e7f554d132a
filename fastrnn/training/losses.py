"""Losses: one call gives the value and its gradient, both equal torch.nn.functional's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.checks import (
    Array,
    check_choice,
    check_integer,
    check_number,
    check_sequence,
    take_array,
    take_floats,
    take_integers,
)

__all__ = ["QuantileLoss", "bce_with_logits", "cross_entropy", "mae", "mse", "rows_cross_entropy"]


def mse(y: Any, targets: Any, *, reduction: str = "mean", weights: Any = None) -> tuple[float, Array]:
    """Return the mean of ``(y - targets)^2`` over all elements, or their sum, and its gradient.

    Parameters
    ----------
    y
        (...), float32 or float64.
    targets
        (...), of the shape of y; real numbers of any dtype, which are taken in that of y.
    reduction
        "mean" or "sum".
    weights
        (...), of the shape of y: what each term is multiplied with. A mean is over their number all the same.

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
    squares = np.square(difference, dtype=np.float64)
    difference *= 2 * share
    return _weighted(squares, share, difference, weights)


def mae(y: Any, targets: Any, *, reduction: str = "mean", weights: Any = None) -> tuple[float, Array]:
    """Return the mean of ``|y - targets|`` over all elements, or their sum, and its gradient, 0 where both are equal.

    Arguments, results and errors are those of `mse`; it is torch's l1_loss.

    Examples
    --------
    >>> import numpy as np
    >>> mae(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    (1.0, array([0. , 0.5]))
    """
    y = take_floats("y", y)
    targets = _like("targets", targets, "y", y)
    share = _share(reduction, y.size, "y is empty")
    difference = y - targets
    return _weighted(np.abs(difference), share, np.sign(difference) * y.dtype.type(share), weights)


class QuantileLoss:
    """The loss whose least value is at quantiles of the targets (Koenker and Bassett, 1978).

    Of a model's K outputs each Q in a row are estimates of the quantiles of one target. With u the target minus an
    estimate, the term of quantile q is ``max(q u, (q - 1) u)``, whose mean over all is the loss.

    Parameters
    ----------
    quantiles
        Q of them, each between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> loss = QuantileLoss([0.1, 0.5, 0.9])
    >>> value, dy = loss(np.array([[0.0, 1.0, 2.0]]), np.array([[1.5]]))
    >>> round(value, 4), dy.round(4)
    (0.15, array([[-0.0333, -0.1667,  0.0333]]))
    """

    def __init__(self, quantiles: Sequence[float]) -> None:
        listed = check_sequence("quantiles", quantiles, "numbers between 0 and 1")
        if not len(listed):
            raise ValueError("quantiles is empty; expected at least one number between 0 and 1")
        self.quantiles = [
            check_number(f"quantiles[{k}]", q, "a number between 0 and 1", lambda number: 0 < number < 1)
            for k, q in enumerate(listed)
        ]

    def __call__(self, y: Any, targets: Any, *, weights: Any = None) -> tuple[float, Array]:
        """Return the loss of y (R, M*Q) against targets (R, M), or (R,) if M is 1, and its gradient.

        Raises
        ------
        TypeError
            If y is not of floats, or the targets are not real numbers.
        ValueError
            If the shapes do not agree, or there is no element. Weights are (R,), one of every row.
        """
        y = take_floats("y", y)
        q = np.array(self.quantiles, y.dtype)
        if y.ndim != 2 or y.shape[1] % len(q):
            raise ValueError(f"y has shape {y.shape}; expected (R, M*Q) with Q = {len(q)} quantiles")
        share = _share("mean", y.size, "y is empty")
        targets = take_array("targets", targets)
        each = y.reshape(len(y), -1, len(q))
        targets = targets[:, None] if targets.ndim == 1 else targets
        targets = _like("targets", targets, "a quantile of y", each[:, :, 0])
        u = targets[:, :, None] - each
        slope = np.where(u > 0, q, q - 1)  # where both are equal the term's derivative is any between; this is one
        slope[u == 0] = 0
        if weights is not None:
            weights = np.repeat(_like("weights", weights, "a column of y", y[:, 0])[:, None], y.shape[1], axis=1)
        terms, gradient = (slope * u).reshape(y.shape), (-slope * y.dtype.type(share)).reshape(y.shape)
        return _weighted(terms, share, gradient, weights)


def bce_with_logits(logits: Any, targets: Any, *, reduction: str = "mean", weights: Any = None) -> tuple[float, Array]:
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
    weights
        As for `mse`.

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
    return _weighted(losses, share, np.asarray((p - targets) * share, logits.dtype), weights)


def cross_entropy(
    logits: Any, targets: Any, *, ignore_index: int | None = None, reduction: str = "mean", weights: Any = None
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
    weights
        (...), of the shape of the targets: what each term is multiplied with. A mean is over their number all the same.

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
    if weights is not None:
        weights = _like("weights", weights, "targets", targets, logits.dtype).ravel()[counted]
    if not flat.size:
        return 0.0, np.zeros(logits.shape, logits.dtype)

    loss, p = rows_cross_entropy(z, ops.as_tokens("targets", flat, vocabulary, "V"), share, weights)
    if ignore_index is None:
        return loss, p.reshape(logits.shape)
    dlogits = np.zeros((targets.size, vocabulary), logits.dtype)
    dlogits[counted] = p
    return loss, dlogits.reshape(logits.shape)


def rows_cross_entropy(z: Array, targets: Array, share: float, weights: Array | None = None) -> tuple[float, Array]:
    """Return `share` of the sum of the cross-entropies of rows z (n, V) against targets (n,), and its gradient.

    With weights (n,) each term is multiplied with its own. Arguments are as `cross_entropy` validated them; for a dozen
    rows that takes as long as this.
    """
    of_target = np.arange(targets.size) * z.shape[1] + targets
    p, top, total = ops.softmax(np.ascontiguousarray(z), share)
    losses = np.log(total) - (z.take(of_target) - top)  # -log(exp(z - top) / total)
    p.reshape(-1)[of_target] -= p.dtype.type(share)
    if weights is not None:
        losses = losses * weights
        p *= weights[:, None]
    return float(share * losses.sum(dtype=np.float64)), p


def _weighted(terms: Array, share: float, gradient: Array, weights: Any) -> tuple[float, Array]:
    """Return `share` of the sum of the terms, and its gradient; each term is multiplied with its weight, if any."""
    if weights is not None:
        weights = _like("weights", weights, "y", gradient)
        terms = terms * weights
        gradient *= weights
    return float(share * np.sum(terms, dtype=np.float64)), gradient


def _like(name: str, value: Any, of: str, other: Array, dtype: Any = None) -> Array:
    """Return `value`, real numbers, as an array of the shape of `other`, which is called `of`, and of its dtype."""
    array = take_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    if array.shape != other.shape:
        raise ValueError(f"{name} has shape {array.shape}; expected the shape of {of} = {other.shape}")
    return np.asarray(array, other.dtype if dtype is None else dtype)


def _share(reduction: str, count: int, none: str) -> float:
    """What each of `count` terms is multiplied with; `none` says why there is none."""
    if check_choice("reduction", reduction, ("mean", "sum")) == "sum":
        return 1.0
    if not count:
        raise ValueError(f"{none}; expected at least one: the mean of none is undefined")
    return 1 / count
