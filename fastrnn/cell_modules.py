"""RNNCell, LSTMCell and GRUCell: one step of one layer, with torch.nn's shapes, names and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.cells import CELLS, State
from fastrnn.modules import Runnable, Tape, check_nonlinearity, check_tape
from fastrnn.parameters import Array

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

_NAMES = {"ih": "weight_ih", "hh": "weight_hh", "bias_ih": "bias_ih", "bias_hh": "bias_hh"}


class _Cell(Runnable):
    """Everything that RNNCell, LSTMCell and GRUCell share."""

    _CACHES = ("_weights", "_zeros")
    _DEFAULTS: Mapping[str, Any] = {"bias": True, "dtype": "float32", "backend": None, "num_threads": None}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self._configure(input_size, hidden_size, bias, dtype, backend, num_threads)
        rows = len(self._cell.gates) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.hidden_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        self._draw(shapes, seed)

    def _start_caches(self) -> None:
        names = {field: name for field, name in _NAMES.items() if name in self._parameters}
        self._weights = ops.LayerWeights(self._parameters, names)
        self._zeros: tuple[int, State] = (-1, ())  # batch size, the state where none is given

    def __call__(self, x: Any, state: Any = None) -> Any:
        """Take one step for its state only.

        Parameters
        ----------
        x
            (N, I), or (I,) for a single sequence, of the cell's dtype. An integer array of one dimension less holds
            token indices: each stands for its one-hot row.
        state
            The state before, h_0 (N, H), for LSTMCell the tuple (h_0, c_0). Without N for a single sequence. None means
            zeros.

        Returns
        -------
        ndarray or tuple
            The state after, h_n or (h_n, c_n), shaped like `state`.

        Raises
        ------
        TypeError
            If a dtype differs, or an argument is not an array.
        ValueError
            If a shape differs, or a token is out of range.
        """
        x, states, batched = self._take(x, state)
        backend, num_threads = ops.choose(self.backend, self.num_threads)
        stamp = self._stamp()  # before weights are taken: they count as held
        _, states_n = ops.infer(backend, self._cell, x[None], states, self._weights, stamp, num_threads)
        return _to_caller(states_n, batched)

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Tape]:
        """Take one step and keep what `backward` needs; parameters and errors are those of `__call__`.

        Returns
        -------
        tuple
            The state after and the tape. The tape refers to real x and the parameters without a copy: they must not
            change before `backward`, which raises ValueError where it sees that x has.
        """
        x, states, batched = self._take(x, state)
        if state is not None:
            states = tuple([s.copy() for s in states])  # the tape outlives the caller's arrays
        backend, num_threads = ops.choose(self.backend, self.num_threads)
        _, states_n, kept = ops.forward(backend, self._cell, x[None], states, self._weights.arrays(), num_threads)
        state_n = _to_caller(states_n, batched)
        return state_n, Tape(self, backend, x, kept, states_n[0].shape if batched else states_n[0].shape[1:])

    def backward(self, tape: Tape, dstate: Any) -> tuple[Array | None, Any, dict[str, Array]]:
        """Differentiate a step: the exact gradients of everything that went into `forward`.

        Parameters
        ----------
        tape
            From `forward` of this cell; it serves once.
        dstate
            The loss's gradient with respect to the state after, shaped like it: dh_n, for LSTMCell (dh_n, dc_n), each
            of which may be None for zero.

        Returns
        -------
        tuple
            dx (None for token input), the gradient of the state before, and a dict of the parameters' gradients under
            the names of `parameters`.

        Raises
        ------
        ValueError
            If a shape differs, or the tape was used before or belongs to another cell.
        TypeError
            If a dtype differs.
        """
        check_tape(tape, self)
        names, shape = self._cell.dstates_n, tape._y_shape
        batched = len(shape) == 2
        dstates: tuple[Any, ...] = (None,) * len(names)
        if dstate is not None:
            dstates = self._as_states(names, dstate, shape, optional=True)
        kept = tape._take()
        dx, dstates_0, dweights = ops.backward(kept, None, dstates)
        dx = None if dx is None else (dx[0] if batched else dx[0, 0])
        return dx, _to_caller(dstates_0, batched), self._weights.named(dweights)

    def _take(self, x: Any, state: Any) -> tuple[Array, State, bool]:
        """Validate what a step is given; return x (N, I) or tokens (N,), the state, and whether x is a batch."""
        batched = True
        if not ops.are_ready((x,), self.dtype, (self.input_size,), 1) or x.ndim != 2:
            x, batched = ops.as_input(x, self.dtype, self.input_size, ("N",))
        batch_size = len(x)
        if state is None:
            of_size, zeros = self._zeros  # read, and below written, at once: other threads do so too
            if of_size != batch_size:
                zeros = tuple([np.zeros((batch_size, self.hidden_size), self.dtype) for _ in self._cell.states])
                self._zeros = batch_size, zeros
            return x, zeros, batched
        shape = (batch_size, self.hidden_size) if batched else (self.hidden_size,)
        return x, self._as_states(self._cell.states_0, state, shape), batched

    def _as_states(
        self, names: tuple[str, ...], values: Any, shape: tuple[int, ...], *, optional: bool = False
    ) -> tuple[Any, ...]:
        """Validate the arrays of a state of a shape, or of its gradient, and return them as (N, H)."""
        batched, count = len(shape) == 2, len(names)
        letters = "(N, H)" if batched else "(H,)"
        states = ops.as_states(names, values, self.dtype, (shape,) * count, (letters,) * count, optional=optional)
        return states if batched else tuple([None if s is None else s[None] for s in states])


def _to_caller(states: State, batched: bool) -> Any:
    if not batched:
        states = tuple([s[0] for s in states])
    return states if len(states) > 1 else states[0]


class RNNCell(_Cell):
    """One step of an Elman RNN, h = tanh(W_ih x + b_ih + W_hh h_prev + b_hh).

    **Weights**, in `parameters` under torch.nn's names.

    - weight_ih, weight_hh: (H, I) and (H, H).
    - bias_ih, bias_hh: (H,) each, unless bias is False.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    bias
        Whether there are bias_ih and bias_hh.
    nonlinearity
        "tanh" or "relu".
    dtype, seed, backend, num_threads
        As for `fastrnn.RNN`.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> cell = fastrnn.RNNCell(10, 20, seed=0)
    >>> h = cell(np.zeros((3, 10), np.float32))
    >>> h = cell(np.zeros((3, 10), np.float32), h)
    >>> h.shape
    (3, 20)
    """

    _DEFAULTS: Mapping[str, Any] = {"nonlinearity": None, **_Cell._DEFAULTS}  # always shown

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.nonlinearity = check_nonlinearity(nonlinearity)
        self._cell = CELLS[f"rnn_{nonlinearity}"]
        super().__init__(
            input_size, hidden_size, bias, dtype=dtype, seed=seed, backend=backend, num_threads=num_threads
        )


class LSTMCell(_Cell):
    """One step of a long short-term memory, whose equations are those of `fastrnn.LSTM`; the state is the tuple (h, c).

    **Weights**, in `parameters` under torch.nn's names.

    - weight_ih, weight_hh: (4*H, I) and (4*H, H), in blocks of H rows for the gates i, f, g, o.
    - bias_ih, bias_hh: (4*H,) each, unless bias is False.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    bias
        Whether there are bias_ih and bias_hh.
    dtype, seed, backend, num_threads
        As for `fastrnn.LSTM`.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> cell = fastrnn.LSTMCell(10, 20, seed=0)
    >>> (h, c), tape = cell.forward(np.zeros((3, 10), np.float32))
    >>> dx, (dh_0, dc_0), grads = cell.backward(tape, (np.ones_like(h), None))
    >>> dx.shape, dc_0.shape, grads["weight_hh"].shape
    ((3, 10), (3, 20), (80, 20))
    """

    _cell = CELLS["lstm"]


class GRUCell(_Cell):
    """One step of a gated recurrent unit, whose equations are those of `fastrnn.GRU`.

    **Weights**, in `parameters` under torch.nn's names.

    - weight_ih, weight_hh: (3*H, I) and (3*H, H), in blocks of H rows for the gates r, z, n.
    - bias_ih, bias_hh: (3*H,) each, unless bias is False.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    bias
        Whether there are bias_ih and bias_hh.
    dtype, seed, backend, num_threads
        As for `fastrnn.GRU`.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> cell = fastrnn.GRUCell(10, 20, seed=0)
    >>> cell(np.zeros(10, np.float32)).shape
    (20,)
    """

    _cell = CELLS["gru"]
