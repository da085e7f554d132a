"""One layer over one sequence, and its gradients as often as they are asked for."""

from __future__ import annotations

from typing import Any

from fastrnn import ops
from fastrnn.cells import CELLS, State, Weights
from fastrnn.parameters import Array

__all__ = ["Run"]


class Run:
    """A cell run over rows (T, N, I), on the backend that `fastrnn.use_backend` chooses.

    All arrays belong to it: they must not change. `y` (T, N, H) is read-only for that reason.
    """

    __slots__ = ("_tape", "cell", "state", "weights", "x", "y")

    def __init__(self, cell: str, x: Array, state: State, weights: Weights) -> None:
        self.cell, self.x, self.state, self.weights = CELLS[cell], x, state, weights
        ih, hh, bias = (None if array is None else array.shape for array in weights[:3])
        if hh is None or ih != (hh[0], x.shape[2]) or hh[0] != len(self.cell.gates) * hh[1] or bias != hh[:1]:
            raise ValueError(
                f"the weights have shapes {ih}, {hh}, {bias}; expected (G*H, I), (G*H, H), (G*H,), I = {x.shape[2]}"
            )
        x.flags.writeable = False
        self.y, self._tape = self._forward()
        self.y.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle what it was made of: caches that hold a run can be kept."""
        return Run, (self.cell.name, self.x, self.state, self.weights)

    def _forward(self) -> tuple[Array, ops.Tape]:
        backend, num_threads = ops.choose(None, None)
        y, _, tape = ops.forward(backend, self.cell, self.x, self.state, self.weights, num_threads)
        return y, tape

    def gates(self) -> dict[str, Array]:
        """Every gate, and c, (T, N, H) each."""
        return {name: rows.reshape(self.y.shape) for name, rows in ops.gates(self._fresh_tape()).items()}

    def backward(self, dy: Array | None, dstate: tuple[Array | None, ...]) -> tuple[Any, State, tuple[Any, Any, Any]]:
        """The gradients of x, of the initial state, and of weights ih, hh and bias, for those of y and the final state.

        They are new arrays.
        """
        dx, dstate_0, (dih, dhh, dbias, *_) = ops.backward(self._fresh_tape(), dy, dstate)
        return dx, dstate_0, (dih, dhh, dbias)

    def _fresh_tape(self) -> ops.Tape:
        if self._tape.kept is None:  # backward used it up
            self._tape = self._forward()[1]
        return self._tape
