"""Which rows of a batch each step has where sequences differ in length, and where sums over steps may be cut.

Sequences of different lengths are computed without their padding: sorted by length, the longest first, those that are
still running at a step are the first `batch_sizes[t]` of the batch, and their rows follow those of the step before.
torch.nn.utils.rnn calls this a packed sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastrnn.parameters import Array

__all__ = ["SUMMED_ROWS", "Ragged", "cuts", "gradient_groups"]

Empty = Callable[[tuple[int, ...], "np.dtype[Any]"], Array]

SUMMED_ROWS = 128  # of x and h that a gradient of weights sums up before it adds them to what came before


class Ragged:
    """A batch of sequences of different lengths.

    Parameters
    ----------
    lengths
        (N,) ints, 0 <= length <= T.
    """

    def __init__(self, lengths: Array) -> None:
        self.order = np.argsort(-lengths, kind="stable")  # (N,): rank -> row of the batch
        steps = np.arange(lengths.max(initial=0))[:, None]
        running = steps < lengths[self.order]  # (steps, N)
        self.batch_sizes = running.sum(1)  # (steps,), not increasing
        self.rows = (steps * len(lengths) + self.order)[running]  # (R,): of (T*N, ...)
        self._padding: Array | None = None  # the other rows, once they are needed

    def pack(self, padded: Array) -> Array:
        """(T, N, ...) to its real rows (R, ...)."""
        rows: Array = padded.reshape(-1, *padded.shape[2:]).take(self.rows, 0)
        return rows

    def unpack(self, rows: Array, steps: int, empty: Empty = np.empty) -> Array:
        """(R, K) to (T, N, K), zero in the padding; `empty` makes the array."""
        padded = empty((steps * len(self.order), rows.shape[1]), rows.dtype)
        padded[self.rows] = rows
        return self.finish(padded)

    def finish(self, padded: Array) -> Array:
        """(T*N, K), whose real rows are written, to (T, N, K), zero in the padding."""
        if self._padding is None:
            real = np.zeros(len(padded), bool)
            real[self.rows] = True
            self._padding = np.flatnonzero(~real)
        padded[self._padding] = 0
        return padded.reshape(-1, len(self.order), padded.shape[1])

    def sort(self, state: Array) -> Array:
        """(..., N, K) by rank."""
        sorted_state: Array = state.take(self.order, -2)
        return sorted_state

    def unsort(self, state: Array) -> Array:
        """The inverse of `sort`."""
        unsorted = np.empty_like(state)
        unsorted[..., self.order, :] = state
        return unsorted


def gradient_groups(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Cut steps into the groups [first, last) that gradients of weights are summed by, from the end of the sequence.

    Back-propagation meets the last group first: its sum is the start of the total, to which the others are added one by
    one. So a sequence that is cut between two groups and differentiated piece by piece gives the same bits.

    Parameters
    ----------
    counts
        How many rows each step has, in the order in which forward takes the steps.

    Returns
    -------
    list
        Of as many whole steps as have up to `SUMMED_ROWS` rows together, but at least one.
    """
    groups, last = [], len(counts)
    while last:
        first, rows = last - 1, counts[last - 1]
        while first and rows + counts[first - 1] <= SUMMED_ROWS:
            first -= 1
            rows += counts[first]
        groups.append((first, last))
        last = first
    return groups


def cuts(counts: Sequence[int], every: int) -> list[tuple[int, int]]:
    """Cut steps into segments [first, last) of at least `every` steps, save the first one, between groups; in order."""
    segments: list[tuple[int, int]] = []
    last = len(counts)
    for first, _ in gradient_groups(counts):
        if last - first >= every or first == 0:
            segments.append((first, last))
            last = first
    return segments[::-1]
