"""What every training run is: steps, an evaluation now and then, the best parameters kept, the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastrnn.checks import check_positive
from fastrnn.distributed.group import Group, check_group, send, sum_in_order
from fastrnn.distributed.sharing import Sums
from fastrnn.errors import FastrnnError
from fastrnn.parameters import Array
from fastrnn.training.clipping import clip_global_norm, clip_value
from fastrnn.training.optimizers import Optimizer
from fastrnn.training.schedules import Schedule

__all__ = ["DivergenceError", "Evaluation", "Run", "Step"]


class DivergenceError(FastrnnError):
    """The loss or its gradient is no longer a finite number."""


class Step(NamedTuple):
    """One training step."""

    step: int  # 1 for the first
    loss: float  # nats per token, before the update
    tokens: int
    seconds: float

    @property
    def bits(self) -> float:
        """The loss in bits per token."""
        return self.loss / math.log(2)

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens one would have to guess, exp(loss)."""
        return _perplexity(self.loss)


class Evaluation(NamedTuple):
    """The loss on the held-out text after a step."""

    step: int
    loss: float  # nats per token

    @property
    def bits(self) -> float:
        """The loss in bits per token."""
        return self.loss / math.log(2)

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens one would have to guess, exp(loss)."""
        return _perplexity(self.loss)


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


class Gradients(NamedTuple):
    """What a batch gives an update, or what this process's part of a batch gives."""

    loss: float
    grads: Mapping[str, Array] | None  # None where there is no part
    size: int  # how many terms the loss is the mean of
    state: Any  # that the next batch begins with
    total: int  # how many terms the loss of the whole batch is the mean of


