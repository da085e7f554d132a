"""A layer of Keras on NumPy arrays: what graphs of TensorFlow call, which cannot hold the kernels' tapes.

A graph has a number for a tape. A few tapes are kept, the last ones: a graph may run its forward and never its
backward, or its backward twice. Where the tape is missing, backward runs forward again, which gives the same bits.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn import ops, stack
from fastrnn.extra import Beside, OfSequences
from fastrnn.keras.spec import FIELDS, Spec
from fastrnn.parameters import Array
from fastrnn.rows import Entrance

__all__ = ["NUMBER", "Given", "forward", "gradients"]

NUMBER = np.dtype(np.int32)  # of a tape
KEPT = 32  # tapes, of as many layers and directions between a forward and its backward


class Given(NamedTuple):
    """The arrays of a call."""

    x: Any  # (N, T, I)
    mask: Any  # (N, T), or None
    dropped: Any  # (N, H), what h is multiplied by before the product, or None
    states: Sequence[Any]  # (N, H) each
    weights: Sequence[Any]  # (G*H, I), (G*H, H) and, if any, two biases (G*H,), the gates in fastrnn's order


class _Call:
    """A call in the kernels' form, and the way back."""

    def __init__(self, spec: Spec, given: Given, *, copy: bool) -> None:
        """With `copy` it is independent of the given arrays' memory."""
        x, mask, dropped, states, weights = given
        self.way = slice(None, None, -1 if spec.go_backwards else 1)
        self.entrance = Entrance(spec.cell, x.dtype, x.shape[2], [states[0].shape[1]] * len(states), 1, 1, False)
        if copy:
            states, weights = [state.copy() for state in states], [array.copy() for array in weights]
        self.x, self.states, self.rows = self.entrance.take(
            x[:, self.way],
            self.of_module(states),
            True,
            mask=None if mask is None else mask[:, self.way],
            masked="last" if spec.hold else "zero",
        )
        if copy and np.may_share_memory(self.x, x):
            self.x = self.x.copy()
        backend, num_threads = ops.choose_for_cell(spec.cell, None, None)
        extra = []
        if dropped is not None:
            ragged = self.rows.ragged
            order = slice(None) if ragged is None else ragged.sources[0] % len(dropped)
            extra.append(Beside([OfSequences(np.array(dropped[order]))]))
        self.setting = stack.Setting(backend, spec.cell, num_threads, self.rows.batch_sizes, extra)
        names = {field: field for field in FIELDS[: len(weights)]}
        self.layers = [[ops.LayerWeights(dict(zip(names, weights, strict=True)), names)]]

    def forward(self) -> tuple[Array, Any, stack.Tape]:
        """y, the final states, and the tape."""
        y, states_n, tape = stack.forward(self.setting, self.layers, self.x, self.states)
        return *self.rows.back(y, states_n, self.setting.empty), tape

    @staticmethod
    def of_module(states: Sequence[Array]) -> Any:
        """States (N, H) as modules take them: (1, N, H), alone or in a tuple."""
        return tuple([state[None] for state in states]) if len(states) > 1 else states[0][None]

    @staticmethod
    def of_keras(states: Any) -> list[Array]:
        """The reverse."""
        return [state[0] for state in states] if isinstance(states, tuple) else [states[0]]


class _Tapes:
    """The last tapes, by number."""

    def __init__(self) -> None:
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._tapes: OrderedDict[int, tuple[_Call, stack.Tape]] = OrderedDict()

    def put(self, call: _Call, tape: stack.Tape) -> Array:
        """Keep a tape; its number."""
        with self._lock:
            number = next(self._numbers) % np.iinfo(NUMBER).max
            self._tapes[number] = call, tape
            if len(self._tapes) > KEPT:
                self._tapes.popitem(last=False)
        return np.array(number, NUMBER)

    def take(self, number: int) -> tuple[_Call, stack.Tape] | None:
        """The tape, if it is still there, and from now on no more."""
        with self._lock:
            return self._tapes.pop(number, None)


_tapes = _Tapes()


def forward(spec: Spec, given: Given) -> list[Array]:
    """The number of the tape, or 0 for none; y (N, T, H), if it is wanted; and the final states (N, H)."""
    call = _Call(spec, given, copy=spec.keep)
    if spec.keep:
        y, state_n, tape = call.forward()
        number = _tapes.put(call, tape)
    else:
        y, states_n = stack.infer(call.setting, call.layers, call.x, call.states, None)
        y, state_n = call.rows.back(y, states_n, call.setting.empty)
        number = np.array(0, NUMBER)
    return [number, *([y] if spec.sequences else []), *call.of_keras(state_n)]


def gradients(spec: Spec, given: Given, number: Array, incoming: Sequence[Array]) -> list[Array]:
    """The gradients of x, the states and the weights, from those of y, if it is wanted, and of the final states."""
    kept = _tapes.take(int(number))
    if kept is None:
        call = _Call(spec, given, copy=False)
        *_, tape = call.forward()
    else:
        call, tape = kept
    dy, dstate_n = (incoming[0], incoming[1:]) if spec.sequences else (None, incoming)
    N, T = given.x.shape[:2]
    y_shape = (N, T, given.states[0].shape[1])
    dy, dstates, dstates_n = call.entrance.take_gradients(call.rows, y_shape, dy, call.of_module(dstate_n))
    dx, dstates_0, dweights = tape.backward(dy, dstates)
    dx, dstate_0, _ = call.rows.gradients_back(dx, dstates_0, dstates_n)
    assert dx is not None  # it would be of tokens
    return [dx[:, call.way], *call.of_keras(dstate_0), *[d for d in dweights[0] if d is not None]]
