"""Where things lie: blocks of units, the slots of their rows, and which slots a product feeds.

Units come in blocks: W units with one vector per gate for LSTM and GRU, up to 4 W units for RNN, W units with a vector
for each sum, and for what else is kept, of a written cell. A block's rows, in the tape and in its panel of weights, are
`slots` vectors wide. The x product feeds the vectors of side `X`, the h product those of side `RECURRENT`: all of them,
except for the GRU, whose slots n, r, z, h_n overlap in r and z, and for what a written cell says. That may have a
second recurrent product in each step, of a middle value m in place of h: side `SECOND`. Products that run over units or
gates, in backward, have panels of up to 4 vectors of columns.

The projection of an LSTM, h_t = u_t W_hr^T, is laid out as the x product of an RNN: u for x, and P units.
"""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.kernels.numba_cells import GRU, LSTM, RNN_RELU, RNN_TANH
from fastrnn.kernels.numba_options import TILE_ROWS, helper

__all__ = [
    "RECURRENT",
    "SECOND",
    "Shape",
    "Sizes",
    "X",
    "block_units",
    "column_panels",
    "column_vectors",
    "fed",
    "projection",
    "shape_of",
    "side_slots",
    "slot_rows",
    "tiles",
]

X, RECURRENT, SECOND = range(3)
_ROWS = (1, *(TILE_ROWS[vectors] for vectors in (1, 2, 3, 4)))


class Shape(NamedTuple):
    """What follows from the cell alone; `*_gates` have the gates of slots in a product's weights, four bits each."""

    cell: int
    slots: int  # vectors in a block's row; of an RNN, as the next one, in a layer that has so many
    units: int  # vectors of units in a block
    sums: int  # of the slots, from the first one on
    x_slots: int  # that x feeds, from the first one on
    x_gates: int
    h_first: int  # the first one that h feeds
    h_slots: int
    h_gates: int
    m_first: int = 0  # the first one that m feeds
    m_slots: int = 0
    m_gates: int = 0
    parameters: int = 0  # of a unit, a cell's own, whose gradients have the slots behind the sums
    others: int = 0  # states besides h
    own: int = 0  # the first slot of those gradients
    adds_up: int = 0  # whether the program adds to them
    reads_y: int = 0  # whether backward reads the new h
    takes: int = 0  # whether h goes through a program before its product
    phases_middle: int = 0  # of a program in phases: how many there are up to m, after it, and back likewise
    phases: int = 0
    phases_middle_back: int = 0
    phases_back: int = 0
    row_values: int = 0  # of a row, that are kept
    carries: int = 0  # what goes back beside the product: gradients of other states, before them perhaps some of h's


_SHAPES = (
    *[Shape(cell, 4, 4, 4, x_slots=4, x_gates=0, h_first=0, h_slots=4, h_gates=0) for cell in (RNN_TANH, RNN_RELU)],
    Shape(LSTM, 4, 1, 4, x_slots=4, x_gates=0x3210, h_first=0, h_slots=4, h_gates=0x3210, others=1, carries=1),
    Shape(GRU, 4, 1, 4, x_slots=3, x_gates=0x102, h_first=1, h_slots=3, h_gates=0x210, carries=1),
)


def shape_of(cell: int, vectors: int) -> Shape:
    """The shape of a built-in cell in a layer of so many vectors of units."""
    shape, units = _SHAPES[cell], min(4, vectors)
    if shape.units == 1:
        return shape
    return shape._replace(slots=units, units=units, sums=units, x_slots=units, h_slots=units)


class Sizes(NamedTuple):
    """The integers of a call."""

    # those of `Shape`
    cell: int
    slots: int
    units: int
    sums: int
    x_slots: int
    x_gates: int
    h_first: int
    h_slots: int
    h_gates: int
    m_first: int
    m_slots: int
    m_gates: int
    parameters: int
    others: int
    own: int
    adds_up: int
    reads_y: int
    takes: int
    phases_middle: int
    phases: int
    phases_middle_back: int
    phases_back: int
    row_values: int
    carries: int
    T: int
    N: int
    R: int  # rows of all steps
    I: int
    H: int
    P: int  # size of h: H where there is no projection
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
    if side == X:
        return 0, s.x_slots
    if side == RECURRENT:
        return s.h_first, s.h_slots
    return s.m_first, s.m_slots


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
    gates = s.x_gates if side == X else s.h_gates if side == RECURRENT else s.m_gates
    unit = (block * s.units + (slot if s.units > 1 else 0)) * W
    return (gates >> 4 * slot & 15) * s.H + unit, max(0, min(W, s.H - unit))


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
    rows = _ROWS[min(4, vectors)]
    return (count + rows - 1) // rows


@helper
def projection(s, W):
    """The sizes of an LSTM's projection as an RNN's x product."""
    vectors = (s.P + W - 1) // W
    units = min(4, vectors)
    blocks = (vectors + units - 1) // units
    stride = s.R * units * W
    return Sizes(
        RNN_TANH,
        units,
        units,
        units,
        units,  # x feeds all
        0,
        0,
        0,
        0,
        0,
        0,  # and h none
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        s.T,
        s.N,
        s.R,
        s.H,
        s.P,
        s.P,
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
