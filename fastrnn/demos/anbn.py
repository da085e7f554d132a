"""Counting: sequences a^n b^n and an end, learned by RNN, LSTM and GRU, and by torch's LSTM beside them.

How many a's there will be is chance, so no network can predict the first b: with n uniform in 1..11 a sequence costs
log 11 nats on average. The other b's and the end follow from what was read, and cost a network that counts nothing. Of
the sequences at hand some n are more frequent than others: the entropy of these frequencies is what each set costs at
least, the lines at the bottom of the picture. RNN and GRU learn the numbers that they are shown; the LSTM counts on, in
the units of its cell state.

With the large learning rates of this recipe the last bits of sums decide what a network ends at, and they depend on the
processor's instruction set and on torch's version. From the same seed torch ended at 0.1737 on one machine and at
0.1771 on another, and our LSTM counted up to 60 and to 44.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastrnn
from fastrnn.demos import Report
from fastrnn.parameters import Array
from fastrnn.scratch.anbn import WORD_TO_IDX, Dataset, create_datasets, generate_dataset
from fastrnn.training import Adam, Linear, Sequential, clip_global_norm, cross_entropy, pad
from fastrnn.training.plots import COLOURS, draw_units, new_figure, save_figure

__all__ = ["count", "run"]

V = len(WORD_TO_IDX)
HIDDEN, BATCH, CLIP, PADDING = 50, 32, 0.25, -1
LONGEST = 60  # the largest n that counting is tried with
NETWORKS: dict[str, tuple[Any, int, float]] = {  # class, epochs, learning rate
    "RNN": (fastrnn.RNN, 1000, 0.003),
    "GRU": (fastrnn.GRU, 200, 0.01),
    "LSTM": (fastrnn.LSTM, 200, 0.1),
}


class Batch(NamedTuple):
    """Sequences as a network reads them."""

    inputs: Array  # (T, N)
    targets: Array  # (T, N), the tokens that come next, PADDING after a sequence's end
    lengths: Array  # (N,)


class Learner(NamedTuple):
    """A network in training."""

    step: Callable[[Batch], float]  # one update; returns the mean loss before it
    evaluate: Callable[[Batch], float]


def count(model: Sequential, n: int) -> int:
    """Return how many b's the model writes, always the likeliest token, after n a's and a b, that one included.

    -1 stands for a model that writes something else, or finds no end.
    """
    tokens = [WORD_TO_IDX["a"]] * n + [WORD_TO_IDX["b"]]
    for b in range(1, 2 * n + 10):
        likeliest = int(model(np.array(tokens)[:, None])[-1, 0].argmax())
        if likeliest != WORD_TO_IDX["b"]:
            return b if likeliest == WORD_TO_IDX["EOS"] else -1
        tokens.append(likeliest)
    return -1


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> Report:
    """Train all of them on the same 256 sequences, draw their losses, and let them count."""
    training, validation, _ = create_datasets(generate_dataset(seed=seed))
    held_out = _batch(validation, range(len(validation)))
    bound = math.log(11) * len(validation) / int(held_out.lengths.sum())
    floors = {"training": _floor(_batch(training, range(len(training)))), "validation": _floor(held_out)}
    figures: dict[str, float | str] = {"validation loss that chance leaves on average, nats per token": bound}

    figure, ((axes,),) = new_figure(size=(9, 5))
    for (name, (kind, epochs, learning_rate)), colour in zip(NETWORKS.items(), COLOURS, strict=False):
        rng = np.random.default_rng(seed)
        model = Sequential({"rnn": kind(V, HIDDEN, seed=rng), "head": Linear(HIDDEN, V, seed=rng)})
        initial = model.state_dict()
        losses, seconds = _train(_learner(model, learning_rate), training, held_out, epochs, seed)
        _draw(axes, losses, name, colour)
        right = next(n for n in range(1, LONGEST + 2) if n > LONGEST or count(model, n) != n) - 1
        figures[f"{name}: validation loss, nats per token"] = losses[-1, 1]
        figures[f"{name}: counts right up to n, having been shown 11"] = right
        say(f"{name}: {epochs} epochs in {seconds:.1f} s, validation loss {losses[-1, 1]:.4f}, counts up to {right}")
    if find_spec("torch") is None:
        say("torch is not installed; its LSTM is left out")
    else:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # several would wait for each other more than they compute
        losses, torch_seconds = _train(_torch_learner(initial, learning_rate), training, held_out, epochs, seed)
        torch.set_num_threads(threads)
        _draw(axes, losses, "torch.nn.LSTM", COLOURS[3])
        figures["torch's LSTM, same initial weights: validation loss"] = losses[-1, 1]
        figures["torch's LSTM: its time over ours"] = torch_seconds / seconds
        say(f"torch: {epochs} epochs in {torch_seconds:.1f} s, validation loss {losses[-1, 1]:.4f}")
    for (name, floor), style in zip(floors.items(), ("-", "--"), strict=True):
        figures[f"least loss there is in {name}, nats per token"] = floor
        axes.axhline(floor, color="black", linestyle=style, linewidth=0.8, zorder=0, label=f"least there is, {name}")
    axes.set(title="Learning $a^n b^n$", xlabel="epoch", ylabel="loss (nats per token)", xscale="log", ylim=(0, 1.2))
    axes.grid(alpha=0.3)
    axes.legend(ncols=2)
    pictures = [out / "losses.png", out / "counter.png"]
    save_figure(pictures[0], figure)
    _draw_counter(pictures[1], model)
    return Report(figures, pictures)


def _batch(dataset: Dataset, which: Iterable[int]) -> Batch:
    pairs = [[[WORD_TO_IDX[word] for word in words] for words in dataset[k]] for k in which]
    inputs, lengths = pad([pair[0] for pair in pairs])
    targets, _ = pad([pair[1] for pair in pairs], PADDING)
    return Batch(inputs, targets, lengths)


def _floor(batch: Batch) -> float:
    """Return the least mean loss of a set: the entropy of how often each length occurs in it, in nats per token."""
    _, counts = np.unique(batch.lengths, return_counts=True)
    shares = counts / counts.sum()
    return float(-(counts * np.log(shares)).sum() / batch.lengths.sum())


def _learner(model: Sequential, learning_rate: float) -> Learner:
    optimizer = Adam(model.parameters, learning_rate)

    def step(batch: Batch) -> float:
        logits, tape = model.forward(batch.inputs, batch.lengths)
        loss, dlogits = cross_entropy(logits, batch.targets, ignore_index=PADDING)
        _, grads = model.backward(tape, dlogits)
        clip_global_norm(grads, CLIP)
        optimizer.step(grads)
        return loss

    def evaluate(batch: Batch) -> float:
        return cross_entropy(model(batch.inputs, batch.lengths), batch.targets, ignore_index=PADDING)[0]

    return Learner(step, evaluate)


def _torch_learner(initial: dict[str, Array], learning_rate: float) -> Learner:
    """The LSTM in torch, from the same initial parameters; it reads the padding, which comes after all targets."""
    import torch

    lstm, head = torch.nn.LSTM(V, HIDDEN), torch.nn.Linear(HIDDEN, V)
    model = torch.nn.ModuleDict({"rnn": lstm, "head": head})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in initial.items()})
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    one_hot = torch.eye(V)

    def loss_of(batch: Batch) -> torch.Tensor:
        logits = head(lstm(one_hot[torch.from_numpy(batch.inputs)])[0])
        targets = torch.from_numpy(batch.targets.astype(np.int64))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    def evaluate(batch: Batch) -> float:
        with torch.no_grad():
            return loss_of(batch).item()

    return Learner(step, evaluate)


def _train(learner: Learner, training: Dataset, held_out: Batch, epochs: int, seed: int) -> tuple[Array, float]:
    """Return the losses in training and on what is held out, (epochs, 2), and the seconds that the updates took."""
    rng, losses, seconds = np.random.default_rng(seed), np.empty((epochs, 2)), 0.0
    for epoch in range(epochs):
        order = rng.permutation(len(training))
        batches = [_batch(training, order[first : first + BATCH]) for first in range(0, len(order), BATCH)]
        started = time.perf_counter()
        found = [learner.step(batch) for batch in batches]
        seconds += time.perf_counter() - started
        losses[epoch] = (
            np.average(found, weights=[batch.lengths.sum() for batch in batches]),
            learner.evaluate(held_out),
        )
    return losses, seconds


def _draw(axes: Any, losses: Array, name: str, colour: str) -> None:
    epochs = np.arange(1, len(losses) + 1)
    below = {"linewidth": 3, "alpha": 0.5, "zorder": 1} if name.startswith("torch") else {"linewidth": 1, "zorder": 2}
    axes.plot(epochs, losses[:, 0], color=colour, label=f"{name}, training", **below)
    axes.plot(epochs, losses[:, 1], color=colour, linestyle="--", label=f"{name}, validation", **below)


def _draw_counter(path: Path, model: Sequential) -> None:
    """Draw the cell state while the LSTM reads a^15 b^15: some units climb with the a's and come down with the b's."""
    text = "a" * 15 + "b" * 15
    lstm = model.layers["rnn"]
    inside = lstm.trace(np.array([WORD_TO_IDX[token] for token in text])[:, None])
    figure, ((axes,),) = new_figure(size=(9, 4.5))
    draw_units(axes, inside["c_l0"][:, 0], list(text), name="c")
    save_figure(path, figure)
