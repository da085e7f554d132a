"""The classes of a course's exercises: an RNN and an LSTM whose weights are attributes, one example in columns.

Weights are drawn from N(0, 0.01^2) by NumPy's global generator, in the order of the attributes; biases are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.cells import Weights
from fastrnn.checks import Array, check_positive, check_size, take_reals
from fastrnn.scratch.activations import sigmoid
from fastrnn.scratch.columns import project, state_rows, step_rows
from fastrnn.scratch.lstm import stack_gates
from fastrnn.scratch.sequence import Run

__all__ = ["SimpleLSTM", "SimpleRNN"]


def draw(rows: int, columns: int, scale: float = 0.01) -> Array:
    """Draw a matrix from N(0, scale^2) by NumPy's global generator; ValueError if it is too large to be held."""
    check_size("input_size, hidden_size", (rows, columns))
    return np.random.randn(rows, columns) * scale


def _sequence(X: Any, input_size: int) -> Array:
    """Return a copy of X (T, I), or of steps of another shape with I numbers each, as rows (T, 1, I)."""
    array = take_reals("X", X)
    if not array.ndim or not len(array) or array.size != len(array) * input_size:
        raise ValueError(f"X has shape {array.shape}; expected (T, I) = (at least 1, {input_size})")
    return np.array(array, np.float64, order="C").reshape(len(array), 1, input_size)


