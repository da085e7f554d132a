"""Characters and words of any text.

Two GRUs and an LSTM read the same text: its characters, lower-cased; its letters and blanks alone; its words. Each
writes before and after training. The picture has their held-out losses in one unit, bits per character: a word's bits
are divided by its mean length, the blank included. That flatters the words, as all unknown ones are the same to them.
Without a text of yours, it is the reference of the Python language that every Python brings along.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

from fastrnn.demos import Report
from fastrnn.training import Evaluation, Settings, Trainer, generate_text
from fastrnn.training.plots import COLOURS, new_figure, plot_hidden, save_figure

__all__ = ["run"]

CHARACTERS = Settings(
    lower=True,
    cell="gru",
    hidden_size=400,
    seq_length=150,
    batch_size=8,
    steps=600,
    learning_rate=0.003,
    schedule="cosine",
    evaluate_every=100,
)
RUNS = {
    "characters, lower case": CHARACTERS,
    "letters and blanks": replace(CHARACTERS, letters_only=True),
    "words": Settings(
        level="word", hidden_size=200, seq_length=35, steps=250, dropout=0.2, schedule="cosine", evaluate_every=50
    ),
}


def run(out: Path, *, seed: int = 0, say: Callable[[str], None] = print, text: str | None = None) -> Report:
    """Train all three on `text`, have them write, and draw their losses and a hidden state."""
    text = text or "\n\n".join(topics[name] for name in random.Random(0).sample(sorted(topics), len(topics)))
    figures: dict[str, float | str] = {"characters of the text": f"{len(text):,}"}
    figure, ((axes,),) = new_figure()
    trainers = {name: Trainer(text, replace(settings, seed=seed)) for name, settings in RUNS.items()}
    for (name, trainer), colour in zip(trainers.items(), COLOURS, strict=False):
        unit = trainer.tokenizer.unit
        length = 150 if unit == "character" else 30
        say(f"{name}: a vocabulary of {len(trainer.tokenizer):,}. Before training it writes:")
        say("    " + _write(trainer, length, seed))
        tokens = seconds = 0.0
        for record in trainer.run():
            if not isinstance(record, Evaluation):
                tokens, seconds = tokens + record.tokens, seconds + record.seconds
        best = trainer.best_evaluation
        assert best is not None
        say(f"after {trainer.step} steps, {best.bits:.2f} bits per {unit}, {tokens / seconds:,.0f} {unit}s/s:")
        say("    " + _write(trainer, length, seed))
        per_token = 1.0 if unit == "character" else len(text) / len(trainer.tokenizer.encode(text))
        axes.plot(
            [evaluation.step / trainer.total_steps for evaluation in trainer.evaluations],
            [evaluation.bits / per_token for evaluation in trainer.evaluations],
            "o-",
            color=colour,
            label=name,
        )
        figures[f"{name}: held out, bits per {unit}"] = best.bits
        figures[f"{name}: {unit}s/s"] = tokens / seconds
    axes.set(xlabel="share of the training done", ylabel="held-out loss (bits per character)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    pictures = [out / "losses.png", out / "hidden.png"]
    save_figure(pictures[0], figure)
    characters = next(iter(trainers.values()))
    prompt = _write(characters, 60, seed)
    inside = characters.model.trace(characters.tokenizer.encode(prompt)[:, None])
    plot_hidden(
        pictures[1],
        {"h": inside["h_l0"][:, 0, :40]},
        list(prompt),
        title="The first 40 of 400 units, over a text that the model wrote",
    )
    return Report(figures, pictures)


def _write(trainer: Trainer, length: int, seed: int) -> str:
    return generate_text(trainer.model, trainer.tokenizer, "", length, 0.7, seed).replace("\n", " ").strip()
