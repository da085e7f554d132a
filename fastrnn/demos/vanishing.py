"""How far back the gradient reaches: its norm against the time step, RNN beside LSTM.

The loss looks at the last output alone, and the gradient with respect to h_t tells how much the state after step t
matters to it. In an RNN it is multiplied by W_hh^T and a derivative of tanh, which is below 1, at every step back
(Bengio et al., 1994); in an LSTM c_t reaches c_{t-1} through the forget gate alone, and a bias on that gate keeps it
open (Gers et al., 2000).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastrnn
from fastrnn.demos import Report
from fastrnn.parameters import Array
from fastrnn.training.plots import COLOURS, new_figure, save_figure

__all__ = ["gradient_norms", "run"]

STEPS, SEQUENCES, HIDDEN = 100, 32, 64


def gradient_norms(module: fastrnn.LSTM | fastrnn.RNN, x: Array) -> Array:
    """Return the norm of the gradient of sum(y_T) / N with respect to the state after every step but the last.

    Parameters
    ----------
    module
        One layer, one direction.
    x
        (T, N, I).

    Returns
    -------
    ndarray
        (T - 1,), the Euclidean norm over the units of h and, for an LSTM, c, mean over the sequences.
    """
    lstm = isinstance(module, fastrnn.LSTM)
    tapes, state = [], None
    for x_t in x:
        y, state, tape = module.forward(x_t[None], state)
        tapes.append(tape)
    dy, dstate = np.full_like(y, 1 / len(y[0])), None
    norms = []
    for tape in reversed(tapes[1:]):  # the gradient of a step's initial state is that of the state before it
        _, dstate, _ = module.backward(tape, dy, dstate)
        parts = dstate if lstm else (dstate,)
        norms.append(np.sqrt(sum((part**2).sum(-1) for part in parts)).mean() * len(y[0]))
        dy = np.zeros_like(dy)
    return np.array(norms[::-1], np.float64)


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> Report:
    """Draw the norms for freshly initialised networks of 64 units and 100 steps."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((STEPS, SEQUENCES, HIDDEN))
    rnn = fastrnn.RNN(HIDDEN, HIDDEN, dtype="float64", seed=seed)
    lstm = fastrnn.LSTM(HIDDEN, HIDDEN, dtype="float64", seed=seed)
    open_lstm = fastrnn.LSTM(HIDDEN, HIDDEN, dtype="float64", seed=seed)
    open_lstm.parameters["bias_ih_l0"][HIDDEN : 2 * HIDDEN] += 3.0  # gates i, f, g, o
    curves = {"RNN": gradient_norms(rnn, x), "LSTM": gradient_norms(lstm, x)}
    curves["LSTM, forget gate's bias + 3"] = gradient_norms(open_lstm, x)

    figure, ((axes,),) = new_figure()
    steps = np.arange(1, STEPS)
    for (name, norms), colour in zip(curves.items(), COLOURS, strict=False):
        axes.semilogy(steps, norms, color=colour, label=name)
    axes.set(
        title=f"How far back the gradient of a loss after step {STEPS} reaches",
        xlabel="time step t",
        ylabel="norm of the gradient with respect to the state after t",
        xlim=(1, STEPS),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    picture = out / "vanishing.png"
    save_figure(picture, figure)
    return Report(
        {f"{name}: norm 50 steps back, of that 1 step back": norms[-50] / norms[-1] for name, norms in curves.items()},
        [picture],
    )