class SimpleRNN:
    """An Elman RNN: with an output layer it runs over a sequence, without one it is a cell that takes a step.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    output_size
        O, the outputs of each step; None for the cell, which is `fastrnn.scratch.blog.SimpleRNN`.

    Attributes
    ----------
    W_ih, W_hh, b_h, W_ho, b_o
        (H, I), (H, H), (H, 1), (O, H) and (O, 1), with an output layer: h_t = tanh(W_ih x_t + W_hh h_{t-1} + b_h), of
        which the output is W_ho h_t + b_o.
    Wxh, Whh, bh
        The first three under the names that the cell gives them; it draws its weights from N(0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> outputs, hidden_states = SimpleRNN(3, 5, 2).forward(np.ones((7, 3)))
    >>> outputs.shape, hidden_states.shape
    ((7, 2, 1), (8, 5, 1))
    >>> SimpleRNN(3, 5).forward(np.ones((3, 1)), np.zeros((5, 1))).shape
    (5, 1)
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int | None = None) -> None:
        self.input_size = check_positive("input_size", input_size)
        self.hidden_size = check_positive("hidden_size", hidden_size)
        self.output_size = None if output_size is None else check_positive("output_size", output_size)
        scale = 1.0 if output_size is None else 0.01
        into_h = draw(hidden_size, input_size, scale), draw(hidden_size, hidden_size, scale), np.zeros((hidden_size, 1))
        if output_size is None:
            self.Wxh, self.Whh, self.bh = into_h
        else:
            self.W_ih, self.W_hh, self.b_h = into_h
            self.W_ho, self.b_o = draw(output_size, hidden_size), np.zeros((output_size, 1))

    def forward(self, X: Any, h_prev: Any = None) -> Any:
        """Run over a sequence, or take a step.

        Parameters
        ----------
        X
            (T, I), or steps of another shape with I numbers each; without an output layer a step's column (I, 1).
        h_prev
            (H, 1), the state before; None for zeros.

        Returns
        -------
        tuple or ndarray
            The outputs (T, O, 1) and the hidden states (T+1, H, 1), the initial one first; without an output layer the
            next state (H, 1).

        Raises
        ------
        ValueError
            If a shape does not fit.
        """
        h_0 = np.zeros((self.hidden_size, 1)) if h_prev is None else h_prev
        state = (state_rows("h_prev", h_0, self.hidden_size, 1),)
        if self.output_size is None:
            x = step_rows("X", X, self.input_size, 1)
            return Run("rnn_tanh", x, state, _elman(self.Wxh, self.Whh, self.bh)).y[0].T.copy()
        run = Run("rnn_tanh", _sequence(X, self.input_size), state, _elman(self.W_ih, self.W_hh, self.b_h))
        return project(run.y, self.W_ho, self.b_o).transpose(0, 2, 1), np.concatenate(
            [state[0][None], run.y]
        ).transpose(0, 2, 1)


def _elman(ih: Array, hh: Array, b: Array) -> Weights:
    ih, hh, b = (np.array(array, np.float64, order="C") for array in (ih, hh, b))
    return Weights(ih, hh, b.ravel(), np.zeros(b.size))


class SimpleLSTM:
    """A long short-term memory that shows every gate of every step.

    Parameters
    ----------
    input_size, hidden_size
        I and H.

    Attributes
    ----------
    W_f, W_i, W_C, W_o
        (H, H + I), on the stacked column [h; x].
    b_f, b_i, b_C, b_o
        (H, 1).

    Examples
    --------
    >>> import numpy as np
    >>> hidden_states, cell_states, all_gates = SimpleLSTM(3, 5).forward(np.ones((7, 3)))
    >>> len(hidden_states), cell_states[0].shape, len(all_gates), list(all_gates[0])
    (7, (5, 1), 7, ['forget', 'input', 'cell', 'output'])
    >>> np.hstack(hidden_states).T.shape, np.hstack([gates["forget"] for gates in all_gates]).T.shape
    ((7, 5), (7, 5))
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size = check_positive("input_size", input_size)
        self.hidden_size = check_positive("hidden_size", hidden_size)
        self.W_f, self.W_i, self.W_C, self.W_o = (draw(hidden_size, hidden_size + input_size) for _ in range(4))
        self.b_f, self.b_i, self.b_C, self.b_o = (np.zeros((hidden_size, 1)) for _ in range(4))

    def sigmoid(self, x: Any) -> Array:
        """Return 1 / (1 + exp(-x)), without overflow for any x."""
        return sigmoid(x)

    def forward_step(self, x_t: Any, h_prev: Any, C_prev: Any) -> tuple[Array, Array, dict[str, Array]]:
        """Take a step.

        Parameters
        ----------
        x_t
            (I, 1).
        h_prev, C_prev
            (H, 1), the states before.

        Returns
        -------
        tuple
            h and C, (H, 1) each, and the gates, a dict of forget, input, cell (the candidate, from -1 to 1) and output,
            (H, 1) each.

        Raises
        ------
        ValueError
            If a shape does not fit.
        """
        (h,), (C,), (gates,) = self._run(step_rows("x_t", x_t, self.input_size, 1), h_prev, C_prev)
        return h, C, gates

    def forward(self, X: Any) -> tuple[list[Array], list[Array], list[dict[str, Array]]]:
        """Run over a sequence from zero states.

        Parameters
        ----------
        X
            (T, I), or steps of another shape with I numbers each.

        Returns
        -------
        tuple
            Three lists of T: the hidden states and the cell states after each step, (H, 1) each, and the gates of each
            step; see `forward_step`.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        zero = np.zeros((self.hidden_size, 1))
        return self._run(_sequence(X, self.input_size), zero, zero)

    def _run(self, x: Array, h_0: Any, c_0: Any) -> tuple[list[Array], list[Array], list[dict[str, Array]]]:
        weights = stack_gates((self.W_i, self.W_f, self.W_C, self.W_o), (self.b_i, self.b_f, self.b_C, self.b_o))
        state = state_rows("h_prev", h_0, self.hidden_size, 1), state_rows("C_prev", c_0, self.hidden_size, 1)
        run = Run("lstm", x, state, weights)
        inside = run.gates()
        names = {"forget": "f", "input": "i", "cell": "g", "output": "o"}
        all_gates = [{name: inside[gate][t].T for name, gate in names.items()} for t in range(len(x))]
        return list(run.y.transpose(0, 2, 1).copy()), list(inside["c"].transpose(0, 2, 1)), all_gates
