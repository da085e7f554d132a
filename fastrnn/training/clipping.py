"""Gradient clipping, in place."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fastrnn.parameters import Array

__all__ = ["clip_global_norm", "clip_value"]


def clip_global_norm(grads: Mapping[str, Array], max_norm: float) -> float:
    """Scale all gradients together so that their joint Euclidean norm is at most `max_norm`.

    The rule is that of ``torch.nn.utils.clip_grad_norm_``: the factor is ``min(1, max_norm / (norm + 1e-6))``.

    Returns
    -------
    float
        The norm before scaling. It is not finite when a gradient is not; nothing is changed then.

    Raises
    ------
    ValueError
        If `max_norm` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}; expected a positive number")
    norm = _norm(grads)
    if norm + 1e-6 > max_norm and math.isfinite(norm):
        for grad in grads.values():
            grad *= max_norm / (norm + 1e-6)
    return norm


def clip_value(grads: Mapping[str, Array], limit: float) -> None:
    """Clip every element of every gradient to [-limit, limit]; ValueError if `limit` is not positive."""
    if not limit > 0:
        raise ValueError(f"limit is {limit}; expected a positive number")
    for grad in grads.values():
        np.clip(grad, -limit, limit, out=grad)


def _norm(grads: Mapping[str, Array]) -> float:
    square = sum(float(np.vdot(grad, grad)) for grad in grads.values())
    largest = 1.0
    if not math.isfinite(square):  # squares overflow long before the gradients do
        largest = float(np.max([np.abs(grad).max(initial=0) for grad in grads.values()]))
        if not math.isfinite(largest):
            return largest
        square = sum(float(np.square(grad / largest, dtype=np.float64).sum()) for grad in grads.values())
    return largest * math.sqrt(square)
