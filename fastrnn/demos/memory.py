"""How long cells remember: five of them on the copying and the adding problem (Hochreiter and Schmidhuber, 1997).

Copying: five symbols of eight, twenty blanks, and a mark, after which the five are to be said again. Without memory
nothing is better than a guess, log 8 nats a symbol. Adding: sixty numbers between 0 and 1, two of them marked, one in
each half; the answer is their sum. Without memory nothing is better than 1, whose mean squared error is 1/6.

RNN, LSTM and GRU are built in; LEM and minGRU are of `fastrnn.cells`, and trained in the same way. All have as many
units, the same learning rate, and at every update a batch that nobody has seen, so that the loss in training is that of
a test. minGRU's gates see the input alone: one layer of it learns to add, and is slow to learn in which order symbols
came.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn
from fastrnn.cells import lem, min_gru
from fastrnn.demos import Report
from fastrnn.parameters import Array
from fastrnn.training import Adam, Last, Linear, Sequential, clip_global_norm, cross_entropy, mse
from fastrnn.training.plots import COLOURS, new_figure, save_figure

__all__ = ["adding", "copying", "run"]

SYMBOLS, COUNT, DELAY = 8, 5, 20  # of copying
STEPS = 60  # of adding
HIDDEN, BATCH, UPDATES, LEARNING_RATE, SPAN = 64, 32, 1500, 0.005, 50
GUESSING, ANSWERING_1 = math.log(SYMBOLS), 1 / 6  # the losses of answers without memory


def copying(rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
    """Return tokens (T, N), of which SYMBOLS is the blank and SYMBOLS + 1 the mark, and the symbols (COUNT, N).

    The mark stands at the last step of the delay; the answer is due at the COUNT steps after it.
    """
    symbols = rng.integers(0, SYMBOLS, (COUNT, batch))
    tokens = np.full((COUNT + DELAY + COUNT, batch), SYMBOLS)
    tokens[:COUNT] = symbols
    tokens[COUNT + DELAY - 1] = SYMBOLS + 1
    return tokens, symbols


def adding(rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
    """Return numbers and marks (T, N, 2), and the sums (N, 1) of those that are marked."""
    numbers, marks = rng.random((STEPS, batch)), np.zeros((STEPS, batch))
    middle, every = STEPS // 2, np.arange(batch)
    marks[rng.integers(0, middle, batch), every] = 1
    marks[rng.integers(middle, STEPS, batch), every] = 1
    sums = (numbers * marks).sum(axis=0)[:, None]
    return np.stack([numbers, marks], axis=-1).astype(np.float32), sums.astype(np.float32)


def _rnn(name: str, inputs: int, rng: np.random.Generator) -> Any:
    """The recurrent layer of a name; the gate that keeps what there is begins more open than closed."""
    if name in ("LEM", "minGRU"):
        return fastrnn.Recurrent({"LEM": lem, "minGRU": min_gru}[name], inputs, HIDDEN, seed=rng)
    rnn = getattr(fastrnn, name)(inputs, HIDDEN, seed=rng)
    if name != "RNN":
        rnn.parameters["bias_ih_l0"][HIDDEN : 2 * HIDDEN] += 1.0  # f of LSTM's gates i, f, g, o, z of GRU's r, z, n
    return rnn


def learn_copying(name: str, rng: np.random.Generator) -> list[float]:
    """Train a cell to copy; return the cross-entropy of every update, in nats a symbol."""
    model = Sequential({"rnn": _rnn(name, SYMBOLS + 2, rng), "head": Linear(HIDDEN, SYMBOLS, seed=rng)})
    optimizer, losses = Adam(model.parameters, LEARNING_RATE), []
    for _ in range(UPDATES):
        tokens, symbols = copying(rng, BATCH)
        logits, tape = model.forward(tokens)
        loss, dlogits = cross_entropy(logits[-COUNT:], symbols)
        before = np.zeros_like(logits[:-COUNT])
        _, grads = model.backward(tape, np.concatenate([before, dlogits]))
        clip_global_norm(grads, 1.0)
        optimizer.step(grads)
        losses.append(loss)
    return losses


def learn_adding(name: str, rng: np.random.Generator) -> list[float]:
    """Train a cell to add; return the mean squared error of every update."""
    model = Sequential({"rnn": Last(_rnn(name, 2, rng)), "head": Linear(HIDDEN, 1, seed=rng)})
    optimizer, losses = Adam(model.parameters, LEARNING_RATE), []
    for _ in range(UPDATES):
        x, sums = adding(rng, BATCH)
        y, tape = model.forward(x)
        loss, dy = mse(y, sums)
        _, grads = model.backward(tape, dy)
        clip_global_norm(grads, 1.0)
        optimizer.step(grads)
        losses.append(loss)
    return losses


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> Report:
    """Train each cell on both problems, and draw the losses side by side."""
    figure, (panels,) = new_figure(columns=2, size=(11, 5))
    figures: dict[str, float | str] = {}
    problems = (
        ("copying", learn_copying, GUESSING, f"Copying {COUNT} symbols after {DELAY} steps", "nats a symbol"),
        ("adding", learn_adding, ANSWERING_1, f"Adding the two marked of {STEPS} numbers", "mean squared error"),
    )
    for axes, (problem, learn, without, title, unit) in zip(panels, problems, strict=True):
        for name, colour in zip(("RNN", "LSTM", "GRU", "LEM", "minGRU"), COLOURS, strict=False):
            losses = np.reshape(learn(name, np.random.default_rng(seed)), (-1, SPAN)).mean(axis=1)
            axes.plot(SPAN * np.arange(1, len(losses) + 1), losses, color=colour, label=name)
            figures[f"{problem}: {name}"] = float(losses[-1])
            say(f"{problem}: {name} ends at {losses[-1]:.4f}")
        figures[f"{problem}: without memory"] = without
        axes.axhline(without, color="black", linestyle="--", label="the best answer without memory")
        axes.set(title=title, xlabel="update", ylabel=f"{unit}, mean of {SPAN} updates", xlim=(0, UPDATES))
        axes.grid(alpha=0.3)
    panels[1].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    picture = out / "memory.png"
    save_figure(picture, figure)
    return Report(figures, [picture])
