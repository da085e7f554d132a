"""Sentences of different lengths, good or bad.

Half of the words are good and half are bad, and most of a sentence's words decide. Many to one: an embedding, an LSTM,
and its state after the last word of each sentence. The sentences are padded to one length, and the lengths say where
each ends, so that nothing of the padding reaches the state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn
from fastrnn.demos import Report
from fastrnn.parameters import Array
from fastrnn.training import (
    Adam,
    Embedding,
    Last,
    Linear,
    Sequential,
    WordTokenizer,
    bce_with_logits,
    pad,
)
from fastrnn.training.plots import BLUE, ORANGE, new_figure, save_figure

__all__ = ["UNSEEN", "generate_sentences", "run", "to_batch"]

GOOD = ("good", "great", "excellent", "wonderful", "brilliant", "lovely", "superb", "charming", "touching", "funny")
BAD = ("bad", "awful", "terrible", "boring", "dreadful", "poor", "dull", "clumsy", "annoying", "tedious")
UNSEEN = {
    "wonderful superb dull": True,
    "boring great dreadful funny lovely": True,
    "tedious charming dull": False,
    "good brilliant awful clumsy poor": False,
}
LENGTHS, MAX_LENGTH = (1, 3, 5), 10
EMBEDDING, HIDDEN = 16, 32
TRAIN, TEST, EPOCHS, BATCH, LEARNING_RATE = 1000, 200, 20, 32, 0.01


def generate_sentences(n: int, *, seed: Any = 0) -> tuple[list[str], Array]:
    """Return n sentences of one, three or five words, none of them in `UNSEEN`, and whether most words are good.

    Examples
    --------
    >>> sentences, good = generate_sentences(3)
    >>> sentences
    ['terrible bad lovely superb good', 'good', 'dull']
    >>> good
    array([ True,  True, False])
    """
    rng = np.random.default_rng(seed)
    words = np.array(GOOD + BAD)
    sentences: list[str] = []
    labels: list[bool] = []
    while len(sentences) < n:
        chosen = rng.integers(len(words), size=rng.choice(LENGTHS))
        sentence = " ".join(words[chosen])
        if sentence not in UNSEEN:
            sentences.append(sentence)
            labels.append(bool(np.mean(chosen < len(GOOD)) > 0.5))
    return sentences, np.array(labels)


def to_batch(tokenizer: WordTokenizer, sentences: list[str]) -> tuple[Array, Array]:
    """Return the words of the sentences, padded with the unknown word, 0, to (10, N), and their lengths (N,)."""
    tokens, lengths = pad([tokenizer.encode(sentence) for sentence in sentences])
    return np.pad(tokens, ((0, MAX_LENGTH - len(tokens)), (0, 0))), lengths


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> Report:
    """Train on 1000 sentences, test on 200 others, and follow four unseen ones word by word."""
    seeds = np.random.SeedSequence(seed).spawn(3)
    sentences, good = generate_sentences(TRAIN, seed=seeds[0])
    test_sentences, test_good = generate_sentences(TEST, seed=seeds[1])
    tokenizer = WordTokenizer(sorted(GOOD + BAD))
    rng = np.random.default_rng(seeds[2])
    model = Sequential(
        {
            "embedding": Embedding(len(tokenizer), EMBEDDING, padding_idx=0, seed=rng),
            "lstm": Last(fastrnn.LSTM(EMBEDDING, HIDDEN, seed=rng)),
            "head": Linear(HIDDEN, 1, seed=rng),
        }
    )
    optimizer = Adam(model.parameters, LEARNING_RATE)
    tokens, lengths = to_batch(tokenizer, sentences)
    targets = good[:, None].astype(np.float32)
    test_tokens, test_lengths = to_batch(tokenizer, test_sentences)
    losses, accuracies = [], []
    for epoch in range(1, EPOCHS + 1):
        for rows in np.split(rng.permutation(TRAIN), range(BATCH, TRAIN, BATCH)):
            logits, tape = model.forward(tokens[:, rows], lengths[rows])
            _, dlogits = bce_with_logits(logits, targets[rows])
            _, grads = model.backward(tape, dlogits)
            optimizer.step(grads)
        logits = model(test_tokens, test_lengths)
        losses.append(bce_with_logits(logits, test_good[:, None].astype(np.float32))[0])
        accuracies.append(float(np.mean((logits[:, 0] > 0) == test_good)))
        if epoch % 5 == 0:
            say(f"epoch {epoch}: test loss {losses[-1]:.5f}, accuracy {accuracies[-1]:.3f}")

    curves = {}
    for sentence, label in UNSEEN.items():
        words = sentence.split()
        beginnings = [" ".join(words[:n]) for n in range(1, len(words) + 1)]
        curves[sentence] = 1 / (1 + np.exp(-model(*to_batch(tokenizer, beginnings))[:, 0]))
        verdict = "good" if curves[sentence][-1] > 0.5 else "bad"
        say(f"{sentence}: {verdict} ({curves[sentence][-1]:.4f}), expected {'good' if label else 'bad'}")
    picture = out / "sentiment.png"
    plot(picture, losses, accuracies, curves)

    wider = np.pad(test_tokens, ((0, 100), (0, 0)))
    change = np.abs(model(wider, test_lengths) - logits).max()
    right = sum((curves[sentence][-1] > 0.5) == label for sentence, label in UNSEEN.items())
    figures: dict[str, float | str] = {
        "test accuracy": accuracies[-1],
        "unseen sentences, right": f"{right} of {len(UNSEEN)}",
        "largest change of a logit by 100 more steps of padding": float(change),
    }
    return Report(figures, [picture])


def plot(path: Path, losses: list[float], accuracies: list[float], curves: dict[str, Array]) -> None:
    """Draw the test loss and accuracy by epoch, and the probability of "good" after each word of the sentences."""
    figure, ((loss, accuracy), *rows) = new_figure(3, 2, size=(11, 8.5))
    epochs = np.arange(1, len(losses) + 1)
    loss.semilogy(epochs, losses, color=BLUE)
    loss.set(title="Test loss", xlabel="epoch", ylabel="binary cross-entropy (nats)")
    accuracy.plot(epochs, accuracies, color=BLUE)
    accuracy.set(title="Test accuracy", xlabel="epoch", ylabel="share that is right", ylim=(0, 1.05))
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.set_xticks(range(0, len(losses) + 1, 5))
    for axes, (sentence, probabilities) in zip(np.ravel(rows), curves.items(), strict=True):
        colours = [BLUE if p > 0.5 else ORANGE for p in probabilities]
        axes.bar(range(len(probabilities)), probabilities - 0.5, bottom=0.5, color=colours)
        axes.axhline(0.5, color="black", linewidth=0.5)
        axes.set_xticks(range(len(probabilities)), sentence.split(), rotation=15)
        axes.set(title=f"Unseen: most words are {'good' if UNSEEN[sentence] else 'bad'}", xlabel="after the word")
        axes.set(ylabel="probability of good", ylim=(-0.05, 1.05), xlim=(-0.6, max(LENGTHS) - 0.4))
    save_figure(path, figure)
