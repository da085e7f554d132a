"""What every training run is: steps, an evaluation now and then, the best parameters kept, the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

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
    """What a batch gives an update."""

    loss: float
    grads: dict[str, Array]
    size: int  # how many terms the loss is the mean of
    state: Any  # that the next batch begins with


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
        """Run forward and backward over the batch of the next step."""
        raise NotImplementedError

    def _held_out_loss(self) -> float:
        """Return the loss that tells which parameters are the best."""
        raise NotImplementedError

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
        while True:
            if self._evaluation_due():
                yield self._evaluate()
            if self.step >= self.total_steps or self.out_of_patience:
                return
            yield self._take_step()

    def _take_step(self) -> Step:
        started = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows ends the run with an error of its own
            loss, grads, size, state = self._gradients()
            if self._clip_value < math.inf:
                clip_value(grads, self._clip_value)
            norm = clip_global_norm(grads, self._clip)
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
        return Step(self.step, loss, size, time.perf_counter() - started)

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
