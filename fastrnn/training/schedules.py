"""Learning-rate schedules: what to multiply the learning rate with at each step, with the values of torch's.

Steps count from 0, and may be epochs: ``optimizer.learning_rate = learning_rate * schedule(step)`` before each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fastrnn.checks import (
    Array,
    check_count,
    check_integer,
    check_number,
    check_positive,
    check_sequence,
    check_share,
    shown,
)
from fastrnn.training.names import take_scalars

__all__ = [
    "ConstantRate",
    "CosineDecay",
    "ExponentialDecay",
    "LinearDecay",
    "LinearWarmup",
    "MultiStepDecay",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
]

Schedule: TypeAlias = Callable[[int], float]


def _check_step(step: Any) -> None:
    check_number("step", step, "a number of at least 0", lambda number: 0 <= number < math.inf)


@dataclass(frozen=True)
class ConstantRate:
    """The factor is 1 at every step."""

    def __call__(self, step: int) -> float:
        """Return the factor at a step."""
        _check_step(step)
        return 1.0


@dataclass(frozen=True)
class StepDecay:
    """The factor is multiplied with `gamma` after `every` steps, again and again; torch's StepLR.

    Examples
    --------
    >>> schedule = StepDecay(every=2, gamma=0.5)
    >>> [schedule(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_positive("every", self.every)
        check_share("gamma", self.gamma)

    def __call__(self, step: int) -> float:
        """Return the factor at a step."""
        _check_step(step)
        return self.gamma ** (step // self.every)


@dataclass(frozen=True)
class MultiStepDecay:
    """The factor is multiplied with `gamma` at each of the steps `milestones`; torch's MultiStepLR.

    Examples
    --------
    >>> schedule = MultiStepDecay([1, 3], gamma=0.5)
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    milestones: Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for k, milestone in enumerate(check_sequence("milestones", self.milestones, "integers")):
            check_integer(f"milestones[{k}]", milestone)
        check_share("gamma", self.gamma)

    def __call__(self, step: int) -> float:
        """Return the factor at a step."""
        _check_step(step)
        return self.gamma ** sum(step >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class ExponentialDecay:
    """The factor is multiplied with `gamma` at every step; torch's ExponentialLR."""

    gamma: float

    def __post_init__(self) -> None:
        check_share("gamma", self.gamma)

    def __call__(self, step: int) -> float:
        """Return the factor at a step."""
        _check_step(step)
        return self.gamma**step


@dataclass(frozen=True)
class CosineDecay:
    """Half a period of a cosine, from 1 to `minimum` in so many steps, and `minimum` from then on.

    Up to there it is torch's CosineAnnealingLR, which goes up again after it (Loshchilov and Hutter, 2017).

    Examples
    --------
    >>> schedule = CosineDecay(steps=4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    steps: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)
        check_share("minimum", self.minimum)

    def __call__(self, step: int) -> float:
        """Return the factor at a step."""
        _check_step(step)
        done = min(step / self.steps, 1.0)
        return self.minimum + (1 - self.minimum) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class LinearDecay:
    """From 1 to `minimum` along a line in so many steps, and `minimum` from then on; torch's LinearLR.

    Examples
    --------
    >>> schedule = LinearDecay(steps=4)
    >>> [schedule(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    steps: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)
        check_share("minimum", self.minimum)

    def __call__(self, step: int) -> float:
        """Return the factor at a step."""
        _check_step(step)
        return 1 - (1 - self.minimum) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class LinearWarmup:
    """From `start` to 1 along a line in so many steps, and then another schedule from its step 0 on.

    torch's LinearLR, followed by the other one in a SequentialLR.

    Examples
    --------
    >>> schedule = LinearWarmup(steps=4, start=0.2, then=StepDecay(2, gamma=0.5))
    >>> [round(schedule(step), 3) for step in range(8)]
    [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.5, 0.5]
    """

    steps: int
    start: float = 1 / 3
    then: Schedule = ConstantRate()

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)
        check_share("start", self.start)
        if not callable(self.then):
            raise TypeError(f"then is {shown(self.then)}; expected a schedule: a function of the step")

    def __call__(self, step: int) -> float:
        """Return the factor at a step."""
        _check_step(step)
        if step >= self.steps:
            return self.then(step - self.steps)
        return self.start + (1 - self.start) * step / self.steps


class ReduceOnPlateau:
    """The factor is multiplied with `gamma` when the losses it is told no longer fall; torch's ReduceLROnPlateau.

    Parameters
    ----------
    gamma
        From 0 to 1.
    patience
        How many losses in a row may be none better than the best; one more reduces the factor, and counts anew.
    threshold
        A loss is better if it is below ``(1 - threshold) * best``.
    minimum
        The factor never falls below it.

    Attributes
    ----------
    factor : float
        As it is now.

    Examples
    --------
    >>> schedule = ReduceOnPlateau(gamma=0.5, patience=1)
    >>> for loss in [2.0, 1.0, 1.0, 1.0, 1.0]:
    ...     schedule.update(loss)
    >>> schedule.factor
    0.5
    """

    def __init__(self, gamma: float = 0.1, patience: int = 10, threshold: float = 1e-4, minimum: float = 0.0) -> None:
        self.gamma = check_share("gamma", gamma)
        self.patience = check_count("patience", patience)
        self.threshold = check_share("threshold", threshold)
        self.minimum = check_share("minimum", minimum)
        self.factor = 1.0
        self._best = math.inf
        self._waited = 0

    def __call__(self, step: int) -> float:
        """Return the factor, as after the last `update` whatever the step."""
        _check_step(step)
        return self.factor

    def update(self, loss: float) -> None:
        """Take notice of a loss; one that is NaN is no better than others."""
        loss = check_number("loss", loss)
        if loss < self._best * (1 - self.threshold):
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited > self.patience:
            self.factor, self._waited = max(self.factor * self.gamma, self.minimum), 0

    def state_dict(self) -> dict[str, Array]:
        """Return what the losses so far have led to, for `load_state_dict`."""
        return {"best": np.array(self._best), "waited": np.array(self._waited), "factor": np.array(self.factor)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; KeyError if a name is missing."""
        best, waited, factor = take_scalars(state_dict, ("best", "waited", "factor"))
        self._best, self._waited, self.factor = best, int(waited), factor


ReduceLROnPlateau = ReduceOnPlateau  # torch's name for it
