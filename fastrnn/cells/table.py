r"""The table of cells: their gates, their states and their equations.

One step takes the input row ``x_t`` (N, I) and the previous states (N, H) to the next states. Write

    a_x = x_t weight_ih^T + bias_ih        (N, G*H)
    a_h = h_{t-1} weight_hh^T + bias_hh    (N, G*H)

with the G gate blocks, H rows each, stacked in the order of the table. ``*`` is elementwise, ``s`` the logistic
sigmoid.

``rnn_tanh``, ``rnn_relu`` (Elman, 1990), G = 1::

    h_t = tanh(a_x + a_h)          or  max(a_x + a_h, 0)

``lstm`` (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000), G = 4, gates i, f, g, o::

    i = s(a_x.i + a_h.i)    f = s(a_x.f + a_h.f)    g = tanh(a_x.g + a_h.g)    o = s(a_x.o + a_h.o)
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

with a projection (Sak et al., 2014) ``h_t = (o * tanh(c_t)) weight_hr^T``, of P instead of H columns.

``gru`` (Cho et al., 2014), G = 3, gates r, z, n::

    r = s(a_x.r + a_h.r)    z = s(a_x.z + a_h.z)    n = tanh(a_x.n + r * a_h.n)
    h_t = n + z * (h_{t-1} - n)

The GRU is torch.nn's and cuDNN's variant: the reset gate multiplies the recurrent *product* (Keras: ``reset_after``),
not the state before the product as in the paper. For the other cells only the sum a_x + a_h matters, so the gradients
of the two products are one array; for the GRU they differ in the n block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from fastrnn.cells.program import Program
from fastrnn.parameters import Array

__all__ = ["CELLS", "Cell", "State", "Weights"]

State = tuple[Array, ...]  # h (N, P), then the other states, (N, H)


class Weights(NamedTuple):
    """The parameters of one layer in one direction, or their gradients. G are the gates that the product feeds."""

    ih: Array  # (G*H, I)
    hh: Array | None  # (G*H, P); P is H where there is no projection; None where no gate is fed by h
    bias_ih: Array | None = None  # (G*H,)
    bias_hh: Array | None = None  # (G*H,), None exactly when bias_ih is, or hh
    hr: Array | None = None  # (P, H), a projection
    unit: Array | None = None  # (M, H), a cell's own M parameters of each unit


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    name: str
    gates: tuple[str, ...]  # in the order of the weight blocks
    states: tuple[str, ...]  # what is carried from step to step; the first is the output
    additive: bool  # only a_x + a_h matters: one gradient serves both products
    program: Program | None = None  # what runs in place of point functions of the table's own

    @cached_property
    def gates_ih(self) -> tuple[str, ...]:
        """The gates that x feeds, in the order of the blocks of weight_ih."""
        return self.gates if self.program is None else tuple(self.gates[g] for g in sorted(self.program.x_gates))

    @cached_property
    def gates_hh(self) -> tuple[str, ...]:
        """The gates that h feeds, in the order of the blocks of weight_hh."""
        return (
            self.gates
            if self.program is None
            else tuple(self.gates[g] for g in sorted(self.program.h_gates + self.program.m_gates))
        )

    @cached_property
    def states_0(self) -> tuple[str, ...]:
        """The names of the initial states."""
        return tuple(f"{name}_0" for name in self.states)

    @cached_property
    def dstates_n(self) -> tuple[str, ...]:
        """The names of the final states' gradients."""
        return tuple(f"d{name}_n" for name in self.states)


#: The cells by name.
CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("rnn_tanh", gates=("h",), states=("h",), additive=True),
        Cell("rnn_relu", gates=("h",), states=("h",), additive=True),
        Cell("lstm", gates=("i", "f", "g", "o"), states=("h", "c"), additive=True),
        Cell("gru", gates=("r", "z", "n"), states=("h",), additive=False),
    )
}
