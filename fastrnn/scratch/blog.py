"""The classes of a blog on a^n b^n: an RNN and an LSTM that take a step, and the tokens' indices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastrnn.checks import Array, check_iterable, check_positive, shown
from fastrnn.scratch import course
from fastrnn.scratch.columns import state_rows, step_rows
from fastrnn.scratch.course import draw
from fastrnn.scratch.lstm import stack_gates
from fastrnn.scratch.sequence import Run

__all__ = ["LSTM", "SimpleRNN", "encode"]

TOKENS = {"a": 0, "b": 1, "EOS": 2}


def encode(sequence: Iterable[str]) -> Array:
    """Return the indices of tokens of a^n b^n as an array (T,): a 0, b 1, EOS 2.

    Raises
    ------
    ValueError
        If a token is another one.

    Examples
    --------
    >>> encode(["a", "b", "EOS"])
    array([0, 1, 2])
    """
    tokens = check_iterable("sequence", sequence, "tokens")
    unknown = [token for token in tokens if not isinstance(token, str) or token not in TOKENS]
    if unknown:
        raise ValueError(f"sequence holds {shown(unknown[0])}; expected {', '.join(TOKENS)}")
    return np.array([TOKENS[token] for token in tokens], np.intp)


class SimpleRNN(course.SimpleRNN):
    """An Elman RNN that takes a step, h_t = tanh(Wxh x_t + Whh h_{t-1} + bh).

    Parameters
    ----------
    input_size, hidden_size
        I and H.

    Attributes
    ----------
    Wxh, Whh, bh
        (H, I) and (H, H), drawn from N(0, 1) by NumPy's global generator, and (H, 1), zero.

    Examples
    --------
    >>> import numpy as np
    >>> SimpleRNN(3, 5).forward(np.ones((3, 1)), np.zeros((5, 1))).shape
    (5, 1)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)


class LSTM:
    """A long short-term memory cell that takes a step; see `fastrnn.scratch.initialize_lstm_parameters`.

    Parameters
    ----------
    input_size, hidden_size
        I and H.

    Attributes
    ----------
    Wf, Wi, Wc, Wo
        (H, H + I), on the stacked column [h; x], drawn from N(0, 0.01^2) by NumPy's global generator.
    bf, bi, bc, bo
        (H, 1), zero.

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
        self.Wf, self.Wi, self.Wc, self.Wo = (draw(hidden_size, hidden_size + input_size) for _ in range(4))
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
