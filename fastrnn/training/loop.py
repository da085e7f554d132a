"""Training a character model on a text: truncated back-propagation through time, held-out loss, resumption."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fastrnn.errors import FastrnnError
from fastrnn.parameters import check_positive
from fastrnn.training.batches import Windows
from fastrnn.training.checkpoint import (
    CheckpointError,
    Groups,
    read_checkpoint,
    usable_checkpoint,
    write_checkpoint,
)
from fastrnn.training.clipping import clip_global_norm
from fastrnn.training.losses import cross_entropy
from fastrnn.training.model import CharModel
from fastrnn.training.optimizers import SGD, Adam, Optimizer
from fastrnn.training.text import TextError, split_tail
from fastrnn.training.tokenizers import CharTokenizer

__all__ = ["OPTIMIZERS", "DivergenceError", "Evaluation", "Settings", "Step", "Trainer"]

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD}


class DivergenceError(FastrnnError):
    """The loss or its gradient is no longer a finite number."""


@dataclass(frozen=True)
class Settings:
    """What defines a training run: the same text and settings give the same numbers.

    Parameters
    ----------
    cell, hidden_size, num_layers
        The model, as for `CharModel`.
    seq_length
        T, the steps of a window, through which gradients flow back. The state is carried from window to window.
    batch_size
        N, the contiguous rows into which the text is cut.
    steps, epochs
        How many windows to train on, or, if `epochs` is given, how often to read the whole text.
    optimizer, learning_rate
        A key of `OPTIMIZERS` and its learning rate; the default suits Adam.
    clip
        The largest global norm of the gradients.
    held_out
        The fraction of the text, its end, that is not trained on.
    evaluate_every
        Steps between two evaluations on the held-out text. None means once per epoch, but within 50 to 250.
    patience
        Training stops after so many evaluations in a row without a new lowest held-out loss.
    seed
        Of the initial parameters.
    """

    cell: str = "lstm"
    hidden_size: int = 128
    num_layers: int = 1
    seq_length: int = 64
    batch_size: int = 32
    steps: int = 5000
    epochs: int | None = None
    optimizer: str = "adam"
    learning_rate: float = 0.005
    clip: float = 1.0
    held_out: float = 0.1
    evaluate_every: int | None = None
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("seq_length", "batch_size", "steps", "epochs", "evaluate_every", "patience"):
            if (value := getattr(self, name)) is not None:
                check_positive(name, value)
        if not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; expected a positive number")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; expected one of {', '.join(OPTIMIZERS)}")


class Step(NamedTuple):
    """One training step."""

    step: int  # 1 for the first
    loss: float  # nats per character, before the update
    characters: int
    seconds: float

    @property
    def bits(self) -> float:
        """The loss in bits per character."""
        return self.loss / math.log(2)


class Evaluation(NamedTuple):
    """The loss on the held-out text after a step."""

    step: int
    loss: float  # nats per character

    @property
    def bits(self) -> float:
        """The loss in bits per character."""
        return self.loss / math.log(2)


class Trainer:
    """A training run: iterate over `run`, and `save` between two of its records.

    Parameters
    ----------
    text
        To train on; its end is held out.
    settings
        See `Settings`.
    backend, num_threads
        As for `fastrnn.LSTM`.

    Attributes
    ----------
    model, tokenizer, optimizer
        What is being trained, and with what.
    best : dict
        The parameters at the lowest held-out loss so far, or the initial ones.
    losses : list of float
        One per step, in nats per character.
    evaluations : list of Evaluation

    Raises
    ------
    TextError
        If the training or the held-out part of the text is shorter than a window.
    ValueError
        If a setting is out of its range.

    Examples
    --------
    >>> trainer = Trainer("to be or not to be, " * 50, Settings(hidden_size=16, seq_length=10, batch_size=4, steps=30))
    >>> for record in trainer.run():
    ...     if isinstance(record, Evaluation):
    ...         print(record.step, record.bits < 4)
    30 True
    """

    def __init__(
        self, text: str, settings: Settings, *, backend: str | None = None, num_threads: int | None = None
    ) -> None:
        self.settings = settings
        self.tokenizer = CharTokenizer.fit(text)
        self._text_sha256 = _sha256(text)
        train, held_out = split_tail(self.tokenizer.encode(text), settings.held_out)
        # As many rows as leave each of them 16 windows: then what a row loses by its zero initial state hardly counts.
        held_out_rows = min(settings.batch_size, max(1, len(held_out) // (16 * settings.seq_length)))
        try:
            part, rows = "training", settings.batch_size
            self._train = Windows(train, rows, settings.seq_length)
            part, rows = "held-out", held_out_rows
            self._held_out = Windows(held_out, rows, settings.seq_length)
        except TextError as error:
            raise TextError(f"the {part} part of the text is too short: {error}") from None

        shape = (settings.hidden_size, settings.num_layers, settings.cell)
        self.model = CharModel(
            len(self.tokenizer), *shape, seed=settings.seed, backend=backend, num_threads=num_threads
        )
        self.optimizer = OPTIMIZERS[settings.optimizer](self.model.parameters, settings.learning_rate)
        self.best = self.model.state_dict()
        self.losses: list[float] = []
        self.evaluations: list[Evaluation] = []
        self._state: Any = None  # at the end of the last window

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    @property
    def total_steps(self) -> int:
        """The number of steps to do."""
        return self.settings.epochs * self.steps_per_epoch if self.settings.epochs else self.settings.steps

    @property
    def steps_per_epoch(self) -> int:
        """How many steps read the training text once."""
        return len(self._train)

    @property
    def evaluate_every(self) -> int:
        """Steps between two evaluations."""
        return self.settings.evaluate_every or min(max(self.steps_per_epoch, 50), 250)

    @property
    def best_evaluation(self) -> Evaluation | None:
        """The evaluation with the lowest loss, the first of equals; None before there is one."""
        return min(self.evaluations, key=lambda evaluation: evaluation.loss, default=None)

    @property
    def out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations brought no new lowest loss."""
        best = self.best_evaluation
        return best is not None and len(self.evaluations) - 1 - self.evaluations.index(best) >= self.settings.patience

    def run(self) -> Iterator[Step | Evaluation]:
        """Train to the end, yielding a record after every step and every evaluation.

        The iteration may be broken off after any record and taken up again by another call.

        Raises
        ------
        DivergenceError
            If a loss or gradient is not finite; the parameters are then those of before the step.
        """
        while True:
            if self._evaluation_due():
                yield self._evaluate()
            if self.step >= self.total_steps or self.out_of_patience:
                return
            yield self._take_step()

    def _take_step(self) -> Step:
        started = time.perf_counter()
        window = self.step % self.steps_per_epoch
        inputs, targets = self._train[window]
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows ends the run with an error of its own
            logits, state, tape = self.model.forward(inputs, self._state if window else None)
            loss, dlogits = cross_entropy(logits, targets)
            grads = self.model.backward(tape, dlogits)
            norm = clip_global_norm(grads, self.settings.clip)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergenceError(
                    f"training diverged at step {self.step + 1}: loss {loss:.4g}, gradient norm {norm:.4g}; "
                    "a lower learning rate may help"
                )
            self.optimizer.step(grads)
        self._state = state
        self.losses.append(loss)
        seconds = time.perf_counter() - started
        return Step(self.step, loss, targets.size, seconds)

    def _evaluation_due(self) -> bool:
        done = bool(self.evaluations) and self.evaluations[-1].step == self.step
        on_schedule = self.step % self.evaluate_every == 0 or self.step >= self.total_steps
        return self.step > 0 and on_schedule and not done

    def _evaluate(self) -> Evaluation:
        total, characters, state = 0.0, 0, None
        with np.errstate(over="ignore", invalid="ignore"):
            for inputs, targets in self._held_out:
                logits, state = self.model(inputs, state)
                total += cross_entropy(logits, targets)[0] * targets.size
                characters += targets.size
        evaluation = Evaluation(self.step, total / characters)
        if not math.isfinite(evaluation.loss):
            raise DivergenceError(f"training diverged: held-out loss {evaluation.loss:.4g} after step {self.step}")
        self.evaluations.append(evaluation)
        if self.best_evaluation is evaluation:
            self.best = self.model.state_dict()
        return evaluation

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint, atomically; OSError if that fails, and an older one is kept."""
        states = () if self._state is None else self._state if isinstance(self._state, tuple) else (self._state,)
        groups = {
            "model": self.model.parameters,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "carried": dict(zip("hc", states, strict=False)),
            "history": {
                "loss": np.array(self.losses, np.float64),
                "evaluated_after": np.array([e.step for e in self.evaluations], np.int64),
                "held_out_loss": np.array([e.loss for e in self.evaluations], np.float64),
            },
        }
        metadata = {
            "settings": asdict(self.settings),
            "characters": self.tokenizer.characters,
            "text_sha256": self._text_sha256,
        }
        write_checkpoint(path, groups, metadata)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        text: str,
        *,
        backend: str | None = None,
        num_threads: int | None = None,
        **changes: Any,
    ) -> Trainer:
        """Return the run that `save` wrote, to go on with the same numbers as if it had not been broken off.

        Parameters
        ----------
        path
            The checkpoint.
        text
            The text of the run; only its digest is in the checkpoint.
        backend, num_threads
            As for `fastrnn.LSTM`. The numbers are the same only with the same backend.
        changes
            New values of the settings `steps`, `epochs`, `evaluate_every` and `patience`. Others may be given if they
            are those of the run.

        Raises
        ------
        OSError
            If the checkpoint cannot be read.
        CheckpointError
            If it is damaged, is not a checkpoint, or belongs to other settings.
        TextError
            If the text is another one.
        """
        groups, metadata = read_checkpoint(path)
        with usable_checkpoint(path):
            settings = Settings(**metadata["settings"])
            text_sha256 = metadata["text_sha256"]
        if text_sha256 != _sha256(text):
            raise TextError(f"{path} was trained on another text: SHA-256 {text_sha256[:12]}, not {_sha256(text)[:12]}")
        for name, value in changes.items():
            if name not in ("steps", "epochs", "evaluate_every", "patience") and value != getattr(settings, name):
                raise CheckpointError(f"{path} has {name} {getattr(settings, name)}; it cannot go on with {value}")
        settings = replace(settings, **changes)
        with usable_checkpoint(path):
            trainer = cls(text, settings, backend=backend, num_threads=num_threads)
            trainer._restore(groups)
        return trainer

    def _restore(self, groups: Groups) -> None:
        self.model.load_state_dict(groups["model"])
        self.best = dict(groups["best"])
        self.optimizer.load_state_dict(groups["optimizer"])
        history = groups["history"]
        self.losses = history["loss"].tolist()
        evaluations = zip(history["evaluated_after"].tolist(), history["held_out_loss"].tolist(), strict=True)
        self.evaluations = [Evaluation(step, loss) for step, loss in evaluations]
        carried = groups.get("carried", {})
        states = tuple(carried[name] for name in "hc" if name in carried)
        self._state = states[0] if len(states) == 1 else states or None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
