"""Which rows each step has where not all steps are run, or states begin anew; and where sums over steps may be cut.

Sequences of different lengths are computed without their padding: sorted by length, the longest first, those that are
still running at a step are the first `batch_sizes[t]` of the batch, and their rows follow those of the step before.
torch.nn.utils.rnn calls this a packed sequence. A sequence whose masked steps are left out is a shorter one, and one
whose state begins anew is two: so masks and resets come to the same.
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
    """The steps of a batch that are run, as runs side by side.

    A run is a piece of a sequence from one beginning of the state to the next, without the steps that are left out. It
    is a shorter sequence, so the kernels know nothing of lengths, masks and resets: the M runs that have steps, the
    longest first, are their batch. Make one by `of_lengths` or `of_steps`.

    Where a run's state begins, and where a sequence's ends, are places in a pool: (N) initial states, and if any
    sequence begins `anew`, (N) states to begin anew with. In the reverse direction the last run of a sequence is its
    first.

    Attributes
    ----------
    batch_sizes
        (S,), how many runs have a step s; not increasing.
    rows
        (R,): for each step of each run its place in (T*N).
    sources
        By direction (M,): the place in the pool where a run begins.
    ends
        By direction (N,): whose final state is a sequence's, a run's, or where no run follows, M + a place in the pool.
    anew
        Whether the pool has states to begin anew with.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        batch_sizes: Array,
        rows: Array,
        sources: tuple[Array, Array],
        ends: tuple[Array, Array],
        kept: tuple[Array, Array] | None = None,
    ) -> None:
        self.shape, self.batch_sizes, self.rows, self.sources, self.ends = shape, batch_sizes, rows, sources, ends
        M, N = len(sources[0]), shape[1]
        self.anew = any((its >= N).any() for its in sources) or any((its >= M + N).any() for its in ends)
        self._kept = kept  # by direction (T, N): the steps whose output is that of the one taken before
        self._left_out: Array | None = None  # what `rows` leaves, once it is needed

    @classmethod
    def of_lengths(cls, lengths: Array, steps: int) -> Ragged:
        """Sequences of (N,) lengths from 0 to T = `steps`: a run each."""
        N = len(lengths)
        order = np.argsort(-lengths, kind="stable")  # (N,): rank -> sequence
        ranks = np.empty_like(order)
        ranks[order] = np.arange(N)
        step = np.arange(lengths.max(initial=0))[:, None]
        running = step < lengths[order]  # (S, N)
        rows = (step * N + order)[running]
        M = np.count_nonzero(lengths)
        source, end = order[:M], np.where(lengths > 0, ranks, M + np.arange(N))
        return cls((steps, N), running.sum(1), rows, (source, source), (end, end))

    @classmethod
    def of_steps(cls, run: Array, resets: Array, inside: Array) -> Ragged:
        """Sequences whose steps `run`, and whose state begins anew before `resets`, within their lengths, `inside`.

        All are bool (T, N). A reset separates a step from the one before, in both directions; before a sequence's first
        step the reverse direction has come to its end, and the state stays.
        """
        T, N = run.shape
        run, resets = run & inside, resets & inside
        cut = resets.copy()
        cut[:1] = True
        pieces = cut.cumsum(0)  # (T, N), from 1
        first = np.concatenate(
            [[0], cut.sum(0).clip(1).cumsum()]
        )  # (N + 1,): of the pieces of each sequence, all in a row
        pieces += first[:-1] - 1
        last = first[1:] - 1
        first = first[:-1]
        sequence = np.repeat(np.arange(N), last - first + 1)
        taken = np.bincount(pieces[run], minlength=len(sequence))  # (pieces,): how many steps each has

        order = np.argsort(-taken, kind="stable")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order))
        runs = order[: np.count_nonzero(taken)]  # (M,): the pieces that have steps
        M = len(runs)
        batch_sizes = len(order) - np.bincount(taken, minlength=1).cumsum()[:-1]  # of runs with more than s steps
        before = np.cumsum(taken) - taken  # steps of all pieces before, sequence by sequence
        count = run.T.ravel().cumsum().reshape(N, T).T - 1  # (T, N): of all steps taken, sequence by sequence
        step = (count - before[pieces])[run]  # of its run
        starts = np.cumsum(batch_sizes) - batch_sizes
        rows = np.empty(len(step), np.intp)
        rows[starts[step] + ranks[pieces[run]]] = np.flatnonzero(run)

        anew = N + sequence  # by piece
        forward, reverse = anew.copy(), anew
        forward[first] = np.where(resets[:1].any(0), N, 0) + np.arange(N)
        reverse[last] = np.arange(N)
        ends = [
            np.where(taken[its] > 0, ranks[its], M + sources[its])
            for its, sources in ((last, forward), (first, reverse))
        ]
        still = inside & ~run
        kept = still & ~resets, still & ~np.concatenate([resets[1:], np.ones((1, N), bool)])
        kept[0][:1] = False
        return cls((T, N), batch_sizes, rows, (forward[runs], reverse[runs]), (ends[0], ends[1]), kept)

    def pack(self, padded: Array) -> Array:
        """(T, N, ...) to the rows that are run, (R, ...)."""
        rows: Array = padded.reshape(-1, *padded.shape[2:]).take(self.rows, 0)
        return rows

    def unpack(self, rows: Array, empty: Empty = np.empty) -> Array:
        """(R, K) to (T, N, K), zero where nothing is run; `empty` makes the array."""
        padded = empty((self.shape[0] * self.shape[1], rows.shape[1]), rows.dtype)
        padded[self.rows] = rows
        return self.finish(padded)

    def finish(self, padded: Array) -> Array:
        """(T*N, K), whose rows that are run are written, to (T, N, K), zero where nothing is run."""
        if self._left_out is None:
            run = np.zeros(len(padded), bool)
            run[self.rows] = True
            self._left_out = np.flatnonzero(~run)
        padded[self._left_out] = 0
        return padded.reshape(*self.shape, padded.shape[1])

    def hold(self, y: Array, reverse: bool) -> None:
        """Write to the steps of y (T, N, K) that are masked the output of the one before, if there is one."""
        for step, before, kept in self._in_order(reverse):
            np.copyto(y[step], y[before], where=kept)

    def release(self, dy: Array, reverse: bool) -> None:
        """The derivative of `hold`, in place: the gradients of masked steps go to the one before."""
        for step, before, kept in reversed(self._in_order(reverse)):
            np.add(dy[before], dy[step], out=dy[before], where=kept)

    def _in_order(self, reverse: bool) -> list[tuple[int, int, Array]]:
        """As a direction meets them: the steps with masked ones, the steps before these, and which they are, (N, 1)."""
        if self._kept is None:
            return []
        kept = self._kept[reverse]
        steps = np.flatnonzero(kept.any(1)).tolist()
        way = -1 if reverse else 1
        return [(step, step - way, kept[step, :, None]) for step in steps[::way]]

    def begin(self, pool: Array, reverse: bool) -> Array:
        """The states (M, K) that the runs begin with, from the pool."""
        states: Array = pool.take(self.sources[reverse], 0)
        return states

    def end(self, state_n: Array, pool: Array, reverse: bool) -> Array:
        """The final states of the sequences (N, K), from those of the runs (M, K) and the pool."""
        end = self.ends[reverse]
        states: Array = (state_n if (end < len(state_n)).all() else np.concatenate([state_n, pool])).take(end, 0)
        return states

    def into_runs(self, dstate: Array, reverse: bool) -> Array:
        """The gradients of the runs' final states, from those of the sequences: of `end`."""
        end, gradients = self.ends[reverse], np.zeros((len(self.sources[0]), dstate.shape[1]), dstate.dtype)
        of_runs = end < len(gradients)
        gradients[end[of_runs]] = dstate[of_runs]
        return gradients

    def into_pool(self, dstate_0: Array, dstate: Array | None, reverse: bool) -> Array:
        """The gradients of the pool, from those of the states that runs begin with, and of sequences' final states."""
        source, (M, K), N = self.sources[reverse], dstate_0.shape, self.shape[1]
        gradients = np.zeros((2 * N if self.anew else N, K), dstate_0.dtype)
        if dstate is not None:
            end = self.ends[reverse]
            of_pool = end >= M
            gradients[end[of_pool] - M] = dstate[of_pool]
        if M:
            order = np.argsort(source, kind="stable")
            places = source[order]
            firsts = np.flatnonzero(np.diff(places, prepend=-1))  # of each place
            gradients[places[firsts]] += np.add.reduceat(dstate_0[order], firsts)
        return gradients


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
