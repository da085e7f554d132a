"""A layer of Keras on NumPy arrays: what graphs call that cannot hold the kernels' tapes, those of JAX and TensorFlow.

A graph may run its forward and never its backward: so nothing is kept in between, and backward runs forward again,
which gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn import ops, stack
from fastrnn.keras.spec import FIELDS, Spec
from fastrnn.parameters import Array
from fastrnn.rows import Entrance

__all__ = ["Given", "forward", "gradients"]


class Given(NamedTuple):
    """The arrays of a call."""

    x: Any  # (N, T, I)
    mask: Any  # (N, T), or None
    states: Sequence[Any]  # (N, H) each
    weights: Sequence[Any]  # (G*H, I), (G*H, H) and, if any, two biases (G*H,), the gates in fastrnn's order


class _Call:
    """A call in the kernels' form, and the way back."""

    def __init__(self, spec: Spec, given: Given) -> None:
        x, mask, states, weights = given
        self.way = slice(None, None, -1 if spec.go_backwards else 1)
        self.entrance = Entrance(spec.cell, x.dtype, x.shape[2], [states[0].shape[1]] * len(states), 1, 1, False)
        self.x, self.states, self.rows = self.entrance.take(
            x[:, self.way],
            self.of_module(states),
            True,
            mask=None if mask is None else mask[:, self.way],
            masked="last" if spec.hold else "zero",
        )
        backend, num_threads = ops.choose_for_cell(spec.cell, None, None)
        self.setting = stack.Setting(backend, spec.cell, num_threads, self.rows.batch_sizes)
        names = {field: field for field in FIELDS[: len(weights)]}
        self.layers = [[ops.LayerWeights(dict(zip(names, weights, strict=True)), names)]]

    @staticmethod
    def of_module(states: Sequence[Array]) -> Any:
        """States (N, H) as modules take them: (1, N, H), alone or in a tuple."""
        return tuple([state[None] for state in states]) if len(states) > 1 else states[0][None]

    @staticmethod
    def of_keras(states: Any) -> list[Array]:
        """The reverse."""
        return [state[0] for state in states] if isinstance(states, tuple) else [states[0]]


def forward(spec: Spec, given: Given) -> list[Array]:
    """y (N, T, H), if it is wanted, and the final states (N, H)."""
    call = _Call(spec, given)
    y, states_n = stack.infer(call.setting, call.layers, call.x, call.states, None)
    y, state_n = call.rows.back(y, states_n, call.setting.empty)
    finals = call.of_keras(state_n)
    return [np.ascontiguousarray(y), *finals] if spec.sequences else finals


def gradients(spec: Spec, given: Given, incoming: Sequence[Array]) -> list[Array]:
    """The gradients of x, the states and the weights, from those of what `forward` returns."""
    call = _Call(spec, given)
    _, _, tape = stack.forward(call.setting, call.layers, call.x, call.states)
    dy, dstate_n = (incoming[0], incoming[1:]) if spec.sequences else (None, incoming)
    N, T = given.x.shape[:2]
    y_shape = (N, T, given.states[0].shape[1])
    rows_of = call.entrance.take_gradients(call.rows, y_shape, dy, call.of_module(dstate_n))
    dx, dstates_0, dweights = tape.backward(*rows_of[:2])
    dx, dstate_0, _ = call.rows.gradients_back(dx, dstates_0, rows_of[2])
    assert dx is not None  # of tokens alone
    found = [dx[:, call.way], *call.of_keras(dstate_0), *[d for d in dweights[0] if d is not None]]
    return [np.ascontiguousarray(array) for array in found]
