"""`fit` and `predict`: from sequences of any lengths to a trained model of any layers, and what it says of others."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn import backends, modules, threads
from fastrnn.checks import (
    Array,
    check_choice,
    check_count,
    check_flag,
    check_iterable,
    check_number,
    check_path,
    check_positive,
    check_positive_number,
    shown,
)
from fastrnn.distributed.group import Group, call, sum_in_order
from fastrnn.distributed.local import limited_threads, start
from fastrnn.distributed.sharing import equal_work
from fastrnn.training.architecture import describe
from fastrnn.training.batches import by_length
from fastrnn.training.checkpoint import (
    CheckpointError,
    check_arrays,
    not_finite,
    read_checkpoint,
    take,
    usable_checkpoint,
    write_checkpoint,
)
from fastrnn.training.composition import Sequential, draws
from fastrnn.training.examples import (
    LOSSES,
    Examples,
    Loss,
    Outputs,
    class_weights,
    compute_loss,
    digest,
    normalized,
    sample_weights,
    split,
    take_targets,
)
from fastrnn.training.history import Epoch, History
from fastrnn.training.metrics import METRICS, Metric
from fastrnn.training.optimizers import Optimizer
from fastrnn.training.running import DivergenceError, Evaluation, Gradients, Run, Step
from fastrnn.training.schedules import ConstantRate, CosineDecay, LinearDecay, ReduceOnPlateau, Schedule
from fastrnn.training.sequences import Places, Sequences, take_sequences
from fastrnn.training.settings import OPTIMIZERS, SCHEDULES

__all__ = ["fit", "predict"]

AT_ONCE = 256  # sequences of a batch that is only predicted


def fit(
    model: Any,
    X: Any,
    y: Any,
    *,
    loss: str | Loss | None = None,
    metrics: Iterable[str | Metric] = (),
    validation: Any = None,
    epochs: int = 20,
    batch_size: int = 32,
    shuffle: bool = True,
    optimizer: str | Optimizer = "adam",
    learning_rate: float | None = None,
    schedule: str | Schedule = "constant",
    clip: float = 1.0,
    clip_value: float = math.inf,
    patience: int | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    callbacks: Iterable[Callable[[Epoch], Any]] = (),
    progress: bool = True,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    workers: int = 1,
    group: Group | None = None,
) -> History:
    """Train a model on sequences, in place, and return what was seen epoch by epoch.

    The same arguments give the same bits. Batches are of sequences of similar lengths, drawn anew in every epoch.
    Ctrl-C ends training after the last whole step.

    Parameters
    ----------
    model
        A `Sequential`, or any layer as `fastrnn.training.composition` describes one. It gives K numbers for each
        sequence, (N, K), or for every step, (T, N, K): of classes logits, without a softmax.
    X
        n sequences: an array (n, T, I), or a list of arrays (T, I) of any T; of tokens (n, T) or (T,) integers.
    y
        One target for each sequence, (n,) or (n, K); of a model that gives numbers for every step, one for each of
        these, an array (n, T) or (n, T, K), or a list of arrays. Classes are integers from 0 on.
    loss
        "cross_entropy", "bce_with_logits", "mse" or "mae". None takes what y asks for: of floats "mse", of integers
        the first, or with one output the second. Or a function of the outputs (R, K) of all that is no padding and the
        targets that returns the loss, a mean, and its gradient, as `QuantileLoss`; it is given weights, (R,), if there
        are any, as `weights`.
    metrics
        "accuracy", "f1", "mae", "mse", "rmse" or "r2", or functions of outputs and targets; of the validation data at
        the end of an epoch, or of the training data without any.
    validation
        What to hold out: a share of the sequences, drawn, of each class as much; or a pair X, y, or X, y and sample
        weights. Then the parameters with the lowest loss on it are kept, and otherwise the last.
    epochs
        How often to read the data, at most.
    batch_size
        Sequences of a step; batches differ by at most one.
    shuffle
        False takes the sequences as they stand, whatever their lengths.
    optimizer, learning_rate
        "adam", "adamw", "rmsprop", "momentum" or "sgd", at its own default rate if that is None; or an optimizer over
        the model's parameters, which has a rate of its own.
    schedule
        "constant", or "linear" or "cosine", which fall to zero; or a function of the step that returns a factor. A
        `ReduceOnPlateau` is told the loss after every epoch.
    clip, clip_value
        The largest global norm of the gradients, and before it the largest magnitude of any element of them.
    patience
        How many epochs in a row without a new lowest loss end training; None for any.
    class_weight
        Of the loss, by class: a mapping, or "balanced"; others have 1. All weights together are scaled to a mean of 1.
    sample_weight
        (n,), of each sequence.
    callbacks
        Called with the `Epoch` after each; one that returns True ends training.
    progress
        Whether to show a bar if there is a terminal, and rich.
    seed
        Of the held-out sequences, the batches and dropout. The model's parameters are drawn where it is made.
    checkpoint
        A file that is written after every epoch and at the end, atomically; `fastrnn.load` gives its best model.
    resume
        Whether to go on with the checkpoint, if there is one, as if it had not been broken off: in the same bits. Only
        `epochs`, `patience`, `metrics`, `callbacks`, `progress`, `workers` and `group` may be others.
    workers
        How many processes share every batch; more than this one are started, on this machine. The losses are those of
        one process, to rounding; the same number gives the same bits. See :doc:`/distributed`.
    group
        Of processes that were started already, which all make this call: `fastrnn.distributed.connect`. The first
        one alone calls the callbacks, shows the bar and writes the checkpoint.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be; the message says which one and what was expected.
    DivergenceError
        If a loss or a gradient is no longer finite. The model has the best parameters so far.
    FileExistsError
        If the checkpoint exists and `resume` is False.
    CheckpointError
        If it is of other data, settings or another model, or damaged.
    WorkerError
        If another process has ended. The model has the best parameters so far.

    Examples
    --------
    >>> import fastrnn
    >>> from fastrnn.training import Last, Linear, Sequential, fit, predict
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((length, 2)) for length in rng.integers(5, 15, 200)]
    >>> y = np.array([int(x[:, 0].mean() > 0) for x in X])
    >>> model = Sequential(Last(fastrnn.GRU(2, 16, seed=0)), Linear(16, 2, seed=1))
    >>> history = fit(model, X, y, validation=0.2, metrics=["accuracy"], learning_rate=0.01)
    >>> history.best.metrics["accuracy"] > 0.8
    True
    >>> predict(model, X[:3]).argmax(axis=1) == y[:3]
    array([ True,  True,  True])
    """
    model = _as_model(model)
    outputs, x = _probe(model, X)
    if loss is not None and not callable(loss):
        check_choice("loss", loss, LOSSES)
    targets, of_rows = take_targets("y", y, x, "X", outputs, loss)
    examples = Examples(x, targets, None, outputs.every_step)
    seed = check_count("seed", seed)
    train, held_out = _divide(examples, validation, seed, outputs, loss, class_weight, sample_weight)
    scores = _take_metrics(metrics)
    epochs, batch_size = check_positive("epochs", epochs), check_positive("batch_size", batch_size)
    total = epochs * math.ceil(len(train.x) / batch_size)
    run = Fitting(
        model,
        train,
        held_out,
        of_rows,
        scores,
        _take_optimizer(model, optimizer, learning_rate),
        _take_schedule(schedule, total),
        clip=check_positive_number("clip", clip),
        clip_value=check_positive_number("clip_value", clip_value),
        epochs=epochs,
        batch_size=batch_size,
        shuffle=check_flag("shuffle", shuffle),
        patience=math.inf if patience is None else check_positive("patience", patience),
        seed=seed,
        outputs=outputs,
    )
    calls = check_iterable("callbacks", callbacks, "functions of an Epoch")
    for k, each in enumerate(calls):
        if not callable(each):
            raise TypeError(f"callbacks[{k}] is {shown(each)}; expected a function of an Epoch")
    check_flag("progress", progress)
    check_flag("resume", resume)
    path = None if checkpoint is None else check_path("checkpoint", checkpoint)
    if path is None and resume:
        raise ValueError("resume is True, but checkpoint is None; expected the path of a checkpoint")
    run.check_processes(check_positive("workers", workers))
    if group is not None:
        if workers > 1:
            raise ValueError(f"workers is {workers} and group is given; expected one of them")
        run.share(group)
        if group.rank:
            calls, progress, path = [], False, None
    if path is not None and path.exists():
        if not resume:
            raise FileExistsError(
                f"checkpoint {path} exists; expected a new path: resume=True goes on with what is there"
            )
        run.restore(path)
    if workers == 1:
        return _follow(run, calls, progress, path)
    shared = {"loss": loss, "validation": validation, "epochs": epochs, "batch_size": batch_size, "shuffle": shuffle}
    shared |= {"learning_rate": learning_rate, "schedule": schedule, "clip": clip, "clip_value": clip_value}
    shared |= {"patience": patience, "class_weight": class_weight, "sample_weight": sample_weight, "seed": seed}
    with start(workers) as processes, limited_threads(workers):
        run.share(processes)
        here = {"backend": backends.info().used, "num_threads": threads.get_num_threads()}
        call(processes, _assist, model=model, X=X, y=y, optimizer=_unbound(optimizer), here=here, **shared)
        return _follow(run, calls, progress, path)


def _unbound(optimizer: Any) -> Any:
    """Return an optimizer without its parameters, for another process; a name is one."""
    if not isinstance(optimizer, Optimizer):
        return optimizer
    other = copy.copy(optimizer)
    other._parameters = {}
    return other


def _assist(group: Group, model: Any, X: Any, y: Any, optimizer: Any, here: Mapping[str, Any], **shared: Any) -> None:
    """What another process does of a call of `fit`, on the backend and the threads that the first one has."""
    backends.use_backend(here["backend"])
    threads.set_num_threads(here["num_threads"])
    if isinstance(optimizer, Optimizer):
        optimizer._parameters = dict(model.parameters)
    fit(model, X, y, optimizer=optimizer, progress=False, group=group, **shared)


def predict(model: Any, X: Any, *, batch_size: int = AT_ONCE) -> Any:
    """Return what a model gives for sequences, in their order.

    Parameters
    ----------
    model, X
        As for `fit`.
    batch_size
        How many sequences to run at once.

    Returns
    -------
    ndarray or list of ndarray
        (n, K); of a model that gives numbers for every step (n, T, K), or a list of (T, K) if X is a list.

    Examples
    --------
    >>> import fastrnn
    >>> from fastrnn.training import Last, predict
    >>> predict(Last(fastrnn.LSTM(3, 4, seed=0)), [np.ones((2, 3)), np.ones((5, 3))]).shape
    (2, 4)
    """
    model = _as_model(model)
    outputs, x = _probe(model, X)
    y = _predict(model, x, outputs, check_positive("batch_size", batch_size))
    if not outputs.every_step:
        return y
    if isinstance(X, np.ndarray) and X.dtype != object:
        return y.reshape(len(x), -1, outputs.size)
    return [y[start : start + length] for start, length in zip(x.starts.tolist(), x.lengths.tolist(), strict=True)]


class Fitting(Run):
    """A run of `fit`: which sequences a step has follows from the seed and the step alone."""

    def __init__(
        self,
        model: Any,
        train: Examples,
        held_out: Examples | None,
        loss: Loss,
        metrics: Mapping[str, Metric],
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        clip: float,
        clip_value: float,
        epochs: int,
        batch_size: int,
        shuffle: bool,
        patience: float,
        seed: int,
        outputs: Outputs,
    ) -> None:
        super().__init__(model, optimizer, schedule, clip, clip_value)
        self._train, self._validation, self._loss, self._metrics = train, held_out, loss, metrics
        self._epochs, self._batch_size, self._shuffle, self._patience = epochs, batch_size, shuffle, patience
        self._seed = seed
        self._draws, self._outputs = draws(model), outputs
        self._order: tuple[int, list[Array]] = (-1, [])  # an epoch, and the sequences in each of its batches
        self._told = 0  # evaluations that the schedule knows of
        self.epochs: list[Epoch] = []  # one of each evaluation; the last may be of one that was broken off

    @property
    def steps_per_epoch(self) -> int:
        """How many steps read the data once."""
        return math.ceil(len(self._train.x) / self._batch_size)

    @property
    def total_steps(self) -> int:
        """The number of steps to do."""
        return self._epochs * self.steps_per_epoch

    @property
    def evaluate_every(self) -> int:
        """Steps between two evaluations, those of an epoch."""
        return self.steps_per_epoch

    @property
    def patience(self) -> float:
        """How many epochs in a row without a new lowest loss end training."""
        return self._patience

    @property
    def keeps_best(self) -> bool:
        """Whether the best parameters are to be taken at the end, not the last."""
        return bool(self.evaluations) and (self._validation is not None or self.halfway)

    def _batches(self, epoch: int) -> list[Array]:
        """Return the sequences in each batch of an epoch."""
        if self._order[0] != epoch:
            lengths = self._train.x.lengths
            if self._shuffle:
                members = by_length(lengths, self._batch_size, np.random.default_rng((self._seed, epoch)))
            else:
                members = np.array_split(np.arange(len(lengths)), self.steps_per_epoch)
            self._order = epoch, members
        return self._order[1]

    def _gradients(self) -> Gradients:
        self._tell_schedule()
        epoch, k = divmod(self.step, self.steps_per_epoch)
        members = self._batches(epoch)[k]
        total = self._train.size(members)
        _, processes = self._place
        if processes > 1:
            members = members[equal_work(self._train.x.lengths[members], processes)[self._place[0]]]
        self._begin_sums(self._train.size(members), total)
        if not len(members):
            return Gradients(0.0, None, 0, None, total)
        if self._draws:
            self.model.seed_dropout(self._seed_of_step(self._seed))
        batch_first = _batch_first(self.model)
        places = self._train.x.places(members, batch_first)
        y, tape = self.model.forward(places.take(self._train.x.values), **_lengths(places))
        real = places.real if self._train.every_step else None
        rows = y.reshape(-1, y.shape[-1]) if real is None else y[real]
        loss, drows = compute_loss(self._loss, rows, *self._train.targets(members, places))
        if real is None:
            dy = drows.reshape(y.shape)
        else:
            dy = np.zeros_like(y)
            dy[real] = drows
        _, grads = self.model.backward(tape, dy)
        return Gradients(loss, grads, self._train.size(members), None, total)

    def _tell_schedule(self) -> None:
        """Tell the schedule of the losses that it does not know of, which are all after a checkpoint is read."""
        if isinstance(self._schedule, ReduceOnPlateau):
            for evaluation in self.evaluations[self._told :]:
                self._schedule.update(evaluation.loss)
            self._told = len(self.evaluations)

    def _held_out_loss(self) -> float:
        self._tell_schedule()
        epoch = self.step // self.steps_per_epoch - 1
        sizes = np.array([self._train.size(members) for members in self._batches(epoch)])
        trained = float(np.dot(self.losses[-len(sizes) :], sizes) / sizes.sum())
        held_out, metrics = self._validation, {}
        loss = trained
        if held_out is not None or self._first_says(bool(self._metrics)):
            examples = self._train if held_out is None else held_out
            y = self._predict_together(examples.x)
            rows = examples.rows()
            targets = examples.y[rows]
            if held_out is not None:
                weights = None if examples.weights is None else examples.weights[rows]
                loss = compute_loss(self._loss, y, targets, weights)[0]
            metrics = {name: float(metric(y, targets)) for name, metric in self._metrics.items()}
        loss = float(self._first_says(loss))  # other machines may round in another way
        del self.epochs[len(self.evaluations) :]
        validation_loss = None if held_out is None else loss
        rate = self._learning_rate * self._schedule(self.step - 1)
        self.epochs.append(Epoch(epoch + 1, self.step, trained, validation_loss, metrics, rate))
        return loss

    def _predict_together(self, x: Sequences) -> Array:
        """Return what the model gives for sequences, of which every process of a group runs a part."""
        rank, processes = self._place
        mine = equal_work(x.lengths, processes)[rank] if processes > 1 else None
        y = _predict(self.model, x, self._outputs, max(AT_ONCE, self._batch_size), mine)
        if self._group is not None:
            sum_in_order(self._group, y)  # of zeros but for one process
        return y

    def _first_says(self, value: Any) -> Any:
        """Return the number that the first process of a group has, in all of them."""
        if self._group is None:
            return value
        told = np.array([value], np.float64)
        self._group.broadcast(told)
        return type(value)(told[0])

    @property
    def _rows(self) -> int:
        return self._batch_size

    def _identity(self) -> dict[str, Any]:
        described = self._description()
        described["the data"] = described.pop("data_sha256")
        return described | {"epochs": self._epochs, "patience": self._patience}

    def _whereabouts(self) -> dict[str, Any]:
        return super()._whereabouts() | {"epochs": self.epochs}

    def _go_to(self, there: Mapping[str, Any]) -> None:
        super()._go_to(there)
        self.epochs = there["epochs"]

    def history(self, stopped: str) -> History:
        """Return what was seen."""
        return History(tuple(self.epochs[: len(self.evaluations)]), stopped)

    # ---- checkpoints

    def _description(self) -> dict[str, Any]:
        """What a run must have in common with the one that it goes on from."""
        scalars = {k: v for k, v in vars(self.optimizer).items() if isinstance(v, (int, float, tuple)) and k != "steps"}
        return {
            "data_sha256": digest(self._train, self._validation),
            "batch_size": self._batch_size,
            "shuffle": self._shuffle,
            "seed": self._seed,
            "loss": _named(self._loss),
            "optimizer": f"{type(self.optimizer).__name__}{scalars | {'learning_rate': self._learning_rate}}",
            "schedule": _named(self._schedule),
            "clip": f"{self._clip}, {self._clip_value}",
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically.

        Raises
        ------
        OSError
            If that cannot be done.
        DivergenceError
            If a parameter is not finite.
        """
        self._refuse_half()
        epochs = self.epochs[: len(self.evaluations)]
        groups = {
            "model": self.best if self._validation is not None else self.model.parameters,
            "last": self.model.parameters,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "history": {
                "loss": np.array(self.losses, np.float64),
                "evaluated_after": np.array([e.step for e in self.evaluations], np.int64),
                "held_out_loss": np.array([e.loss for e in self.evaluations], np.float64),
                "epoch_loss": np.array([e.loss for e in epochs], np.float64),
                "learning_rate": np.array([e.learning_rate for e in epochs], np.float64),
            },
        }
        if name := not_finite({"last": self.model.parameters}):
            raise DivergenceError(f"training diverged: {name} holds NaN or infinity after step {self.step}")
        metadata: dict[str, Any] = {
            "fit": self._description(),
            "metrics": [epoch.metrics for epoch in epochs],
        }
        try:
            metadata["architecture"] = describe(self.model)
        except TypeError:  # it has a part of one's own, whose parameters are kept all the same
            metadata["architecture"] = None
        write_checkpoint(path, groups, metadata)

    def restore(self, path: Path) -> None:
        """Take over what `save` wrote.

        Raises
        ------
        OSError
            If the file cannot be read.
        CheckpointError
            If it is another file, a damaged one, or of another run.
        """
        groups, metadata = read_checkpoint(path)
        with usable_checkpoint(path):
            found = take(metadata, "fit")
            for name, value in self._description().items():
                if found.get(name) != value:
                    what = "the data are others" if name == "data_sha256" else f"{name} was {found.get(name)}"
                    raise CheckpointError(
                        f"{path} cannot go on: {what}; expected the arguments of the run that wrote it"
                    )
            history = take(groups, "history")
            steps, ended = history["loss"].size, history["evaluated_after"].size
            zeros = {name: np.zeros(steps if name == "loss" else ended) for name in history}
            check_arrays("history", history, zeros | {"evaluated_after": np.zeros(ended, np.int64)})
            expected = {
                "last": self.model.parameters,
                "best": self.model.parameters,
                "optimizer": self.optimizer.state_dict(),
            }
            for name, arrays in expected.items():
                check_arrays(name, take(groups, name), arrays)
            metrics = take(metadata, "metrics")
            self.losses = history["loss"].tolist()
            self.evaluations = list(
                map(Evaluation, history["evaluated_after"].tolist(), history["held_out_loss"].tolist())
            )
            trained, rates = history["epoch_loss"].tolist(), history["learning_rate"].tolist()
            self.epochs = [
                Epoch(k + 1, e.step, trained[k], None if self._validation is None else e.loss, metrics[k], rates[k])
                for k, e in enumerate(self.evaluations)
            ]
            self.model.load_state_dict(groups["last"])
            self.best = dict(groups["best"])
            self.optimizer.load_state_dict(groups["optimizer"])


