"""The hidden state of an RNN as it runs.

A network of six units is trained to repeat its input three steps later. What it must keep is in its hidden state, and
the picture shows it: a line per unit, under the input and the output.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastrnn
from fastrnn.demos import Report
from fastrnn.parameters import Array
from fastrnn.training import Adam, Linear, Sequential, clip_global_norm, mse
from fastrnn.training.plots import draw_steps, draw_units, legend_beside, new_figure, save_figure

__all__ = ["delayed", "run"]

STEPS, BATCH, HIDDEN, DELAY, UPDATES = 40, 64, 6, 3, 2000


def delayed(rng: np.random.Generator, steps: int, batch: int) -> tuple[Array, Array]:
    """Return random waves (T, N, 1) and the same ones DELAY steps later, zero at first."""
    t = np.arange(steps)[:, None]
    frequency, phase = rng.uniform(0.05, 0.15, (2, batch)), rng.uniform(0, 1, (2, batch))
    waves = np.sin(2 * np.pi * (t[None] * frequency[:, None] + phase[:, None])).mean(axis=0)
    waves = (waves + rng.normal(0, 0.1, waves.shape)).astype(np.float32)[..., None]
    later = np.zeros_like(waves)
    later[DELAY:] = waves[:-DELAY]
    return waves, later


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> Report:
    """Train an RNN of six units, and draw input, output and hidden state over a sequence that it has not seen."""
    rng = np.random.default_rng(seed)
    rnn = fastrnn.RNN(1, HIDDEN, seed=rng)
    model = Sequential({"rnn": rnn, "head": Linear(HIDDEN, 1, seed=rng)})
    optimizer = Adam(model.parameters, 0.005)
    for step in range(1, UPDATES + 1):
        waves, later = delayed(rng, STEPS, BATCH)
        y, tape = model.forward(waves)
        loss, dy = mse(y, later)
        _, grads = model.backward(tape, dy)
        clip_global_norm(grads, 1.0)
        optimizer.step(grads)
        if step % 400 == 0:
            say(f"update {step}: mean squared error {loss:.5f}")

    waves, later = delayed(rng, STEPS, 1000)
    y = model(waves)
    test_loss, _ = mse(y, later)
    labels = [f"{value:+.1f}" for value in waves[:, 0, 0].round(1) + 0.0]  # no -0.0
    figure, ((above,), (below,)) = new_figure(2, size=(9, 6.5))
    draw_steps(
        above, {"input": waves[:, 0, 0], f"input {DELAY} steps ago": later[:, 0, 0], "output": y[:, 0, 0]}, labels
    )
    above.set(title=f"An RNN repeats its input after {DELAY} steps", ylabel="value")
    legend_beside(above)
    draw_units(below, rnn.trace(waves[:, :1])["h_l0"][:, 0], labels)
    picture = out / "hidden.png"
    save_figure(picture, figure)
    variance = float(later.var())
    return Report({"test mean squared error": test_loss, "variance of the targets": variance}, [picture])
