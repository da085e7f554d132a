"""What processes of a group share: a batch's sequences, and the sum of their gradients."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from fastrnn.checks import Array
from fastrnn.distributed.group import Group, sum_in_order

__all__ = ["Flat", "Sums", "equal_work"]


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
    layers : dict
        Parts of these by layers, what stands before the first dot of their parameters' names: one of each dtype.
    """

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        self.buffers: dict[str, Array] = {}
        self.views: dict[str, Array] = {}
        self.layers: dict[str, list[Array]] = {name.partition(".")[0]: [] for name in parameters}
        for dtype in sorted({p.dtype.str for p in parameters.values()}):
            size = sum(p.size for p in parameters.values() if p.dtype.str == dtype)
            self.buffers[dtype] = buffer = np.zeros(size, dtype)
            end = 0
            for layer, parts in self.layers.items():
                start = end
                for name, p in parameters.items():
                    if p.dtype.str == dtype and name.partition(".")[0] == layer:
                        self.views[name] = buffer[end : end + p.size].reshape(p.shape)
                        end += p.size
                if end > start:
                    parts.append(buffer[start:end])

    def take(self, layer: str, grads: Mapping[str, Array] | None, share: float) -> None:
        """Take over a layer's gradients from those of all, times a share; None for zeros."""
        if grads is None:
            for part in self.layers[layer]:
                part.fill(0)
            return
        for name, view in self.views.items():
            if name.partition(".")[0] == layer:
                np.multiply(grads[name], view.dtype.type(share), out=view)


class Sums:
    """The sums of all processes' gradients: those of the last layer first, while backward runs on below.

    On an engine with ``overlaps = True``, which may be called in another thread, `tell` begins a layer's sum and goes
    on. Otherwise `finish` adds all up at once, to the same bits.
    """

    def __init__(self, group: Group, parameters: Mapping[str, Array]) -> None:
        self.flat = Flat(parameters)
        self._group = group
        self._thread = ThreadPoolExecutor(1) if getattr(group, "overlaps", False) else None
        self._left: list[str] = []
        self._share = 0.0
        self._begun: list[Future[None]] = []

    def begin(self, share: float) -> None:
        """Get ready for a step; gradients are multiplied with the share of this process's part in the batch."""
        self._left, self._share, self._begun = list(reversed(self.flat.layers)), share, []

    def tell(self, layer: str, grads: Mapping[str, Array]) -> None:
        """Take a layer's gradients, by its own names for them."""
        if self._thread is not None and self._left and self._left[0] == layer:
            self._add(self._thread, {f"{layer}.{name}": grad for name, grad in grads.items()})

    def finish(self, grads: Mapping[str, Array] | None) -> None:
        """Take what has not been told of all gradients, None for zeros, and wait for the sums."""
        if self._thread is None:
            for layer in self.flat.layers:
                self.flat.take(layer, grads, self._share)
            for buffer in self.flat.buffers.values():
                sum_in_order(self._group, buffer)
            return
        while self._left:
            self._add(self._thread, grads)
        for each in self._begun:
            each.result()

    def _add(self, thread: ThreadPoolExecutor, grads: Mapping[str, Array] | None) -> None:
        """Begin the sum of the next layer."""
        layer = self._left.pop(0)
        self.flat.take(layer, grads, self._share)
        self._begun += [thread.submit(sum_in_order, self._group, part) for part in self.flat.layers[layer]]