class Run:
    """Steps and evaluations until the end; what one step runs over, and what is held out, a subclass says.

    Parameters
    ----------
    model
        What has parameters, `state_dict` and `load_state_dict`.
    optimizer
        Over its parameters; the learning rate is multiplied with the schedule's factor.
    schedule
        By the step.
    clip, clip_value
        The largest global norm of the gradients, and before it the largest magnitude of any element of them.
    """

    def __init__(
        self, model: Any, optimizer: Optimizer, schedule: Schedule, clip: float, clip_value: float = math.inf
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.best: Mapping[str, Array] = model.state_dict()
        self.losses: list[float] = []
        self.evaluations: list[Evaluation] = []
        self._schedule = schedule
        self._learning_rate = optimizer.learning_rate
        self._clip, self._clip_value = clip, clip_value
        self._state: Any = None  # at the end of the last batch
        self._halfway = False
        self.asks_to_stop: Callable[[], bool] = lambda: False  # asked before each step and evaluation
        self._group: Group | None = None
        self._sums: Sums | None = None
        self._has_met = self._stops = False  # of a group: whether its processes have met, and whether one asks to stop

    @property
    def total_steps(self) -> int:
        """The number of steps to do."""
        raise NotImplementedError

    @property
    def evaluate_every(self) -> int:
        """Steps between two evaluations."""
        raise NotImplementedError

    @property
    def patience(self) -> float:
        """How many evaluations in a row without a new lowest loss end the run."""
        raise NotImplementedError

    def _gradients(self) -> Gradients:
        """Run forward and backward over the batch of the next step, or this process's part of it."""
        raise NotImplementedError

    def _held_out_loss(self) -> float:
        """Return the loss that tells which parameters are the best, the same in every process."""
        raise NotImplementedError

    @property
    def _rows(self) -> int:
        """How many sequences a batch has, at most."""
        raise NotImplementedError

    def _identity(self) -> dict[str, Any]:
        """Return what all processes of a group must have in common besides the model, by name."""
        raise NotImplementedError

    def _take_part(self) -> None:
        """Keep of the state, which is that of a whole batch, this process's part."""

    def _bring_together(self) -> None:
        """Make the state of the whole batch known to the first process, for a checkpoint."""

    def check_processes(self, processes: int) -> None:
        """ValueError unless there is something to do for so many processes."""
        if check_positive("processes", processes) > self._rows:
            raise ValueError(
                f"there are {processes} processes, but a batch has {self._rows} sequences; "
                "expected one for each: fewer processes, or a larger batch_size"
            )

    def share(self, group: Group) -> None:
        """Do the run in the processes of a group, each on its part of every batch; to be said before the first step.

        Every process makes the same run and iterates over `run`; parameters, optimizer and steps are then those of the
        first process, which may have resumed a checkpoint. It can save one after an evaluation and at the end. The
        losses are those of one process, to rounding, and the same number of processes gives the same bits. Dropout is
        drawn by each process, so that it depends on their number.

        Parameters
        ----------
        group
            From `fastrnn.distributed.connect`, or an engine of one's own; see `fastrnn.distributed.Group`.

        Raises
        ------
        TypeError, ValueError
            If it is no group, or has more processes than a batch has sequences.
        """
        self.check_processes(check_group("group", group).size)
        self._group = group
        self._sums = Sums(group, self.model.parameters)
        self._has_met = False

    @property
    def processes(self) -> int:
        """How many processes share a batch."""
        return self._place[1]

    @property
    def _place(self) -> tuple[int, int]:
        """The rank of this process, and how many there are."""
        return (0, 1) if self._group is None else (self._group.rank, self._group.size)

    def _seed_of_step(self, seed: int) -> tuple[int, ...]:
        """What seeds dropout: the step and the process alone, so that a resumed run drops the same."""
        rank, _ = self._place
        return (seed, self.step, rank) if rank else (seed, self.step)

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    @property
    def halfway(self) -> bool:
        """Whether an update of the parameters has begun that is not whole; if none is going on, it was broken off."""
        return self._halfway

    @property
    def best_evaluation(self) -> Evaluation | None:
        """The evaluation with the lowest loss, the first of equals; None before there is one."""
        return min(self.evaluations, key=lambda evaluation: evaluation.loss, default=None)

    @property
    def out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations brought no new lowest loss."""
        best = self.best_evaluation
        return best is not None and len(self.evaluations) - 1 - self.evaluations.index(best) >= self.patience

    def run(self) -> Iterator[Step | Evaluation]:
        """Train to the end, yielding a record after every step and every evaluation.

        The iteration may be broken off after any record and taken up again by another call. So it may be after an
        exception out of it, such as KeyboardInterrupt: the step in work is then taken anew, with the same numbers.

        Raises
        ------
        DivergenceError
            If a loss or gradient is not finite; the parameters are then those of before the step.
        FastrnnError
            If an exception has broken off an update half way, which is the one thing that cannot be taken anew.
        """
        self._refuse_half()
        self._meet()
        self._stops = False
        while True:
            stops = self.asks_to_stop() if self._group is None else self._stops
            if stops:
                break
            if self._evaluation_due():
                evaluation = self._evaluate()
                self._bring_together()
                yield evaluation
                continue
            if self.step >= self.total_steps or self.out_of_patience:
                break
            yield self._take_step()
        self._bring_together()

    def _take_step(self) -> Step:
        started = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows ends the run with an error of its own
            if self._group is None or self._sums is None:
                loss, grads, _, state, total = self._gradients()
                buffers = grads  # what is clipped
            else:
                loss, grads, buffers, state, total = self._add_up(self._group, self._sums)
            assert grads is not None
            assert buffers is not None
            if self._clip_value < math.inf:
                clip_value(buffers, self._clip_value)
            norm = clip_global_norm(buffers, self._clip)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergenceError(
                    f"training diverged at step {self.step + 1}: loss {loss:.4g}, gradient norm {norm:.4g}; "
                    "a lower learning rate may help"
                )
            self._halfway = True
            self.optimizer.learning_rate = self._learning_rate * self._schedule(self.step)
            self.optimizer.step(grads)
        self._state = state
        self.losses.append(loss)
        self._halfway = False
        return Step(self.step, loss, total, time.perf_counter() - started)

    def _add_up(self, group: Group, sums: Sums) -> tuple[float, Mapping[str, Array], Mapping[str, Array], Any, int]:
        """Return of the whole batch the loss, the gradients, the arrays that hold these end to end, and its size.

        With the state of this process's part, before the last. That a process asks to stop, all learn at the same step.
        """
        self.model._on_gradients = sums.tell
        try:
            found = self._gradients()
        finally:
            self.model._on_gradients = None
        sums.finish(found.grads)
        told = np.array([found.loss * found.size / found.total, self.asks_to_stop()])
        sum_in_order(group, told)
        self._stops = bool(told[1])
        return float(told[0]), sums.flat.views, sums.flat.buffers, found.state, found.total

    def _begin_sums(self, size: int, total: int) -> None:
        """Say, before backward, how many terms of the batch's loss are this process's."""
        if self._sums is not None:
            self._sums.begin(size / total)

    def _meet(self) -> None:
        """Take over where the first process of the group is; ValueError if one is in another run."""
        if self._group is None or self._has_met:
            return
        group = self._group
        shapes = {name: (p.shape, p.dtype.str) for name, p in self.model.parameters.items()}
        identity = self._identity() | {"the model": shapes}
        expected = send(group, identity)
        differing = np.zeros((group.size, len(expected)), np.int64)
        differing[group.rank] = [identity.get(name) != value for name, value in expected.items()]
        sum_in_order(group, differing)
        if differing.any():
            rank = int(differing.any(axis=1).argmax())
            what = [name for name, differs in zip(expected, differing[rank], strict=True) if differs]
            raise ValueError(
                f"process {rank} of the group differs from the first in {', '.join(what)}; expected the same data and "
                "arguments in all: each takes its part by itself"
            )
        there = send(group, self._whereabouts())
        if group.rank:
            self._go_to(there)
        self._take_part()
        self._has_met = True

    def _whereabouts(self) -> dict[str, Any]:
        """Where the run is, for processes that join it."""
        return {
            "parameters": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": dict(self.best),
            "losses": self.losses,
            "evaluations": self.evaluations,
            "state": self._state,
        }

    def _go_to(self, there: Mapping[str, Any]) -> None:
        """Be where `_whereabouts` says."""
        self.model.load_state_dict(there["parameters"])
        self.optimizer.load_state_dict(there["optimizer"])
        self.best, self.losses, self._state = there["best"], there["losses"], there["state"]
        self.evaluations = there["evaluations"]

    def _evaluation_due(self) -> bool:
        done = bool(self.evaluations) and self.evaluations[-1].step == self.step
        on_schedule = self.step % self.evaluate_every == 0 or self.step >= self.total_steps
        return self.step > 0 and on_schedule and not done

    def _evaluate(self) -> Evaluation:
        with np.errstate(over="ignore", invalid="ignore"):
            evaluation = Evaluation(self.step, self._held_out_loss())
        if not math.isfinite(evaluation.loss):
            raise DivergenceError(f"training diverged: held-out loss {evaluation.loss:.4g} after step {self.step}")
        best = self.best_evaluation
        if best is None or evaluation.loss < best.loss:
            self.best = self.model.state_dict()
        self.evaluations.append(evaluation)  # last: whatever breaks this off, the evaluation is then made anew
        return evaluation

    def _refuse_half(self) -> None:
        if self._halfway:
            raise FastrnnError(
                f"the update of step {self.step + 1} was broken off half way: some parameters are those before it, "
                f"some those after; {self._remedy}"
            )

    _remedy = "go on from the last checkpoint"
