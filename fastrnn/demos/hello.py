"""The next character of a single sentence.

An RNN learns "hello world" by heart. The letter l is followed by l, o and d: what comes next it can only tell from its
hidden state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastrnn
from fastrnn.demos import Report
from fastrnn.training import Adam, CharTokenizer, Embedding, Linear, Sequential, cross_entropy
from fastrnn.training.plots import BLUE, new_figure, save_figure

__all__ = ["run"]

TEXT, EMBEDDING, HIDDEN, EPOCHS = "hello world", 16, 32, 500


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> Report:
    """Train on the sentence, and tell the character that is predicted after each of its own."""
    rng = np.random.default_rng(seed)
    tokenizer = CharTokenizer.fit(TEXT)
    model = Sequential(
        {
            "embedding": Embedding(len(tokenizer), EMBEDDING, seed=rng),
            "rnn": fastrnn.RNN(EMBEDDING, HIDDEN, batch_first=True, seed=rng),
            "head": Linear(HIDDEN, len(tokenizer), seed=rng),
        }
    )
    optimizer = Adam(model.parameters, learning_rate=0.01)
    tokens = tokenizer.encode(TEXT)[None]  # (N, T), N = 1
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    losses = []
    for epoch in range(1, EPOCHS + 1):
        logits, tape = model.forward(inputs)
        loss, dlogits = cross_entropy(logits, targets)
        _, grads = model.backward(tape, dlogits)
        optimizer.step(grads)
        losses.append(loss)
        if epoch % 100 == 0:
            say(f"epoch {epoch}: loss {loss:.5f}")

    predicted = model(inputs).argmax(axis=-1)
    say("input -> predicted (true)")
    for shown in zip(*map(tokenizer.decode, (inputs[0], predicted[0], targets[0])), strict=True):
        say("{!r} -> {!r} ({!r})".format(*shown))

    figure, ((axes,),) = new_figure()
    axes.semilogy(np.arange(1, EPOCHS + 1), losses, color=BLUE)
    axes.set(title=f'An RNN learns "{TEXT}" by heart', xlabel="epoch", ylabel="cross-entropy (nats per character)")
    axes.grid(alpha=0.3)
    picture = out / "hello.png"
    save_figure(picture, figure)
    right = np.count_nonzero(predicted == targets)
    figures: dict[str, float | str] = {
        "parameters": sum(p.size for p in model.parameters.values()),
        "loss, nats per character": losses[-1],
        "right predictions": f"{right} of {targets.size}",
    }
    return Report(figures, [picture])
