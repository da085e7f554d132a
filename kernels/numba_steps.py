"""Which rows of x, y and the tape each step has, and in which order gradients of weights are summed over them.

Steps are counted in the order in which forward takes them, rows in the order of time. `starts` (T + 1,) says at which
row each time begins where sequences differ in length; it is null where all times have N rows.
"""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.kernels.numba_options import SUMMED_ROWS, helper
from fastrnn.kernels.numba_threads import share
from fastrnn.parameters import Array

__all__ = [
    "Previous",
    "Step",
    "group_start",
    "is_large",
    "last_row",
    "list_rows",
    "previous",
    "rows_of",
    "share_batch",
    "step_at",
    "step_rows",
    "steps_to_look",
    "table_size",
]


class Previous(NamedTuple):
    """Some rows of a step, and where their states before it are."""

    low: int  # batch rows low, ..., high - 1
    high: int
    h: Array  # h_prev of batch row 0
    h_row: int  # elements between its rows
    c_row: int  # the row of C for batch row 0


class Step(NamedTuple):
    """One step and the one taken before it."""

    row: int  # its first row
    rows: int
    before: int  # the first row of the step before
    carried: int  # how many of its rows carry on from the step before; the others start with the initial state


@helper
def step_rows(s, starts, step):
    """The first row of a step, and how many it has."""
    t = s.T - 1 - step if s.reverse else step
    if starts:
        return starts[t], starts[t + 1] - starts[t]
    return t * s.N, s.N


@helper
def _multiplications(s):
    """Of a step, about."""
    return s.N * s.H * s.slots * (s.I + s.P)


@helper
def steps_to_look(s):
    """After how many steps a thread asks whether to stop: asking takes some 30 ns, so many steps at least 10 us."""
    return 1 + 500_000 // (1 + _multiplications(s))


@helper
def is_large(s):
    """Whether a step takes so long, milliseconds, that a thread asks within it too."""
    return _multiplications(s) > 100_000_000


@helper
def rows_of(s, starts, first, last):
    """The first row of the steps first, ..., last - 1, and how many they have."""
    one, one_rows = step_rows(s, starts, first)
    other, other_rows = step_rows(s, starts, last - 1)
    low = min(one, other)
    return low, max(one + one_rows, other + other_rows) - low


@helper
def step_at(s, starts, step):
    """A `Step`; the one before the first has no rows."""
    row, rows = step_rows(s, starts, step) if step >= 0 else (0, 0)
    before, rows_before = step_rows(s, starts, step - 1) if step > 0 else (0, 0)
    return Step(row, rows, before, min(rows, rows_before))


@helper
def previous(s, a, step, carried, n_low, n_high):
    """The `Previous` of those of a step's rows n_low, ..., n_high - 1 that are carried, or of those that are not."""
    if carried:
        c_row = s.N + step.before if s.tape else 0
        return Previous(n_low, max(n_low, min(n_high, step.carried)), a.y + step.before * s.y_row, s.y_row, c_row)
    low = max(n_low, step.carried)
    return Previous(low, max(low, min(n_high, step.rows)), a.h_0, s.P, 0)


@helper
def last_row(s, starts, n, step):
    """The last of the steps 0, ..., `step` that batch row n takes, and its row there; -1 and -1 if there is none."""
    while step >= 0:
        row, rows = step_rows(s, starts, step)
        if n < rows:
            return step, row + n
        step -= 1
    return -1, -1


@helper
def _batch_rows(s, starts, rows):
    """How many batch rows, from the first one on, have at least so many rows of all steps."""
    n, t, total = 0, s.T, 0
    while total < rows:
        while t and starts[t] - starts[t - 1] <= n:
            t -= 1
        total += t
        n += 1
    return n


@helper
def share_batch(s, starts, thread, team):
    """The range of batch rows that falls to a thread: as many rows of all steps as to the others."""
    if not starts:
        return share(s.N, thread, team)
    low, high = share(s.R, thread, team)
    return _batch_rows(s, starts, low), s.N if thread == team - 1 else _batch_rows(s, starts, high)


@helper
def group_start(s, starts, last):
    """The first step of the group that ends before step `last`: see `fastrnn.steps.gradient_groups`."""
    if not starts:
        return max(0, last - max(1, SUMMED_ROWS // max(1, s.N)))
    first = last - 1
    _, rows = step_rows(s, starts, first)
    while first:
        _, more = step_rows(s, starts, first - 1)
        rows += more
        if rows > SUMMED_ROWS:
            break
        first -= 1
    return first


def table_size(T: int, R: int) -> int:
    """Elements of the table of `list_rows`."""
    return 2 * R + 1 + 2 * (T + R // SUMMED_ROWS)


@helper
def list_rows(s, starts, tokens, table):
    """Fill in what the gradients of the weights look up.

    Parameters
    ----------
    tokens
        IN (R,), or null.
    table
        OUT for each row, where h_prev is: its row of y, or -1 - n for the initial state of batch row n (R,); for each
        row, the first row of its piece with the same token, counted in the piece, if tokens are scarce (R,); how many
        pieces there are; for each piece its first row, and how many. Pieces are the groups of
        `fastrnn.steps.gradient_groups` in their order, those with more than `SUMMED_ROWS` rows cut in parts.
    """
    for step in range(s.T):
        now = step_at(s, starts, step)
        for n in range(now.rows):
            table[now.row + n] = now.before + n if n < now.carried else -1 - n
    twins, pieces = table + s.R, table + 2 * s.R
    count, last = 0, s.T
    while last:
        first = group_start(s, starts, last)
        row, rows = rows_of(s, starts, first, last)
        for r in range(row, row + rows, SUMMED_ROWS):
            end = min(row + rows, r + SUMMED_ROWS)
            pieces[1 + 2 * count], pieces[2 + 2 * count] = r, end - r
            count += 1
            if tokens and s.columns < s.I:
                for i in range(r, end):
                    twin = r
                    while tokens[twin] != tokens[i]:
                        twin += 1
                    twins[i] = twin - r
        last = first
    pieces[0] = count
