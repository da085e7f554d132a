"""What the gates of an LSTM do while it remembers.

Every input is a random value and a mark, which is 1 now and then; the target is the value that was marked last. A
network that solves this opens its input gate at the marks, lets the forget gate drop the old value there, and holds c
between them: the heat maps show it. The forget gate starts with a bias of 3, that is, open (Gers et al., 2000); from a
bias of 0 on it learns to hold only so far that the output can make up for what leaks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastrnn
from fastrnn.demos import Report
from fastrnn.parameters import Array
from fastrnn.training import Adam, Linear, Sequential, clip_global_norm, mse
from fastrnn.training.plots import draw_steps, legend_beside, new_figure, plot_gates, plot_hidden, save_figure

__all__ = ["marked_values", "run"]

STEPS, BATCH, HIDDEN, UPDATES = 40, 64, 4, 2000


def marked_values(rng: np.random.Generator, steps: int, batch: int) -> tuple[Array, Array]:
    """Return inputs (T, N, 2), values in U(-1, 1) beside marks, and targets (T, N, 1), the values marked last."""
    values = rng.uniform(-1, 1, (steps, batch))
    marks = rng.random((steps, batch)) < 0.1
    marks[0] = True
    last_mark = np.maximum.accumulate(np.where(marks, np.arange(steps)[:, None], 0))
    inputs = np.stack([values, marks], axis=-1).astype(np.float32)
    return inputs, np.take_along_axis(values, last_mark, axis=0)[..., None].astype(np.float32)


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> Report:
    """Train an LSTM of 4 units, and draw its gates and states over a sequence that it has not seen."""
    rng = np.random.default_rng(seed)
    lstm = fastrnn.LSTM(2, HIDDEN, seed=rng)
    lstm.parameters["bias_ih_l0"][HIDDEN : 2 * HIDDEN] += 3.0  # gates i, f, g, o
    model = Sequential({"lstm": lstm, "head": Linear(HIDDEN, 1, seed=rng)})
    optimizer = Adam(model.parameters, 0.01)
    for step in range(1, UPDATES + 1):
        inputs, targets = marked_values(rng, STEPS, BATCH)
        y, tape = model.forward(inputs)
        loss, dy = mse(y, targets)
        _, grads = model.backward(tape, dy)
        clip_global_norm(grads, 1.0)
        optimizer.step(grads)
        if step % 400 == 0:
            say(f"update {step}: mean squared error {loss:.5f}")

    inputs, targets = marked_values(rng, STEPS, 1000)
    y = model(inputs)
    test_loss, _ = mse(y, targets)
    labels = [f"{value:+.1f}{'*' if mark else ''}" for value, mark in inputs[:, 0].round(1) + 0.0]  # no -0.0
    inside = {name.removesuffix("_l0"): values[:, 0] for name, values in lstm.trace(inputs[:, :1]).items()}
    pictures = [out / "gates.png", out / "states.png", out / "output.png"]
    plot_gates(pictures[0], inside, labels, title="The gates of an LSTM that holds the value marked last (*)")
    plot_hidden(pictures[1], inside, labels, title="The states of an LSTM that holds the value marked last (*)")
    figure, ((axes,),) = new_figure(size=(9, 4.5))
    draw_steps(axes, {"input": inputs[:, 0, 0], "target": targets[:, 0, 0], "output": y[:, 0, 0]}, labels)
    axes.vlines(np.flatnonzero(inputs[:, 0, 1]), -1, 1, color="#999999", linestyle=":", label="mark")
    axes.set(title="The value marked last", ylabel="value")
    legend_beside(axes)
    save_figure(pictures[2], figure)
    forgetting = {
        f"forget gate, mean over units, {where}": float(inside["f"][marked].mean())
        for where, marked in (("at marks", inputs[:, 0, 1] == 1), ("between marks", inputs[:, 0, 1] == 0))
    }
    return Report({"test mean squared error": test_loss, **forgetting}, pictures)
