"""What processes of a group share: a batch's sequences, and the sum of their gradients."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np

from fastrnn.checks import Array
from fastrnn.distributed.group import Group, sum_in_order

__all__ = ["Flat", "equal_work"]


def equal_work(work: Array, size: int) -> list[Array]:
    """Return which of some sequences each of `size` processes takes, so that they have about the same work.

    The longest are dealt first, each to the process with the least so far; of equal ones as they stand.

    Parameters
    ----------
    work
        (n,), of each sequence: its steps.

    Examples
    --------
    >>> equal_work(np.array([3, 9, 4, 5]), 2)
    [array([0, 1]), array([2, 3])]
    """
    if not len(work) or (work == work[0]).all():
        return np.array_split(np.arange(len(work)), size)
    shares: list[list[int]] = [[] for _ in range(size)]
    least = [(0, rank) for rank in range(size)]
    for k in np.argsort(-work, kind="stable").tolist():
        done, rank = heapq.heappop(least)
        shares[rank].append(k)
        heapq.heappush(least, (done + int(work[k]), rank))
    return [np.array(sorted(share), np.intp) for share in shares]


class Flat:
    """Gradients end to end, so that clipping them and adding them up are one pass.

    Attributes
    ----------
    buffers : dict
        Of each dtype one array.
    views : dict
        Parts of these by the parameters' names.
    """

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        self.buffers: dict[str, Array] = {}
        self.views: dict[str, Array] = {}
        for dtype in sorted({p.dtype.str for p in parameters.values()}):
            names = [name for name, p in parameters.items() if p.dtype.str == dtype]
            self.buffers[dtype] = buffer = np.zeros(sum(parameters[name].size for name in names), dtype)
            start = 0
            for name in names:
                p = parameters[name]
                self.views[name] = buffer[start : start + p.size].reshape(p.shape)
                start += p.size

    def take(self, grads: Mapping[str, Array] | None, share: float) -> None:
        """Take over gradients, times a share; None for zeros."""
        if grads is None:
            for buffer in self.buffers.values():
                buffer.fill(0)
            return
        for name, view in self.views.items():
            np.multiply(grads[name], view.dtype.type(share), out=view)

    def sum(self, group: Group) -> None:
        """Add all processes' gradients up."""
        for buffer in self.buffers.values():
            sum_in_order(group, buffer)
