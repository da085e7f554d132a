"""Learning-rate schedules against torch.optim.lr_scheduler, and early stopping."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastrnn.training import (
    ConstantRate,
    CosineDecay,
    EarlyStopping,
    ExponentialDecay,
    LinearDecay,
    LinearWarmup,
    MultiStepDecay,
    ReduceOnPlateau,
    StepDecay,
)

STEPS = 40
RATE = 0.3
LOSSES = [3, 2, 2, 1.9999, 2, 2, 1, 1, 1, math.nan, 1, 0.99, 0.5, *[0.5] * 12, 0.4]


def make_torch(optim: Any, name: str, optimizer: Any) -> Any:
    """The schedulers that ours are compared with, by the names in `SCHEDULES`."""
    rates = optim.lr_scheduler
    parts = {
        "constant": lambda: rates.LambdaLR(optimizer, lambda step: 1.0),
        "step": lambda: rates.StepLR(optimizer, 7, 0.5),
        "multi_step": lambda: rates.MultiStepLR(optimizer, [3, 4, 20], 0.5),
        "exponential": lambda: rates.ExponentialLR(optimizer, 0.9),
        "cosine": lambda: rates.CosineAnnealingLR(optimizer, STEPS),
        "cosine_minimum": lambda: rates.CosineAnnealingLR(optimizer, STEPS, 0.1 * RATE),
        "linear": lambda: rates.LinearLR(optimizer, 1.0, 0.0, 30),
        "linear_minimum": lambda: rates.LinearLR(optimizer, 1.0, 0.2, 30),
        "warmup": lambda: rates.LinearLR(optimizer, total_iters=10),
        "warmup_start": lambda: rates.LinearLR(optimizer, 0.01, total_iters=10),
    }
    if name not in parts:
        both = [rates.LinearLR(optimizer, 0.1, total_iters=8), rates.CosineAnnealingLR(optimizer, STEPS - 8)]
        return rates.SequentialLR(optimizer, both, [8])
    return parts[name]()


SCHEDULES = {
    "constant": ConstantRate(),
    "step": StepDecay(7, 0.5),
    "multi_step": MultiStepDecay([3, 4, 20], 0.5),
    "exponential": ExponentialDecay(0.9),
    "cosine": CosineDecay(STEPS),
    "cosine_minimum": CosineDecay(STEPS, 0.1),
    "linear": LinearDecay(30),
    "linear_minimum": LinearDecay(30, 0.2),
    "warmup": LinearWarmup(10),
    "warmup_start": LinearWarmup(10, 0.01),
    "warmup_cosine": LinearWarmup(8, 0.1, CosineDecay(STEPS - 8)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_equals_torch(torch: ModuleType, name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], RATE)
    scheduler = make_torch(torch.optim, name, optimizer)
    want = []
    for _ in range(STEPS):
        want.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    got = [RATE * SCHEDULES[name](step) for step in range(STEPS)]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)


def test_cosine_stays_at_its_minimum() -> None:
    assert [CosineDecay(5, 0.25)(step) for step in (5, 6, 10, 1000)] == [0.25] * 4


@pytest.mark.parametrize("options", [{}, {"patience": 0}, {"patience": 2, "threshold": 0.1, "minimum": 0.02}], ids=str)
def test_plateau_equals_torch(torch: ModuleType, options: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], RATE)
    theirs = {("min_lr" if k == "minimum" else k): v * (RATE if k == "minimum" else 1) for k, v in options.items()}
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, eps=0, **theirs)
    schedule = ReduceOnPlateau(**options)
    factors = set()
    for step, loss in enumerate(LOSSES):
        scheduler.step(loss)
        schedule.update(loss)
        np.testing.assert_allclose(RATE * schedule(step), optimizer.param_groups[0]["lr"], rtol=1e-12)
        factors.add(schedule.factor)
    assert len(factors) > 1, "nothing was reduced"


@pytest.mark.parametrize("make", [lambda: ReduceOnPlateau(0.5, patience=3), lambda: EarlyStopping(6, min_delta=0.01)])
@pytest.mark.parametrize("cut", [0, 5, 15])
def test_goes_on_from_its_saved_state(make: Any, cut: int) -> None:
    whole, first, second = make(), make(), make()
    for loss in LOSSES[:cut]:
        whole.update(loss)
        first.update(loss)
    second.load_state_dict(first.state_dict())
    for loss in LOSSES[cut:]:
        assert second.update(loss) == whole.update(loss)
        assert second.state_dict() == whole.state_dict()


def test_early_stopping_tells_the_best_and_when_to_stop() -> None:
    stopping = EarlyStopping(patience=3, min_delta=0.1)
    told = [(stopping.update(loss), stopping.stop) for loss in (2, 1, 0.95, math.nan, 0.85, 0.8, 0.8, 0.8, 0.1)]
    is_best = [True, True, False, False, True, False, False, False, True]
    stop = [False, False, False, False, False, False, False, True, False]
    assert told == list(zip(is_best, stop, strict=True))
    assert stopping.best == 0.1


BAD_CALLS = {
    "step": (lambda: StepDecay(0), ValueError, "every is 0"),
    "gamma": (lambda: ExponentialDecay(1.1), ValueError, "gamma is 1.1; expected a number from 0 to 1"),
    "cosine": (lambda: CosineDecay(2.5), TypeError, "steps is 2.5"),
    "minimum": (lambda: CosineDecay(5, -1), ValueError, "minimum is -1"),
    "linear": (lambda: LinearDecay(0), ValueError, "steps is 0"),
    "start": (lambda: LinearWarmup(5, 2), ValueError, "start is 2"),
    "plateau": (lambda: ReduceOnPlateau(patience=-1), ValueError, "patience is -1; expected an integer of at least 0"),
    "patience": (lambda: EarlyStopping(0), ValueError, "patience is 0"),
    "min_delta": (lambda: EarlyStopping(1, math.nan), ValueError, "min_delta is nan; expected 0 or a positive number"),
    "state": (lambda: EarlyStopping(1).load_state_dict({"best": 1}), KeyError, "waited"),
}


@pytest.mark.parametrize(("call", "error", "match"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
