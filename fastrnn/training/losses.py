"""Losses: one call gives the value and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.parameters import Array, take_array

__all__ = ["cross_entropy"]


def cross_entropy(logits: Any, targets: Any) -> tuple[float, Array]:
    """Return the mean cross-entropy of softmax(logits) against integer targets, and its gradient.

    With p the softmax over the last axis, the loss is the mean of ``-log p[target]`` and its gradient is
    ``(p - one_hot(target)) / n`` with n the number of targets. Logits of any size are safe from overflow.

    Parameters
    ----------
    logits
        (..., V), float32 or float64.
    targets
        (...), integers in 0..V-1.

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
        If the shapes do not agree, a target is negative or not below V, or there is no target.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = cross_entropy(np.zeros((5, 2)), np.array([0, 1, 1, 0, 1]))
    >>> round(loss, 4)
    0.6931
    """
    logits, targets = take_array("logits", logits), take_array("targets", targets)
    if logits.dtype not in (np.float32, np.float64):
        raise TypeError(f"logits has dtype {logits.dtype}; expected float32 or float64")
    if not ops.is_tokens(targets):
        raise TypeError(f"targets has dtype {targets.dtype}; expected integers")
    if logits.shape[:-1] != targets.shape or logits.ndim == 0:
        raise ValueError(
            f"targets has shape {targets.shape}; expected {logits.shape[:-1]}, as logits is {logits.shape}"
        )
    if not targets.size:
        raise ValueError("targets is empty; expected at least one: the mean of none is undefined")
    vocabulary = logits.shape[-1]
    of_target = (np.arange(targets.size), ops.as_tokens("targets", targets, vocabulary, "V").ravel())

    z = logits.reshape(-1, vocabulary)
    z = z - z.max(axis=1, keepdims=True)
    z_target = z[of_target]
    p = np.exp(z, out=z)
    total = p.sum(axis=1)
    loss = np.mean(np.log(total) - z_target, dtype=np.float64)
    p *= (1 / (total * len(p)))[:, None]
    p[of_target] -= p.dtype.type(1 / len(p))
    return float(loss), p.reshape(logits.shape)
