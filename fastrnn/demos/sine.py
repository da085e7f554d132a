"""The next value of noisy sine waves.

Two layers of LSTM see a wave of unknown frequency and phase, value by value, and predict the next one. The noise of the
next value cannot be predicted: its variance is the least mean squared error there is. If torch is installed, its LSTM
is trained beside ours, from the same initial parameters, on the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn
from fastrnn.demos import Report
from fastrnn.parameters import Array
from fastrnn.training import Adam, Linear, Sequential, mse
from fastrnn.training.plots import BLUE, COLOURS, ORANGE, new_figure, save_figure

__all__ = ["generate_sine_data", "make_model", "run", "train", "train_torch"]

STEPS, TRAIN, TEST, NOISE = 50, 800, 200, 0.05
HIDDEN, LAYERS = 32, 2
EPOCHS, BATCH, LEARNING_RATE = 50, 32, 0.001


def generate_sine_data(seq_len: int, n: int, *, noise: float = NOISE, seed: Any = 0) -> tuple[Array, Array]:
    """Return n sine waves (T, N, 1) of T = `seq_len` steps, float32, and the value that follows each of theirs.

    Parameters
    ----------
    seq_len, n
        T and N.
    noise
        The standard deviation of normal noise on every value.
    seed
        Anything `numpy.random.default_rng` takes. Periods are of 12 to 60 steps, phases any, amplitudes 1.

    Examples
    --------
    >>> inputs, targets = generate_sine_data(50, 3)
    >>> inputs.shape, bool((inputs[1:] == targets[:-1]).all())
    ((50, 3, 1), True)
    """
    rng = np.random.default_rng(seed)
    frequency, phase = rng.uniform(1 / 60, 1 / 12, n), rng.uniform(0, 1, n)
    waves = np.sin(2 * np.pi * (np.arange(seq_len + 1)[:, None] * frequency + phase))
    waves = (waves + rng.normal(0, noise, waves.shape)).astype(np.float32)[..., None]
    return waves[:-1], waves[1:]


def make_model(seed: Any = 0) -> Sequential:
    """Return the untrained model; its parameters have the names of those that `train_torch` uses."""
    rng = np.random.default_rng(seed)
    return Sequential({"lstm": fastrnn.LSTM(1, HIDDEN, LAYERS, seed=rng), "head": Linear(HIDDEN, 1, seed=rng)})


def batches(n: int, epochs: int, seed: Any) -> Iterator[list[Array]]:
    """Return for each epoch the indices of its batches."""
    rng = np.random.default_rng(seed)
    cuts = range(BATCH, n, BATCH)
    return (np.split(rng.permutation(n), cuts) for _ in range(epochs))


def train(
    model: Sequential, data: tuple[Array, Array], test: tuple[Array, Array], *, epochs: int = EPOCHS, seed: Any = 0
) -> Iterator[tuple[float, float]]:
    """Train with Adam, and yield each epoch's mean squared errors: the mean over its batches, and that of the test."""
    optimizer = Adam(model.parameters, LEARNING_RATE)
    for chosen in batches(data[0].shape[1], epochs, seed):
        losses = []
        for rows in chosen:
            y, tape = model.forward(data[0][:, rows])
            loss, dy = mse(y, data[1][:, rows])
            _, grads = model.backward(tape, dy)
            optimizer.step(grads)
            losses.append(loss)
        yield float(np.mean(losses)), mse(model(test[0]), test[1])[0]


