"""Training a language model on a text: truncated back-propagation through time, held-out loss, resumption."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import Any

import numpy as np

from fastrnn.backends import check_run
from fastrnn.cells import WrittenCell
from fastrnn.checks import check_instance, shown
from fastrnn.distributed.group import sum_in_order
from fastrnn.errors import FastrnnError
from fastrnn.parameters import Array
from fastrnn.training.batches import Lines
from fastrnn.training.cells import cell_name, describe_cell
from fastrnn.training.checkpoint import (
    CheckpointError,
    Groups,
    check_arrays,
    check_sizes,
    not_finite,
    read_checkpoint,
    read_settings,
    take,
    usable_checkpoint,
    write_checkpoint,
)
from fastrnn.training.running import DivergenceError, Evaluation, Gradients, Run
from fastrnn.training.settings import (
    OPTIMIZERS,
    Settings,
    build_batches,
    build_model,
    build_schedule,
    build_tokenizer,
)
from fastrnn.training.text import Text, TextError, text_pieces

__all__ = ["Trainer", "load_history"]


class Trainer(Run):
    """A training run: iterate over `run`, and `save` between two of its records.

    Parameters
    ----------
    text
        To train on; a part of it is held out, see `Settings`.
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
        One per step, in nats per token: character or word.
    evaluations : list of Evaluation
    asks_to_stop : callable
        Without arguments, asked before every step and evaluation; `run` ends where it returns True.

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
        self, text: str | Text, settings: Settings, *, backend: str | None = None, num_threads: int | None = None
    ) -> None:
        check_instance("text", text, (str, Text), "a text")
        check_instance("settings", settings, Settings, "Settings")
        check_run(backend, num_threads)
        self.settings = settings
        self.tokenizer = build_tokenizer(settings, text)
        self._text_sha256 = _sha256(text)
        self._train, self._held_out = build_batches(settings, text, self.tokenizer)
        model = build_model(settings, len(self.tokenizer), backend=backend, num_threads=num_threads)
        optimizer = OPTIMIZERS[settings.optimizer](model.parameters, settings.learning_rate)
        super().__init__(
            model, optimizer, build_schedule(settings, self.total_steps), settings.clip, settings.clip_value
        )
        self._whole: tuple[int, tuple[Array, ...]] = (-1, ())  # of a group: a step, and all processes' states after it

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
    def patience(self) -> int:
        """How many evaluations in a row without a new lowest loss end the run."""
        return self.settings.patience

    def _gradients(self) -> Gradients:
        batch = self._train.batch(self.step)
        part, _ = batch.part(*self._place)
        self._begin_sums(0 if part is None else part.size, batch.size)
        if part is None:
            return Gradients(0.0, None, 0, None, batch.size)
        self.model.seed_dropout(self._seed_of_step(self.settings.seed))
        loss, state, grads = self.model.gradients(
            part.inputs, part.targets, self._state if part.carries_on else None, part.lengths
        )
        return Gradients(loss, grads, part.size, state if part.lengths is None else None, batch.size)

    def _held_out_loss(self) -> float:
        total, tokens, state = 0.0, 0, None
        for k in range(len(self._held_out)):
            batch = self._held_out.batch(k)
            tokens += batch.size
            part, _ = batch.part(*self._place)
            if part is not None:
                loss, state = self.model.loss(
                    part.inputs, part.targets, state if part.carries_on else None, part.lengths
                )
                total += loss * part.size
        if self._group is not None:
            whole = np.array([total])
            sum_in_order(self._group, whole)
            total = float(whole[0])
        return total / tokens

    @property
    def _rows(self) -> int:
        return self.settings.batch_size

    def _identity(self) -> dict[str, Any]:
        settings = vars(self.settings) | {"cell": describe_cell(self.settings.cell)}
        return {"the text": self._text_sha256} | settings

    def _states(self) -> tuple[Array, ...]:
        """What is carried to the next window, an array for each state of the cell; nothing between lines."""
        return () if self._state is None else self._state if isinstance(self._state, tuple) else (self._state,)

    def _take_part(self) -> None:
        if states := self._states():
            _, mine = self._train.batch(self.step).part(*self._place)
            parts = tuple(np.ascontiguousarray(state[:, mine]) for state in states)
            self._state = parts if len(parts) > 1 else parts[0]

    def _bring_together(self) -> None:
        if self._group is None:
            return
        _, mine = self._train.batch(self.step).part(*self._place)
        whole = [np.zeros(z.shape, z.dtype) for z in self._expected_states()]
        for every, part in zip(whole, self._states(), strict=True):
            every[:, mine] = part
            sum_in_order(self._group, every)  # of zeros but for one process
        self._whole = self.step, tuple(whole)

    @property
    def can_save(self) -> bool:
        """Whether all that a checkpoint needs is here; of windows in a group, after evaluations and at the end."""
        return not self.halfway and (not self._has_met or self._whole[0] == self.step or isinstance(self._train, Lines))

    _remedy = "go on with Trainer.resume and the last checkpoint"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint, atomically: whatever goes wrong, an older one is kept.

        Raises
        ------
        OSError
            If the file cannot be written.
        DivergenceError
            If a parameter is not finite; an update can make it so before any loss tells.
        FastrnnError
            If an update was broken off half way, see `run`, or if processes of a group have what it needs, see `share`.
        """
        self._refuse_half()
        if not self.can_save:
            raise FastrnnError(
                f"the states after step {self.step} are in several processes; save after an evaluation or at the end"
            )
        states = self._whole[1] if self._has_met else self._states()
        groups = {
            "model": self.model.parameters,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "carried": dict(zip(self.model.rnn._cell.states, states, strict=False)),
            "history": {
                "loss": np.array(self.losses, np.float64),
                "evaluated_after": np.array([e.step for e in self.evaluations], np.int64),
                "held_out_loss": np.array([e.loss for e in self.evaluations], np.float64),
            },
        }
        if name := not_finite(groups):
            raise DivergenceError(
                f"training diverged: {name} holds NaN or infinity after step {self.step}; "
                "a lower learning rate may help"
            )
        metadata = {
            "settings": vars(self.settings) | {"cell": describe_cell(self.settings.cell)},
            "tokenizer": self.tokenizer.describe(),
            "text_sha256": self._text_sha256,
        }
        write_checkpoint(path, groups, metadata)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        text: str | Text,
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
            are those of the run, and `cell` must be if it is one's own, which a checkpoint does not hold. A schedule
            goes by the new number of steps.

        Raises
        ------
        OSError
            If the checkpoint cannot be read.
        CheckpointError
            If it is damaged, is not a checkpoint, or belongs to other settings.
        TextError
            If the text is another one.
        """
        check_instance("text", text, (str, Text), "a text")
        check_run(backend, num_threads)
        groups, metadata = read_checkpoint(path)
        with usable_checkpoint(path):
            cell = cell_name(changes.get("cell"))
            settings = read_settings(path, metadata, cell if isinstance(cell, WrittenCell) else None)
            text_sha256 = take(metadata, "text_sha256")
            if not isinstance(text_sha256, str):
                raise TypeError(f"text_sha256 is {shown(text_sha256)}; expected a text")
        if text_sha256 != _sha256(text):
            raise TextError(
                f"{path} was trained on another text: SHA-256 {_sha256(text)[:12]}; expected {text_sha256[:12]}"
            )
        for name, value in changes.items():
            value = cell_name(value) if name == "cell" else value
            if name not in ("steps", "epochs", "evaluate_every", "patience") and value != getattr(settings, name):
                raise CheckpointError(f"{path} has {name} {getattr(settings, name)}; it cannot go on with {value}")
        settings = replace(settings, **changes)
        with usable_checkpoint(path):
            check_sizes(settings, groups)
            trainer = cls(text, settings, backend=backend, num_threads=num_threads)
            trainer._restore(groups)
        return trainer

    def _restore(self, groups: Groups) -> None:
        """Take over what `save` wrote; KeyError, TypeError or ValueError if anything does not fit."""
        self.losses, self.evaluations = _history(groups)
        states = self._expected_states()
        names = self.model.rnn._cell.states
        expected = {
            "model": self.model.parameters,
            "best": self.model.parameters,
            "optimizer": self.optimizer.state_dict() | {"steps": np.array(self.step)},
            "carried": dict(zip(names, states, strict=False)),
        }
        for name, arrays in expected.items():
            check_arrays(name, groups.get(name, {}), arrays)
        if groups["optimizer"]["steps"] != self.step:
            raise ValueError(
                f"optimizer.steps is {groups['optimizer']['steps']}; expected {self.step}, as many as losses"
            )
        self.model.load_state_dict(groups["model"])
        self.best = dict(groups["best"])
        self.optimizer.load_state_dict(groups["optimizer"])
        if states:
            read = tuple(groups["carried"][name] for name in names)
            self._state = read if len(states) > 1 else read[0]

    def _expected_states(self) -> tuple[Array, ...]:
        """Zeros of the shapes of what is carried to the next window; nothing before the first, or between lines."""
        if not self.step or isinstance(self._train, Lines):
            return ()
        shape = (self.settings.num_layers, self.settings.batch_size, self.settings.hidden_size)
        return (np.zeros(shape, self.model.rnn.dtype),) * len(self.model.rnn._cell.states)


