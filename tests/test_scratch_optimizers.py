"""The optimizers of fastrnn.scratch, row S15, against torch.optim over many steps."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import assert_close, assert_same_bits, tolerance

from fastrnn.scratch import AdamOptimizer, MomentumOptimizer, RMSPropOptimizer, SGDOptimizer

SHAPES = {"Wax": (3, 4), "ba": (3, 1), "scale": (1, 1)}
STEPS = 50
RULES = {
    "sgd": (lambda: SGDOptimizer(learning_rate=0.1), "SGD", {"lr": 0.1}),
    "momentum": (lambda: MomentumOptimizer(0.1, beta=0.5), "SGD", {"lr": 0.1, "momentum": 0.5}),
    "rms": (lambda: RMSPropOptimizer(0.01, beta=0.8), "RMSprop", {"lr": 0.01, "alpha": 0.8}),
    "adam": (lambda: AdamOptimizer(0.02, beta1=0.8, beta2=0.9), "Adam", {"lr": 0.02, "betas": (0.8, 0.9)}),
    "adam, epsilon": (lambda: AdamOptimizer(0.02, epsilon=1e-3), "Adam", {"lr": 0.02, "eps": 1e-3}),
}
each_rule = pytest.mark.parametrize(("make", "torch_rule", "options"), RULES.values(), ids=RULES)


def arrays(rng, prefix=""):
    return {prefix + name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


@each_rule
def test_s15_update_equals_torch(torch, make, torch_rule, options):
    rng = np.random.default_rng(0)
    parameters, optimizer = arrays(rng), make()
    twins = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in parameters.items()}
    own, twin_optimizer = dict(parameters), getattr(torch.optim, torch_rule)(twins.values(), **options)
    for step in range(STEPS):
        if step == STEPS // 2:  # a schedule
            optimizer.learning_rate /= 2
            twin_optimizer.param_groups[0]["lr"] /= 2
            for state in twin_optimizer.state.values():  # ours, as the original's, has the rate of its time in it
                if state.get("momentum_buffer") is not None:
                    state["momentum_buffer"] *= 2
        gradients = arrays(rng, "d")
        for name, twin in twins.items():
            twin.grad = torch.tensor(gradients[f"d{name}"])
        assert optimizer.update(parameters, gradients | {"dx": np.zeros(9)}) is parameters
        twin_optimizer.step()
    for name, twin in twins.items():
        want = twin.detach().numpy()
        assert parameters[name] is own[name]  # in place
        assert_close(name, parameters[name], want, tolerance(want, "float64", STEPS))


@each_rule
def test_s15_apply_gradients_is_update(make, torch_rule, options):
    rng = np.random.default_rng(1)
    one = arrays(rng)
    other = {name: p.copy() for name, p in one.items()}
    first, second = make(), make()
    for _ in range(3):
        gradients = arrays(rng, "d")
        first.update(one, gradients)
        second.apply_gradients((gradients[f"d{name}"], p) for name, p in other.items())
    for name, p in one.items():
        assert_same_bits(name, p, other[name])


def test_s15_beta_and_momentum_are_one_number():
    assert MomentumOptimizer(0.1, beta=0.5).momentum == MomentumOptimizer(0.1, momentum=0.5).beta == 0.5
    assert MomentumOptimizer(0.1, beta=0.5, momentum=0.5).beta == 0.5
    assert MomentumOptimizer(0.1).beta == 0.9
    with pytest.raises(ValueError, match=r"beta is 0.5 and momentum 0.9; expected one of them"):
        MomentumOptimizer(0.1, beta=0.5, momentum=0.9)


def test_s15_float32_parameters_stay_float32():
    parameters = {"W": np.ones((2, 2), np.float32)}
    AdamOptimizer(0.5).update(parameters, {"dW": np.ones((2, 2), np.float32)})
    assert parameters["W"].dtype == np.float32
    np.testing.assert_allclose(parameters["W"], 0.5, rtol=1e-6)


@pytest.mark.parametrize("make", [SGDOptimizer, AdamOptimizer])
def test_s15_bad_input_is_named(make):
    parameters, gradients = {"W": np.ones((2, 2)), "b": np.ones((2, 1))}, {"dW": np.ones((2, 2))}
    with pytest.raises(KeyError, match="gradients has no 'db'; expected 'd' and the name of each parameter"):
        make(0.1).update(parameters, gradients)
    with pytest.raises(ValueError, match=r"gradients\['db'\] has shape \(2,\); expected \(2, 1\), as its parameter"):
        make(0.1).update(parameters, gradients | {"db": np.ones(2)})
    np.testing.assert_array_equal(parameters["W"], np.ones((2, 2)))
    make(0.1).apply_gradients([])
    with pytest.raises(ValueError, match="learning_rate is -1; expected at least 0"):
        make(-1)


def test_s15_other_shapes_and_numbers_are_named():
    optimizer = MomentumOptimizer(0.1)
    optimizer.apply_gradients([(np.ones(2), np.ones(2))])
    with pytest.raises(ValueError, match=r"the parameters have shapes \[\(3,\)\]; expected \[\(2,\)\]"):
        optimizer.apply_gradients([(np.ones(3), np.ones(3))])
    with pytest.raises(ValueError, match="beta is 1; expected at least 0 and below 1"):
        RMSPropOptimizer(0.1, beta=1)
