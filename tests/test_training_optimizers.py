"""Optimizers against torch.optim, over many steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tolerances import assert_close, assert_same_bits, tolerance

import fastrnn
from fastrnn.training import SGD, Adam, AdamW, Momentum, RMSProp

SHAPES = {"weight": (5, 7), "bias": (5,), "scale": ()}
STEPS = 200
RULES = {
    "sgd": (SGD, torch.optim.SGD, {}),
    "sgd, rate": (SGD, torch.optim.SGD, {"learning_rate": 0.1}),
    "sgd, momentum": (SGD, torch.optim.SGD, {"learning_rate": 0.03, "momentum": 0.9}),
    "momentum": (Momentum, torch.optim.SGD, {"learning_rate": 0.03, "momentum": 0.9}),
    "rmsprop": (RMSProp, torch.optim.RMSprop, {}),
    "rmsprop, all": (RMSProp, torch.optim.RMSprop, {"learning_rate": 0.003, "alpha": 0.8, "eps": 1e-3}),
    "rmsprop, the sign": (RMSProp, torch.optim.RMSprop, {"learning_rate": 0.003, "alpha": 0.0, "eps": 0.0}),
    "adam, the sign": (Adam, torch.optim.Adam, {"betas": (0.0, 0.0), "eps": 0.0}),
    "adam": (Adam, torch.optim.Adam, {}),
    "adam, all": (Adam, torch.optim.Adam, {"learning_rate": 0.02, "betas": (0.5, 0.9), "eps": 1e-3}),
    "adamw": (AdamW, torch.optim.AdamW, {}),
    "adamw, all": (
        AdamW,
        torch.optim.AdamW,
        {"learning_rate": 0.02, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.3},
    ),
}
each_rule = pytest.mark.parametrize(("rule", "torch_rule", "options"), RULES.values(), ids=RULES)


def arrays(rng, dtype="float64"):
    return {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}


@each_rule
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_torch(rule, torch_rule, options, dtype):
    rng = np.random.default_rng(0)
    parameters = arrays(rng, dtype)
    twins = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in parameters.items()}
    optimizer = rule(parameters, **options)
    torch_optimizer = torch_rule(
        twins.values(), **{"lr" if name == "learning_rate" else name: v for name, v in options.items()}
    )
    for step in range(STEPS):
        if step == STEPS // 2:  # a schedule
            optimizer.learning_rate /= 2
            torch_optimizer.param_groups[0]["lr"] /= 2
        grads = arrays(rng, dtype)
        for name, twin in twins.items():
            twin.grad = torch.tensor(grads[name])
        optimizer.step(grads)
        torch_optimizer.step()
    for name, twin in twins.items():
        got, want = np.atleast_1d(parameters[name]), np.atleast_1d(twin.detach().numpy())
        assert_close(name, got, want, tolerance(want, dtype, STEPS))


@each_rule
def test_goes_on_from_its_saved_state_with_the_same_bits(rule, torch_rule, options):
    rng = np.random.default_rng(1)
    grads = [arrays(rng, "float32") for _ in range(8)]
    parameters = arrays(rng, "float32")
    optimizer = rule(parameters, **options)
    for g in grads[:5]:
        optimizer.step(g)
    copies = {name: p.copy() for name, p in parameters.items()}
    restored = rule(copies, **options)
    restored.load_state_dict(optimizer.state_dict())
    for g in grads[5:]:
        optimizer.step(g)
        restored.step(g)
    assert restored.steps == 8
    for name in SHAPES:
        assert_same_bits(name, np.atleast_1d(copies[name]), np.atleast_1d(parameters[name]))


@pytest.mark.parametrize("rule", [Adam, AdamW])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_pass_gives_the_bits_of_numpy(restored, rule, dtype):
    """Also of arrays that it does not take: transposed, of another dtype than their gradient; and of odd sizes."""
    rng, found = np.random.default_rng(2), {}
    shapes = {"vectors": (3, 37), "scalar": (), "none": (0, 4), "one": (1,)}
    start = {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    start |= {"transposed": np.asarray(rng.standard_normal((5, 3)), dtype).T, "other": np.ones(4, dtype)}
    grads = [{name: np.asarray(rng.standard_normal(p.shape), dtype) for name, p in start.items()} for _ in range(20)]
    for each in grads:
        each["other"] = each["other"].astype("float64" if dtype == "float32" else "float32")
        each["vectors"][0, :3] = 1e30, 0, 1e-40
    for backend in (None, "numpy"):
        fastrnn.use_backend(backend)
        parameters = {name: p.copy(order="K") for name, p in start.items()}
        optimizer = rule(parameters, 0.01, betas=(0.8, 0.99))
        with np.errstate(over="ignore", invalid="ignore"):
            for each in grads:
                optimizer.step(each)
        found[backend] = parameters | optimizer.state_dict()
    assert not parameters["transposed"].flags.c_contiguous
    assert optimizer.steps == found[None].pop("steps") == found["numpy"].pop("steps") == 20
    for name, want in found["numpy"].items():
        assert_same_bits(name, np.atleast_1d(found[None][name]), np.atleast_1d(want))


def test_a_parameter_that_has_become_read_only_is_not_written():
    p = np.ones(3)
    optimizer = Adam({"p": p})
    p.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.step({"p": np.ones(3)})
    assert (p == 1).all()


def test_state_dict_is_a_copy():
    optimizer = Adam({"p": np.ones(3)})
    state = optimizer.state_dict()
    optimizer.step({"p": np.ones(3)})
    assert state["steps"] == 0
    assert not state["mean.p"].any()


def test_gradients_are_left_alone():
    grads = {"p": np.array([1.0, -2.0])}
    for rule in (SGD, Momentum, RMSProp, Adam, AdamW):
        rule({"p": np.ones(2)}).step(grads)
    assert (grads["p"] == [1, -2]).all()


def test_momentum_is_sgd_with_a_momentum_of_nine_tenths():
    assert Momentum({}).momentum == 0.9
    assert Momentum({}, 0.1, momentum=0.5).momentum == 0.5


def stepped(grads):
    return lambda: Adam({"p": np.ones(3)}).step(grads)


def loaded(state):
    return lambda: Adam({"p": np.ones(3)}).load_state_dict(state)


BAD_CALLS = {
    "negative rate": (lambda: SGD({}, -1), ValueError, "learning_rate is -1"),
    "NaN rate": (lambda: SGD({}, math.nan), ValueError, "learning_rate is nan"),
    "infinite rate": (lambda: Adam({}, math.inf), ValueError, "learning_rate is inf"),
    "momentum": (lambda: SGD({}, momentum=1), ValueError, "momentum is 1"),
    "beta": (lambda: Adam({}, betas=(0.9, 1.0)), ValueError, r"betas\[1\] is 1.0"),
    "eps": (lambda: Adam({}, eps=-1e-8), ValueError, "eps is -1e-08"),
    "RMSProp's alpha": (lambda: RMSProp({}, alpha=1), ValueError, "alpha is 1; expected at least 0 and below 1"),
    "RMSProp's eps": (lambda: RMSProp({}, eps=-1), ValueError, "eps is -1"),
    "weight decay": (lambda: AdamW({}, weight_decay=-0.1), ValueError, "weight_decay is -0.1"),
    "missing gradient": (stepped({}), KeyError, "expected"),
    "unknown gradient": (stepped({"p": np.ones(3), "q": np.ones(3)}), KeyError, "expected"),
    "gradient's shape": (stepped({"p": np.ones(1)}), ValueError, r"grads\['p'\] has shape \(1,\); expected \(3,\)"),
    "missing state": (loaded({"steps": 0}), KeyError, "expected"),
    "state's shape": (
        loaded({"steps": 0, "mean.p": np.ones(3), "square.p": np.ones(2)}),
        ValueError,
        r"'square.p'\] has shape \(2,\)",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_nothing_moves_when_one_gradient_is_bad():
    parameters = {"a": np.ones(2), "b": np.ones(3)}
    optimizer = SGD(parameters, 0.1)
    with pytest.raises(ValueError, match="grads"):
        optimizer.step({"a": np.ones(2), "b": np.ones(2)})
    assert (parameters["a"] == 1).all()
    assert optimizer.steps == 0