def _follow(run: Fitting, callbacks: list[Callable[[Epoch], Any]], progress: bool, checkpoint: Path | None) -> History:
    """Train to the end, to a callback's wish or to Ctrl-C; give the model the parameters that are to be kept."""
    stopped = "epochs"
    try:
        with _bar(run, progress) as show:
            for record in run.run():
                show(record)
                if isinstance(record, Evaluation):
                    if checkpoint is not None:
                        run.save(checkpoint)
                    wishes = [each(run.epochs[-1]) for each in callbacks]
                    if run._first_says(any(wish is True for wish in wishes)):
                        stopped = "callback"
                        break
            else:
                stopped = "epochs" if run.step >= run.total_steps else "patience"
    except KeyboardInterrupt:
        stopped = "interrupted"
        if checkpoint is not None and not run.halfway:
            run.save(checkpoint)
    finally:
        if run.keeps_best:
            run.model.load_state_dict(run.best)
    return run.history(stopped)


@contextmanager
def _bar(run: Fitting, progress: bool) -> Iterator[Callable[[Step | Evaluation], None]]:
    """Show how a run goes, if it is to be shown and can be; yield what is to be told of every record."""
    if not progress or find_spec("rich") is None:
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield lambda record: None
        return
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(bar_width=20), TextColumn("{task.fields[now]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=run.total_steps, completed=run.step, epoch=1, now="")

        def show(record: Step | Evaluation) -> None:
            now: dict[str, Any] = {}
            if isinstance(record, Evaluation):
                epoch = run.epochs[-1]
                held_out = "" if epoch.validation_loss is None else f", validation {epoch.validation_loss:.4g}"
                scores = "".join(f", {name} {value:.4g}" for name, value in epoch.metrics.items())
                now = {"now": f"loss {epoch.loss:.4g}{held_out}{scores}"}
            bar.update(task, completed=run.step, epoch=f"{len(run.evaluations)}/{run._epochs}", **now)

        yield show


# ---- arguments


def _as_model(model: Any) -> Any:
    """Return what has a layer's methods; a recurrent module is made one."""
    if isinstance(model, (modules.RNN, modules.LSTM, modules.GRU, modules.Recurrent)):
        return Sequential(model)
    wanted = ("forward", "backward", "parameters", "state_dict", "load_state_dict")
    if isinstance(model, type) or not callable(model) or not all(hasattr(model, name) for name in wanted):
        raise TypeError(f"model is {shown(model)}; expected a layer or a Sequential of layers")
    return model


def _probe(model: Any, X: Any) -> tuple[Outputs, Sequences]:
    """Return what the model gives for sequences, and these; it is tried on a step of the first."""
    dtype = next((p.dtype for p in model.parameters.values()), np.dtype(np.float32))
    x = take_sequences("X", X, dtype)
    if not getattr(model, "takes_lengths", False) and (x.lengths != x.lengths[0]).any():
        raise ValueError("X has sequences of different lengths, but no layer of the model takes lengths; expected one")
    places = x.places(np.array([0]), _batch_first(model))
    y = model(places.take(x.values))
    if not isinstance(y, np.ndarray) or y.ndim not in (2, 3):
        what = f"an array of shape {y.shape}" if isinstance(y, np.ndarray) else f"a {type(y).__name__}"
        raise ValueError(f"model gives {what}; expected (N, K) or (T, N, K): use Sequential(Last(rnn), Linear(H, K))")
    if y.ndim == 3 and y.shape[:2] != places.at.shape:
        raise ValueError(f"model gives {y.shape[:2]} for {places.at.shape}; expected as many steps as it is given")
    return Outputs(y.shape[-1], y.ndim == 3, y.dtype), x


def _batch_first(model: Any) -> bool:
    return bool(getattr(model, "batch_first", False))


def _lengths(places: Places) -> dict[str, Array]:
    return {} if places.real is None else {"lengths": places.lengths}


def _predict(model: Any, x: Sequences, outputs: Outputs, batch_size: int, those: Array | None = None) -> Array:
    """Return (n, K), or (S, K) of every step, in the order of the sequences; zeros of all but `those`, if given."""
    batch_first = _batch_first(model)
    ends = np.cumsum(x.lengths)
    found: Array = np.zeros((int(ends[-1]) if outputs.every_step else len(x), outputs.size), outputs.dtype)
    if those is None:
        those = np.arange(len(x))
    for batch in by_length(x.lengths[those], batch_size, None) if len(those) else ():
        members = those[batch]
        places = x.places(members, batch_first)
        y = model(places.take(x.values), **_lengths(places))
        where: Any = members
        if outputs.every_step:
            steps = np.arange(places.lengths.max())[:, None]
            at = (ends - x.lengths)[members] + steps
            at = at.T if batch_first else at
            y = y.reshape(-1, y.shape[-1]) if places.real is None else y[places.real]
            where = at.ravel() if places.real is None else at[places.real]
        found[where] = y
    return found


def _divide(
    examples: Examples, validation: Any, seed: int, outputs: Outputs, loss: Any, by_class: Any, by_sample: Any
) -> tuple[Examples, Examples | None]:
    """Return what to train on and what to hold out, with their weights."""
    x = examples.x

    def weigh(y: Array, of: Sequences, given: Any, name: str) -> Array | None:
        if by_class is None and given is None:
            return None
        weights = np.ones(len(y))
        if given is not None:
            each = sample_weights(name, given, len(of))
            weights *= np.repeat(each, of.lengths) if examples.every_step else each
        return weights if by_class is None else weights * class_weights(by_class, y, outputs.size)

    weights = weigh(examples.y, x, by_sample, "sample_weight")
    held_out: Examples | None = None
    if isinstance(validation, (tuple, list)):
        if len(validation) not in (2, 3):
            raise ValueError(f"validation has {len(validation)} parts; expected X and y, or X, y and sample weights")
        held_x = take_sequences("validation[0]", validation[0], outputs.dtype)
        if held_x.values.shape[1:] != x.values.shape[1:]:
            raise ValueError(
                f"validation[0] has rows of shape {held_x.values.shape[1:]}; expected {x.values.shape[1:]}, as X has"
            )
        held_y, _ = take_targets("validation[1]", validation[1], held_x, "validation[0]", outputs, loss)
        given = validation[2] if len(validation) == 3 else None
        held_weights = weigh(held_y, held_x, given, "validation[2]")
        held_out = Examples(held_x, held_y, held_weights, examples.every_step)
        train = Examples(x, examples.y, weights, examples.every_step)
    elif validation is not None:
        wanted = "a share between 0 and 1, a pair X, y, or None"
        share = check_number("validation", validation, wanted, lambda number: 0 < number < 1)
        trained, held = split(examples, share, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,))))
        everything = Examples(x, examples.y, weights, examples.every_step)
        train, held_out = everything.of(trained), everything.of(held)
    else:
        train = Examples(x, examples.y, weights, examples.every_step)
    if train.weights is not None:
        train = dataclasses.replace(train, weights=normalized(train.weights, outputs.dtype, train.rows()))
    if held_out is not None and held_out.weights is not None:
        held_out = dataclasses.replace(held_out, weights=normalized(held_out.weights, outputs.dtype, held_out.rows()))
    return train, held_out


