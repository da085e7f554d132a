"""What defines a training run, and what it is made of by that."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.cells import WrittenCell
from fastrnn.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_positive,
    check_positive_number,
    check_share,
    shown,
)
from fastrnn.training.batches import Lines, Spans, Windows
from fastrnn.training.cells import CELLS, check_cell_name
from fastrnn.training.model import CharModel, LanguageModel, WordModel
from fastrnn.training.optimizers import SGD, Adam, AdamW, Momentum, Optimizer, RMSProp
from fastrnn.training.schedules import ConstantRate, CosineDecay, LinearDecay, LinearWarmup, Schedule
from fastrnn.training.text import Text, TextError, split_blocks, split_tail
from fastrnn.training.tokenizers import CharTokenizer, Tokenizer, WordTokenizer

__all__ = [
    "LEVELS",
    "OPTIMIZERS",
    "OUTPUTS",
    "PRECISIONS",
    "SCHEDULES",
    "SPLITS",
    "WINDOWS",
    "Settings",
    "build_batches",
    "build_model",
    "build_schedule",
    "build_tokenizer",
]

LEVELS = ("char", "word")
WINDOWS = ("continuous", "lines")
OUTPUTS = ("auto", "full", "adaptive")
PRECISIONS = ("float32", "bfloat16")
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSProp,
    "momentum": Momentum,
    "sgd": SGD,
}
SCHEDULES = ("constant", "linear", "cosine")
SPLITS = ("end", "drawn")

# From so many words on, "auto" takes the adaptive output. There a step of training with the linear one (WordModel of
# 256 units, Adam, windows of 35 steps in 32 rows, one thread) takes 3 times as long; at 10,000 words 5 times.
ADAPTIVE_FROM = 4000

# The adaptive output is of a shortlist and two clusters of words; for the last one the units are projected to a 16th.
ADAPTIVE_WORDS, ADAPTIVE_UNITS = 3, 16


@dataclass(frozen=True)
class Settings:
    """What defines a training run: the same text and settings give the same numbers.

    Parameters
    ----------
    level
        What a token is: "char" for a `CharModel` of characters, or a `WordModel` of them with `embedding`, "word" for a
        `WordModel` of words.
    lower, letters_only
        How the text is cleaned, see `CharTokenizer`. None for `lower` means: words yes, characters no.
    max_words, min_count
        Which words the vocabulary has, see `WordTokenizer`; the others are unknown.
    windows
        "continuous" cuts the text into windows of one stream (`Windows`), "lines" into padded lines (`Lines`), each of
        which starts from a zero state.
    cell, hidden_size, num_layers, dropout
        The model. The cell is "lstm", "gru", "rnn", the name of one of `fastrnn.cells`, or one that `fastrnn.cell` has
        made, which a checkpoint does not hold: `load_model` and `Trainer.resume` must be given it again.
    precision
        What the products of the layers multiply: "float32", or "bfloat16", which "lstm", "gru" and "rnn" have.
    output
        Of a `WordModel`: "full" for a linear one, "adaptive" for an `AdaptiveSoftmax`; "auto" takes that from some
        thousand words on.
    seq_length
        T, the steps of a window, through which gradients flow back; the state is carried from window to window. Or the
        largest length of a line.
    batch_size
        N, the contiguous rows into which the text is cut, or the lines of a batch.
    steps, epochs
        How many batches to train on, or, if `epochs` is given, how often to read the whole text.
    optimizer, learning_rate
        A key of `OPTIMIZERS` and its learning rate; the default suits Adam.
    schedule, warmup
        How the learning rate changes: after `warmup` steps in which it rises along a line, "constant", or falling to
        zero until the end, along a line, "linear", or along half a "cosine".
    clip, clip_value
        The largest global norm of the gradients, and before it the largest magnitude of any element of them.
    held_out
        The fraction that is not trained on: of a stream, see `split`; or lines drawn by the seed.
    split
        What is held out of a stream: its "end", or blocks of up to some thousand tokens "drawn" by the seed.
    embedding
        Whether a character is read as a vector that is learned, as a word always is, and not one-hot; dropout is
        on the vectors, too.
    minutes
        For how long `choose_settings` chose the steps. They go by their number, whatever time they take.
    evaluate_every
        Steps between two evaluations on the held-out text. None means once per epoch, but within 50 to 250.
    patience
        Training stops after so many evaluations in a row without a new lowest held-out loss.
    seed
        Of the initial parameters, of dropout, of what is held out, and of the order in which lines come.
    """

    level: str = "char"
    lower: bool | None = None
    letters_only: bool = False
    max_words: int = 10_000
    min_count: int = 2
    windows: str = "continuous"
    cell: str | WrittenCell = "lstm"
    hidden_size: int = 128
    num_layers: int = 1
    dropout: float = 0.0
    precision: str = "float32"
    output: str = "auto"
    seq_length: int = 64
    batch_size: int = 32
    steps: int = 5000
    epochs: int | None = None
    optimizer: str = "adam"
    learning_rate: float = 0.005
    schedule: str = "constant"
    warmup: int = 0
    clip: float = 1.0
    clip_value: float = math.inf
    held_out: float = 0.1
    split: str = "end"
    embedding: bool = False
    minutes: float | None = None
    evaluate_every: int | None = None
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (
            "hidden_size",
            "num_layers",
            "seq_length",
            "batch_size",
            "steps",
            "epochs",
            "evaluate_every",
            "patience",
            "max_words",
            "min_count",
        )
        for name in counts:
            if getattr(self, name) is not None or name not in ("epochs", "evaluate_every"):
                check_positive(name, getattr(self, name))
        for name in ("warmup", "seed"):
            check_count(name, getattr(self, name))
        if self.minutes is not None:
            check_number("minutes", self.minutes, "a positive number", lambda minutes: 0 < minutes < math.inf)
        if self.lower is not None:
            check_flag("lower", self.lower)
        check_flag("letters_only", self.letters_only)
        check_flag("embedding", self.embedding)
        check_share("dropout", self.dropout)
        for name in ("clip", "clip_value"):
            check_positive_number(name, getattr(self, name))
        check_number("learning_rate", self.learning_rate, "at least 0", lambda rate: 0 <= rate < math.inf)
        check_number("held_out", self.held_out, "a number between 0 and 1", lambda share: 0 < share < 1)
        choices: dict[str, Collection[str]] = {
            "level": LEVELS,
            "windows": WINDOWS,
            "precision": PRECISIONS,
            "output": OUTPUTS,
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "split": SPLITS,
        }
        for name, among in choices.items():
            check_choice(name, getattr(self, name), among)
        object.__setattr__(self, "cell", check_cell_name(self.cell))  # one of the library goes by its name
        if self.precision != "float32" and self.cell not in CELLS:
            raise ValueError(
                f"precision is {self.precision!r}, but cell {shown(self.cell)}; expected 'float32', or one of "
                f"{', '.join(CELLS)}"
            )
        if self.level == "char" and self.output == "adaptive":
            raise ValueError("output is 'adaptive'; expected 'auto' or 'full' for characters: they are too few")
        if self.output == "adaptive" and self.hidden_size < ADAPTIVE_UNITS:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; expected at least {ADAPTIVE_UNITS} with the adaptive output"
            )


def build_tokenizer(settings: Settings, text: str | Text) -> Tokenizer:
    """Return the tokenizer of a text; TextError if no word is frequent enough."""
    words = settings.level == "word"
    lower = words if settings.lower is None else settings.lower
    by_line = settings.windows == "lines"
    if not words:
        return CharTokenizer.fit(text, lower=lower, letters_only=settings.letters_only, by_line=by_line)
    return WordTokenizer.fit(
        text,
        max_words=settings.max_words,
        min_count=settings.min_count,
        lower=lower,
        letters_only=settings.letters_only,
        by_line=by_line,
    )


def build_batches(
    settings: Settings, text: str | Text, tokenizer: Tokenizer
) -> tuple[Windows | Lines, Windows | Lines]:
    """Return what to train on and what to hold out; TextError if there is not enough of one."""
    rows, steps = settings.batch_size, settings.seq_length
    if settings.windows == "lines":
        lines = Spans.between(tokenizer.start, tokenizer.encode_compactly(text, by_line=True))
        order = np.arange(len(lines), dtype=lines.starts.dtype)
        np.random.default_rng(settings.seed).shuffle(order)  # lines are often sorted, and independent anyway
        train_lines, held_out_lines = split_tail(order, settings.held_out)
        if not (len(train_lines) and len(held_out_lines)):
            raise TextError(f"the text has {len(lines)} lines that are not empty; expected some to hold out, too")
        return Lines(lines[train_lines], rows, steps, settings.seed), Lines(lines[held_out_lines], rows, steps)

    tokens = tokenizer.encode_compactly(text)
    if settings.split == "drawn":
        end = tokenizer.start if "\n" in tokenizer.pieces else None
        train, held_out = split_blocks(tokens, settings.held_out, settings.seed, end)
    else:
        train, held_out = split_tail(tokens, settings.held_out)
    # As many rows as leave each of them 16 windows: then what a row loses by its zero initial state hardly counts.
    held_out_rows = min(rows, max(1, len(held_out) // (16 * steps)))
    part = "training"
    try:
        windows = Windows(train, rows, steps)
        part = "held-out"
        return windows, Windows(held_out, held_out_rows, steps)
    except TextError as error:
        raise TextError(f"the {part} part of the text is too short: {error}") from None


def build_model(
    settings: Settings, vocabulary_size: int, *, backend: str | None = None, num_threads: int | None = None
) -> LanguageModel:
    """Return the model with its initial parameters; TextError if the words are too few for the output."""
    model = _build(settings, vocabulary_size, backend, num_threads)
    model.rnn.precision = settings.precision
    return model


def _build(settings: Settings, vocabulary_size: int, backend: str | None, num_threads: int | None) -> LanguageModel:
    """The same in float32."""
    shape = (vocabulary_size, settings.hidden_size, settings.num_layers, settings.cell)
    options: dict[str, Any] = {
        "dropout": settings.dropout,
        "seed": settings.seed,
        "backend": backend,
        "num_threads": num_threads,
    }
    if settings.level == "char":
        return WordModel(*shape, **options) if settings.embedding else CharModel(*shape, **options)
    large = vocabulary_size >= ADAPTIVE_FROM and settings.hidden_size >= ADAPTIVE_UNITS
    adaptive = settings.output == "adaptive" or (settings.output == "auto" and large)
    if adaptive and vocabulary_size < ADAPTIVE_WORDS:
        raise TextError(
            f"the vocabulary has {vocabulary_size} words; expected {ADAPTIVE_WORDS} or more with the adaptive output"
        )
    cutoffs = [max(1, vocabulary_size // 20), max(2, vocabulary_size // 4)] if adaptive else None
    return WordModel(*shape, cutoffs=cutoffs, **options)


def build_schedule(settings: Settings, total_steps: int) -> Schedule:
    """Return what the learning rate is multiplied with, by the step alone."""
    rest = max(1, total_steps - settings.warmup)
    schedules: dict[str, Schedule] = {
        "constant": ConstantRate(),
        "linear": LinearDecay(rest),
        "cosine": CosineDecay(rest),
    }
    schedule = schedules[settings.schedule]
    return LinearWarmup(settings.warmup, 1 / settings.warmup, schedule) if settings.warmup else schedule
