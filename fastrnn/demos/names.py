"""Dinosaur names, one at a time and in mini-batches.

The same small LSTM learns to spell names twice: with the functions of `fastrnn.scratch`, an update after every name,
and with the training loop of `fastrnn.training`, an update after 32 names, padded, with their real lengths. The second
picture shows what the latter expects after each letter of a name.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fastrnn import scratch
from fastrnn.demos import Report
from fastrnn.parameters import Array
from fastrnn.training import Settings, Step, Trainer, dinosaur_text, generate_text
from fastrnn.training.plots import COLOURS, new_figure, save_figure

__all__ = ["run"]

HIDDEN, BATCH, EPOCHS_SINGLY, EPOCHS = 50, 32, 6, 30
LONGEST = 40  # steps that the second picture has room for
Losses = list[tuple[float, int]]  # of each update, in nats per character, and its characters


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print, text: str | None = None) -> Report:
    """Train both ways on the lines of `text`, or on the names of dinosaurs, draw the losses, and make names up."""
    text = (text or dinosaur_text()).lower()
    names = [name for name in text.split("\n") if name]

    started = time.perf_counter()
    singly, write = _one_at_a_time(names, seed)
    seconds_singly = time.perf_counter() - started
    speed_singly = sum(count for _, count in singly) / seconds_singly
    say(f"one name an update, {speed_singly:,.0f} characters/s: {', '.join(map(write, range(5)))}")

    settings = Settings(hidden_size=HIDDEN, windows="lines", batch_size=BATCH, epochs=EPOCHS, seed=seed)
    trainer = Trainer(text, settings)
    steps = [record for record in trainer.run() if isinstance(record, Step)]
    speed = sum(step.tokens for step in steps) / sum(step.seconds for step in steps)
    trainer.model.load_state_dict(trainer.best)
    made_up = [_line(trainer, seed, k) for k in range(100)]
    say(f"{BATCH} names an update, {speed:,.0f} characters/s: {', '.join(made_up[:5])}")

    pictures = [out / "losses.png", out / "expectations.png"]
    figure, ((by_characters, by_time),) = new_figure(1, 2, size=(10, 4.5))
    for label, losses, per_second, colour in (
        ("one name an update, momentum", singly, speed_singly, COLOURS[0]),
        (f"{BATCH} names an update, Adam", [(step.loss, step.tokens) for step in steps], speed, COLOURS[1]),
    ):
        read, means = _smooth(losses)
        by_characters.plot(read / 1000, means, color=colour, label=label)
        by_time.plot(read / per_second, means, color=colour)
    by_characters.set(xlabel="characters read (thousands)", ylabel="training loss (nats per character)", ylim=(1, None))
    by_characters.legend()
    by_time.set(xlabel="time (seconds)", ylim=(1, None))
    for axes in (by_characters, by_time):
        axes.grid(alpha=0.3)
    save_figure(pictures[0], figure)
    _draw_expectations(pictures[1], trainer, names[len(names) * 9 // 10])

    best = trainer.best_evaluation
    figures: dict[str, float | str] = {
        "one at a time: training loss of the last epoch, nats per character": _mean(singly[-len(names) :]),
        "in batches: held-out loss, nats per character": best.loss if best else float("nan"),
        "one at a time: characters/s": speed_singly,
        "in batches: characters/s": speed,
        "in batches: new among 100 made-up names": len(set(made_up) - set(names)),
    }
    return Report(figures, pictures)


def _one_at_a_time(names: Sequence[str], seed: int) -> tuple[Losses, Callable[[int], str]]:
    """Train with the functions of `fastrnn.scratch`; return the losses, and a function that makes up the k-th name."""
    tokenizer = scratch.CharTokenizer(oov_token=None)  # a token that never comes would still be written now and then
    tokenizer.fit("\n".join(names))
    inputs, targets = scratch.create_training_sequences_line_by_line(names, tokenizer)
    V = tokenizer.vocab_size()
    parameters = scratch.initialize_lstm_parameters(HIDDEN, V, V, seed=seed)
    optimizer = scratch.MomentumOptimizer(learning_rate=0.03, momentum=0.9)
    a0 = np.zeros((HIDDEN, 1))
    order = list(range(len(inputs)))
    losses: Losses = []
    for epoch in range(EPOCHS_SINGLY):
        random.Random(seed + epoch).shuffle(order)
        for k in order:
            a, logits, caches = scratch.lstm_forward(inputs[k], a0, parameters)
            loss, dy = scratch.compute_loss_and_grad(logits, targets[k])
            da = scratch.project_logit_grad_to_hidden(dy, parameters["Wy"])
            gradients = scratch.lstm_backwards(da, caches) | scratch.compute_output_layer_gradients(dy, a)
            parameters = optimizer.update(parameters, scratch.clip(gradients, maxValue=5))
            losses.append((loss, len(targets[k])))
    return losses, lambda k: scratch.generate_text_lstm(parameters, tokenizer, seed=seed + k).strip()


def _line(trainer: Trainer, seed: int, k: int) -> str:
    return generate_text(trainer.model, trainer.tokenizer, "", 40, 0.8, (seed, k), stop="\n").strip()


def _mean(losses: Losses) -> float:
    return float(np.average([loss for loss, _ in losses], weights=[count for _, count in losses]))


def _smooth(losses: Losses) -> tuple[Array, Array]:
    """Return the mean loss of every 3,000 characters, and how many had been read by then."""
    loss, count = np.array(losses).T
    read = np.cumsum(count)
    ends = np.searchsorted(read, np.arange(3000, read[-1], 3000)) + 1
    parts = zip([0, *ends], ends, strict=False)
    return read[ends - 1], np.array([np.average(loss[first:end], weights=count[first:end]) for first, end in parts])


def _draw_expectations(path: Path, trainer: Trainer, name: str) -> None:
    """Draw the probabilities of all characters after each letter of a name."""
    tokenizer = trainer.tokenizer
    tokens = tokenizer.encode(f"\n{name}\n")[: LONGEST + 1]
    logits = trainer.model(tokens[:-1, None])[0][:, 0]
    probabilities = scratch.softmax(logits.T.astype(np.float64))
    labels = [tokenizer.decode([token]).replace("\n", "\u21b5") for token in range(len(tokenizer))]
    read, came = ["start", *name][:LONGEST], tokens[1:]
    figure, ((axes,),) = new_figure(size=(max(6.0, 0.4 * len(read) + 2), 9))
    image = axes.imshow(probabilities, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(read)), read, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, fontsize="x-small", parse_math=False)
    axes.set_title(f"What is expected after each letter of {name}", parse_math=False)
    axes.set(xlabel="letter read", ylabel="next character")
    axes.plot(range(len(read)), came, "o", markerfacecolor="none", markeredgecolor=COLOURS[1], label="what came")
    figure.legend(loc="outside lower left")  # within the axes it would hide probabilities
    figure.colorbar(image, ax=axes, label="probability")
    save_figure(path, figure)