def _take_metrics(metrics: Any) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    if isinstance(metrics, str):
        metrics = [metrics]
    for k, metric in enumerate(check_iterable("metrics", metrics, "names or functions of outputs and targets")):
        if callable(metric):
            found[getattr(metric, "__name__", type(metric).__name__)] = metric
        else:
            found[metric] = METRICS[check_choice(f"metrics[{k}]", metric, METRICS)]
    return found


def _take_optimizer(model: Any, optimizer: Any, learning_rate: Any) -> Optimizer:
    if isinstance(optimizer, Optimizer):
        if learning_rate is not None:
            raise ValueError(
                "learning_rate is given, but optimizer has one; expected None: set optimizer.learning_rate"
            )
        ours, its = model.parameters, optimizer._parameters
        if its.keys() != ours.keys() or any(its[name] is not ours[name] for name in ours):
            raise ValueError("optimizer is of other parameters; expected one that was made with model.parameters")
        return optimizer
    cls: Any = OPTIMIZERS[check_choice("optimizer", optimizer, OPTIMIZERS)]
    made: Optimizer = cls(model.parameters) if learning_rate is None else cls(model.parameters, learning_rate)
    return made


def _take_schedule(schedule: Any, total: int) -> Schedule:
    if callable(schedule) and not isinstance(schedule, type):
        return schedule  # type: ignore[no-any-return]
    named: dict[str, Schedule] = {
        "constant": ConstantRate(),
        "linear": LinearDecay(total),
        "cosine": CosineDecay(total),
    }
    return named[check_choice("schedule", schedule, SCHEDULES)]


def _named(function: Any) -> str:
    """A text that tells a loss or schedule from others: of a record its fields, of a function its name."""
    if dataclasses.is_dataclass(function):
        return repr(function)
    if hasattr(function, "__qualname__"):
        return str(function.__qualname__)
    settings = {name: value for name, value in vars(function).items() if not name.startswith("_") and name != "factor"}
    return f"{type(function).__name__}{settings}"