def load_history(path: str | os.PathLike[str]) -> tuple[list[float], list[Evaluation]]:
    """Return the losses of a training run that `Trainer.save` wrote, one per step, and its evaluations.

    Raises
    ------
    OSError
        If the checkpoint cannot be read.
    CheckpointError
        If it is damaged or is not a checkpoint.
    """
    groups, _ = read_checkpoint(path)
    with usable_checkpoint(path):
        return _history(groups)


def _history(groups: Groups) -> tuple[list[float], list[Evaluation]]:
    """Return losses and evaluations; KeyError, TypeError or ValueError if they cannot be those of a run."""
    history = groups.get("history", {})
    sizes = {name: np.size(history.get(name, ())) for name in ("loss", "evaluated_after", "held_out_loss")}
    steps = np.zeros(sizes["evaluated_after"], np.int64)
    expected = {"loss": np.zeros(sizes["loss"]), "evaluated_after": steps, "held_out_loss": np.zeros(len(steps))}
    check_arrays("history", history, expected)
    steps = history["evaluated_after"]
    if not (np.diff(steps, prepend=0) > 0).all() or not (steps <= sizes["loss"]).all():
        raise ValueError(f"history.evaluated_after holds {steps}; expected rising steps up to {sizes['loss']}")
    evaluations = zip(steps.tolist(), history["held_out_loss"].tolist(), strict=True)
    return history["loss"].tolist(), [Evaluation(step, loss) for step, loss in evaluations]


def _sha256(text: str | Text) -> str:
    digest = hashlib.sha256()
    for piece in text_pieces(text):
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
