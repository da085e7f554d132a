"""The classes of courses: an RNN and two LSTMs whose weights are attributes, one example at a time in columns.

All weights are drawn from N(0, 0.01^2) by NumPy's global generator, in the order of the attributes; biases are zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastrnn.cells import Weights
from fastrnn.checks import Array, check_iterable, check_positive, check_size, shown, take_reals
from fastrnn.scratch.columns import project, state_rows, step_rows
from fastrnn.scratch.lstm import stack_gates
from fastrnn.scratch.sequence import Run

__all__ = ["LSTM", "SimpleLSTM", "SimpleRNN", "encode"]

TOKENS = {"a": 0, "b": 1, "EOS": 2}


def encode(sequence: Iterable[str]) -> list[int]:
    """Return the indices of tokens of a^n b^n: a 0, b 1, EOS 2.

    Raises
    ------
    ValueError
        If a token is another one.

    Examples
    --------
    >>> encode(["a", "b", "EOS"])
    [0, 1, 2]
    """
    tokens = check_iterable("sequence", sequence, "tokens")
    unknown = [token for token in tokens if not isinstance(token, str) or token not in TOKENS]
    if unknown:
        raise ValueError(f"sequence holds {shown(unknown[0])}; expected {', '.join(TOKENS)}")
    return [TOKENS[token] for token in tokens]


def _draw(rows: int, columns: int) -> Array:
    check_size("input_size, hidden_size", (rows, columns))
    return np.random.randn(rows, columns) * 0.01


def _sequence(X: Any, input_size: int) -> Array:
    """Return a copy of X (T, I) as rows (T, 1, I)."""
    array = take_reals("X", X)
    if array.ndim != 2 or array.shape[1] != input_size or not len(array):
        raise ValueError(f"X has shape {array.shape}; expected (T, I) = (at least 1, {input_size})")
    return np.array(array, np.float64, order="C")[:, None]


def _with_first(state: Array, rows: Array) -> Array:
    """The columns (T+1, H, 1) of a state's rows (1, H) and those that follow, (T, 1, H)."""
    return np.concatenate([state[None], rows]).transpose(0, 2, 1)


class SimpleRNN:
    """An Elman RNN: with an output layer it runs over a sequence, without one it is a cell that takes a step.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    output_size
        O, the outputs of each step; None for the cell.

    Attributes
    ----------
    W_ih, W_hh, b_h, W_ho, b_o
        (H, I), (H, H), (H, 1), (O, H) and (O, 1), with an output layer: h_t = tanh(W_ih x_t + W_hh h_{t-1} + b_h), of
        which the output is W_ho h_t + b_o.
    Wxh, Whh, bh
        The first three under the names that the cell gives them.

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
        into_h = _draw(hidden_size, input_size), _draw(hidden_size, hidden_size), np.zeros((hidden_size, 1))
        if output_size is None:
            self.Wxh, self.Whh, self.bh = into_h
        else:
            self.W_ih, self.W_hh, self.b_h = into_h
            self.W_ho, self.b_o = _draw(output_size, hidden_size), np.zeros((output_size, 1))

    def forward(self, X: Any, h_prev: Any = None) -> Any:
        """Run over a sequence, or take a step.

        Parameters
        ----------
        X
            (T, I); a step's column (I, 1) where there is no output layer.
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
        return project(run.y, self.W_ho, self.b_o).transpose(0, 2, 1), _with_first(state[0], run.y)


def _elman(ih: Array, hh: Array, b: Array) -> Weights:
    ih, hh, b = (np.array(array, np.float64, order="C") for array in (ih, hh, b))
    return Weights(ih, hh, b.ravel(), np.zeros(b.size))


class LSTM:
    """A long short-term memory cell that takes a step; see `initialize_lstm_parameters` for the equations.

    Parameters
    ----------
    input_size, hidden_size
        I and H.

    Attributes
    ----------
    Wf, Wi, Wc, Wo
        (H, H + I), on the stacked column [h; x].
    bf, bi, bc, bo
        (H, 1).

    Examples
    --------
    >>> import numpy as np
    >>> h, c = LSTM(3, 5).forward(np.ones((3, 1)), np.zeros((5, 1)), np.zeros((5, 1)))
    >>> h.shape, c.shape
    ((5, 1), (5, 1))
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size = check_positive("input_size", input_size)
        self.hidden_size = check_positive("hidden_size", hidden_size)
        self.Wf, self.Wi, self.Wc, self.Wo = (_draw(hidden_size, hidden_size + input_size) for _ in range(4))
        self.bf, self.bi, self.bc, self.bo = (np.zeros((hidden_size, 1)) for _ in range(4))

    def forward(self, input: Any, h_prev: Any, c_prev: Any) -> tuple[Array, Array]:
        """Take a step.

        Parameters
        ----------
        input
            (I, 1).
        h_prev, c_prev
            (H, 1), the states before.

        Returns
        -------
        tuple
            h and c, (H, 1) each.

        Raises
        ------
        ValueError
            If a shape does not fit.
        """
        weights = stack_gates((self.Wi, self.Wf, self.Wc, self.Wo), (self.bi, self.bf, self.bc, self.bo))
        state = state_rows("h_prev", h_prev, self.hidden_size, 1), state_rows("c_prev", c_prev, self.hidden_size, 1)
        run = Run("lstm", step_rows("input", input, self.input_size, 1), state, weights)
        return run.y[0].T.copy(), run.gates()["c"][0].T


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
    >>> hidden_states.shape, cell_states.shape, len(all_gates), list(all_gates[0])
    ((8, 5, 1), (8, 5, 1), 7, ['forget', 'input', 'cell', 'output'])
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size = check_positive("input_size", input_size)
        self.hidden_size = check_positive("hidden_size", hidden_size)
        self.W_f, self.W_i, self.W_C, self.W_o = (_draw(hidden_size, hidden_size + input_size) for _ in range(4))
        self.b_f, self.b_i, self.b_C, self.b_o = (np.zeros((hidden_size, 1)) for _ in range(4))

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
        hidden_states, cell_states, (gates,) = self._run(step_rows("x_t", x_t, self.input_size, 1), h_prev, C_prev)
        return hidden_states[1], cell_states[1], gates

    def forward(self, X: Any) -> tuple[Array, Array, list[dict[str, Array]]]:
        """Run over a sequence from zero states.

        Parameters
        ----------
        X
            (T, I).

        Returns
        -------
        tuple
            The hidden states and the cell states, (T+1, H, 1) each, the initial one first, and the list of each step's
            gates; see `forward_step`.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        zero = np.zeros((self.hidden_size, 1))
        return self._run(_sequence(X, self.input_size), zero, zero)

    def _run(self, x: Array, h_0: Any, c_0: Any) -> tuple[Array, Array, list[dict[str, Array]]]:
        weights = stack_gates((self.W_i, self.W_f, self.W_C, self.W_o), (self.b_i, self.b_f, self.b_C, self.b_o))
        state = state_rows("h_prev", h_0, self.hidden_size, 1), state_rows("C_prev", c_0, self.hidden_size, 1)
        run = Run("lstm", x, state, weights)
        inside = run.gates()
        names = {"forget": "f", "input": "i", "cell": "g", "output": "o"}
        all_gates = [{name: inside[gate][t].T for name, gate in names.items()} for t in range(len(x))]
        return _with_first(state[0], run.y), _with_first(state[1], inside["c"]), all_gates
