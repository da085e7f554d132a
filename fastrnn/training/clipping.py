"""Gradient clipping, in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fastrnn.checks import Array, check_arrays, check_positive_number

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
    TypeError, ValueError
        If `grads` is no mapping of arrays of floats that can be written, or `max_norm` not a positive number.
    """
    max_norm = check_positive_number("max_norm", max_norm)
    arrays = [np.asarray(grad) for grad in check_arrays("grads", grads, written=True).values()]
    norm = _norm(arrays)
    if norm + 1e-6 > max_norm and math.isfinite(norm):
        for grad in arrays:
            grad *= max_norm / (norm + 1e-6)
    return norm


def clip_value(grads: Mapping[str, Array], limit: float) -> None:
    """Clip every element of every gradient to [-limit, limit]; errors are those of `clip_global_norm`."""
    limit = check_positive_number("limit", limit)
    check_arrays("grads", grads, written=True)
    for grad in grads.values():
        np.clip(grad, -limit, limit, out=grad)


def _norm(grads: Sequence[Array]) -> float:
    square = sum(float(np.vdot(grad, grad)) for grad in grads)
    largest = 1.0
    if not math.isfinite(square):  # squares overflow long before the gradients do
        largest = float(np.max([np.abs(grad).max(initial=0) for grad in grads]))
        if not math.isfinite(largest):
            return largest
        square = sum(float(np.square(grad / largest, dtype=np.float64).sum()) for grad in grads)
    return largest * math.sqrt(square)
