"""Where things lie: blocks of units, the slots of their rows, and which slots a product feeds.

Units come in blocks: W units with one vector per gate for LSTM and GRU, up to 4 W units for RNN. A block's rows, in the
tape and in its panel of weights, are `slots` vectors wide. The x product feeds the vectors of side `X`, the h product
those of side `RECURRENT`: all of them, except for the GRU, whose slots n, r, z, h_n overlap in r and z. Products that
run over units or gates, in backward, have panels of up to 4 vectors of columns.

The projection of an LSTM, h_t = u_t W_hr^T, is laid out as the x product of an RNN: u for x, and P units.
"""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.kernels.numba_cells import GRU, LSTM, RNN_TANH
from fastrnn.kernels.numba_options import TILE_ROWS, helper

__all__ = [
    "RECURRENT",
    "Sizes",
    "X",
    "block_units",
    "column_panels",
    "column_vectors",
    "fed",
    "projection",
    "side_slots",
    "slot_rows",
    "tiles",
]

X, RECURRENT = 0, 1
_ROWS = (1, *(TILE_ROWS[vectors] for vectors in (1, 2, 3, 4)))


class Sizes(NamedTuple):
    """The integers of a call."""

    cell: int
    T: int
    N: int
    R: int  # rows of all steps
    I: int
    H: int
    P: int  # size of h: H where there is no projection
    slots: int  # vectors in a block's row
    units: int  # vectors of units in a block
    blocks: int
    block_stride: int  # elements of the tape between blocks
    columns: int  # of weight_ih that take part: I, or with fewer tokens than that, one for each token
    reverse: int  # whether the last step is taken first
    tape: int  # whether the tape holds all steps, or only those projected at a time
    packed: int  # whether all weights are packed ahead, or a chunk of them where it is used
    ready: int  # whether an earlier call has packed them
    split_units: int  # whether threads share the units, and meet after each step, or the batch; always, if not packed
    projected: int  # steps whose x product is made ahead, 0 for none: then it is made with the step's h product
    scratch: int  # elements of each thread's scratch
    y_row: int  # elements between rows of y
    dy_row: int  # the same of dy
    add_dx: int  # whether dx and
    add: int  # the gradients of the weights are added to what is there


@helper
def side_slots(s, side):
    """The first slot that a side's product feeds, and how many."""
    return (side, 3) if s.cell == GRU else (0, s.slots)


@helper
def block_units(s, block, W):
    """How many vectors of units a block holds: the last one may hold fewer than the others."""
    return min(s.units, (s.H - block * s.units * W + W - 1) // W)


@helper
def fed(s, block, side, W):
    """The first slot that a side's product feeds, and how many of them belong to units."""
    first, count = side_slots(s, side)
    return first, count if s.units == 1 else block_units(s, block, W)


@helper
def slot_rows(s, side, block, slot, W):
    """The first row of the weights behind a side's `slot`-th vector, and how many of its lanes stand for units."""
    if s.cell == LSTM:
        gate, unit = slot, block * W
    elif s.cell == GRU:
        gate, unit = (slot + 2 if side == X else slot) % 3, block * W
    else:
        gate, unit = 0, (block * s.units + slot) * W
    return gate * s.H + unit, max(0, min(W, s.H - unit))


@helper
def column_panels(K, W):
    """How many panels of up to 4 vectors cover K columns."""
    return (K + 4 * W - 1) // (4 * W)


@helper
def column_vectors(K, p, W):
    """How many vectors the p-th of these panels has."""
    return min(4, (K - p * 4 * W + W - 1) // W)


@helper
def tiles(count, vectors):
    """How many tiles of this width cover `count` rows."""
    return (count + _ROWS[vectors] - 1) // _ROWS[vectors]


@helper
def projection(s, W):
    """The sizes of an LSTM's projection as an RNN's x product."""
    vectors = (s.P + W - 1) // W
    units = min(4, vectors)
    blocks = (vectors + units - 1) // units
    stride = s.R * units * W
    return Sizes(
        RNN_TANH,
        s.T,
        s.N,
        s.R,
        s.H,
        s.P,
        s.P,
        units,
        units,
        blocks,
        stride,
        s.H,
        s.reverse,
        s.tape,
        s.packed,
        s.ready,
        s.split_units,
        0,
        s.scratch,
        s.y_row,
        s.dy_row,
        s.add_dx,
        s.add,
    )
