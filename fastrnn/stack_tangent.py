"""Layers on top of one another in forward mode, and the tangent of their backward: `fastrnn.tangent`, layer by layer.

Arrays come validated, as in `fastrnn.stack`; the cell is a built-in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastrnn import ops
from fastrnn.cells import State, Weights
from fastrnn.parameters import Array
from fastrnn.stack import Dropout, DStates, Gradients, Layers, Setting
from fastrnn.tangent import Point, Tangent

__all__ = ["Tape", "forward"]

Results = tuple[Array | None, list[State], list[Gradients]]  # as of `fastrnn.stack.Tape.backward`


def forward(
    setting: Setting,
    layers: Layers,
    x: Array,
    states: Sequence[State],
    tangents: tuple[Array | None, Sequence[Sequence[Array | None]], Mapping[str, Array]],
    dropout: Dropout | None,
) -> tuple[tuple[Array, list[State]], tuple[Array, list[State]], Tape]:
    """Run all layers in forward mode.

    Parameters
    ----------
    setting, layers, x, states, dropout
        As of `fastrnn.stack.forward`.
    tangents
        Of x, of the initial states by layer and direction, and of parameters by name: None, or none, for zero.

    Returns
    -------
    tuple
        y and the final states, their tangents, and what backward needs.
    """
    backend, cell, num_threads, batch_sizes, _ = setting
    x_tangent, of_states, of_weights = tangents
    kept: list[_Layer] = []
    states_n: list[State] = []
    tangents_n: list[State] = []
    for layer, directions in enumerate(layers):
        mask = None
        if layer and dropout is not None:
            x, mask = dropout(x, layer)
            x_tangent = None if x_tangent is None else dropout.scale(x_tangent, mask)
        ys, y_tangents, both = [], [], []
        for reverse, weights in enumerate(directions):
            at, arrays = layer * len(directions) + reverse, weights.arrays()
            given = (backend, cell, x, states[at], arrays, num_threads, batch_sizes, reverse == 1)
            y, state_n, tape = ops.forward(*given)
            gates = list(ops.gates(tape).values()) if len(cell.gates) > 1 else []
            its = [of_weights.get(name) for name in weights.names]
            tangent = Tangent(Point(*given, y, gates), x_tangent, of_states[at], its, keep=True)
            states_n.append(state_n)
            tangents_n.append(tangent.state_n)
            ys.append(y)
            y_tangents.append(tangent.y)
            both.append((tape, tangent))
        x, x_tangent = (each[0] if len(each) == 1 else np.concatenate(each, -1) for each in (ys, y_tangents))
        kept.append(_Layer(both, mask))
    assert x_tangent is not None
    return (x, states_n), (x_tangent, tangents_n), Tape(kept, dropout)


@dataclass(slots=True)
class _Layer:
    """What is kept of one layer."""

    directions: list[tuple[ops.Tape, Tangent]]
    mask: Array | None  # what dropout kept of its input


@dataclass(slots=True)
class Tape:
    """What `forward` keeps: it can differentiate the stack and take the tangent of that, once."""

    layers: list[_Layer]
    dropout: Dropout | None

    def backward(
        self, dy: Array | None, dstates: DStates, dy_tangent: Array | None, dstates_tangent: DStates
    ) -> tuple[Results, Results]:
        """The gradients, as `fastrnn.stack.Tape.backward`, and their tangents, given those of what comes in."""
        firsts: Results = None, [], []
        seconds: Results = None, [], []
        while self.layers:
            layer = self.layers.pop()
            count = len(layer.directions)
            found: list[tuple[tuple[Array | None, State, Gradients], ...]] = []
            for reverse, (tape, tangent) in enumerate(layer.directions):
                at = len(self.layers) * count + reverse
                part, part_tangent = (_part(d, reverse, count) for d in (dy, dy_tangent))
                second = tangent.adjoint(part, dstates[at], part_tangent, dstates_tangent[at])
                found.append((ops.backward(tape, part, dstates[at]), second))
            firsts, seconds = (_below([its[k] for its in found], above) for k, above in enumerate((firsts, seconds)))
            dy, dy_tangent = firsts[0], seconds[0]
            if layer.mask is not None and self.dropout is not None and dy is not None:
                dy = self.dropout.scale(dy, layer.mask)
                dy_tangent = None if dy_tangent is None else self.dropout.scale(dy_tangent, layer.mask)
        return (dy, *firsts[1:]), (dy_tangent, *seconds[1:])


def _part(array: Array | None, reverse: int, count: int) -> Array | None:
    """The columns of a direction."""
    if array is None or count == 1:
        return array
    P = array.shape[-1] // 2
    return array[..., reverse * P : (reverse + 1) * P]


def _below(found: Sequence[tuple[Array | None, State, Gradients]], above: Results) -> Results:
    """The results of a layer's directions before those of the layers above."""
    dx = None
    for its, _, _ in found:
        dx = its if dx is None or its is None else dx + its
    return dx, [state for _, state, _ in found] + above[1], [Weights._make(w) for _, _, w in found] + above[2]