def train_torch(
    state_dict: dict[str, Array],
    data: tuple[Array, Array],
    test: tuple[Array, Array],
    *,
    epochs: int = EPOCHS,
    seed: Any = 0,
) -> list[float]:
    """Do in torch what `train` does, from the parameters of its model on; return the test loss of each epoch."""
    import torch

    model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(1, HIDDEN, LAYERS), "head": torch.nn.Linear(HIDDEN, 1)})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state_dict.items()})
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    x, targets, x_test, targets_test = map(torch.from_numpy, (*data, *test))

    def loss_of(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(model["head"](model["lstm"](x)[0]), targets)

    threads, losses = torch.get_num_threads(), []
    torch.set_num_threads(1)  # several would wait for each other more than they compute
    for chosen in batches(x.shape[1], epochs, seed):
        for rows in chosen:
            optimizer.zero_grad()
            loss_of(x[:, rows], targets[:, rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            losses.append(loss_of(x_test, targets_test).item())
    torch.set_num_threads(threads)
    return losses


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> Report:
    """Train on 800 waves, test on 200 others, and draw losses, predictions, one wave in detail and the errors."""
    seeds = np.random.SeedSequence(seed).spawn(4)
    data, test = generate_sine_data(STEPS, TRAIN, seed=seeds[0]), generate_sine_data(STEPS, TEST, seed=seeds[1])
    model = make_model(seeds[2])
    start = model.state_dict()
    curves = []
    for epoch, losses in enumerate(train(model, data, test, epochs=EPOCHS, seed=seeds[3]), 1):
        curves.append(losses)
        if epoch % 10 == 0:
            say(f"epoch {epoch}: mean squared error {losses[0]:.5f} in training, {losses[1]:.5f} in test")
    figures: dict[str, float | str] = {"test mean squared error": curves[-1][1]}
    of_torch = None
    if find_spec("torch"):
        say("torch, from the same parameters on the same batches ...")
        of_torch = train_torch(start, data, test, epochs=EPOCHS, seed=seeds[3])
        figures["the same in torch"] = of_torch[-1]
    figures["variance of the noise, the least there is"] = NOISE**2

    y = model(test[0])
    picture = out / "sine.png"
    plot(picture, np.array(curves), of_torch, test, y)
    return Report(figures, [picture])


def plot(path: Path, curves: Array, of_torch: list[float] | None, test: tuple[Array, Array], y: Array) -> None:
    """Draw the four plots: losses (epochs, 2), predictions y (T, N, 1), one wave in detail, errors."""
    figure, ((losses, predictions), (detail, histogram)) = new_figure(2, 2, size=(12, 8))
    epochs, steps = np.arange(1, len(curves) + 1), np.arange(1, STEPS + 1)
    inputs, targets = test
    losses.semilogy(epochs, curves[:, 0], color=BLUE, label="training")
    losses.semilogy(epochs, curves[:, 1], color=ORANGE, label="test")
    if of_torch is not None:
        losses.semilogy(epochs, of_torch, ":", color="black", linewidth=2, label="test, torch")
    losses.axhline(NOISE**2, color="#999999", linewidth=0.8, label="variance of the noise")
    losses.set(title="Loss", xlabel="epoch", ylabel="mean squared error")
    losses.legend()

    for k, colour in enumerate(COLOURS[:3]):
        predictions.plot(steps, targets[:, k, 0], ".", color=colour, markersize=4)
        predictions.plot(steps, y[:, k, 0], color=colour, linewidth=1.2)
    predictions.set(title="Next values of three test waves (dots) and predictions (lines)")
    predictions.set(xlabel="time step", ylabel="value")

    detail.plot(steps, inputs[:, 3, 0], "o", color="#999999", markersize=3, label="input")
    detail.plot(steps, targets[:, 3, 0], color=BLUE, label="next value")
    detail.plot(steps, y[:, 3, 0], "--", color=ORANGE, label="prediction")
    detail.set(title="One test wave in detail", xlabel="time step", ylabel="value")
    detail.legend()

    errors = (y - targets).ravel()
    histogram.hist(errors, bins=80, density=True, color=BLUE)
    spread = np.linspace(-4 * NOISE, 4 * NOISE, 200)
    density = np.exp(-0.5 * (spread / NOISE) ** 2) / (NOISE * np.sqrt(2 * np.pi))
    histogram.plot(spread, density, color="black", linewidth=1, label="density of the noise")
    histogram.set(title="Errors over all test waves and steps", xlabel="prediction - next value", ylabel="density")
    histogram.legend()
    for axes in (losses, predictions, detail, histogram):
        axes.grid(alpha=0.3)
    save_figure(path, figure)
