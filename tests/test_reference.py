"""The reference against central differences and against torch: what every kernel is later compared with is right."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from problems import PARAMETERS, Problem, make, run
from tolerances import Outcome, assert_close, assert_same_bits

from fastrnn import reference
from fastrnn.cells import CELLS
from fastrnn.parameters import Array

cells = pytest.mark.parametrize("cell", list(CELLS))
biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])


def scale(array: Array) -> float:
    return float(np.abs(array).max(initial=1.0))


def loss(problem: Problem) -> float:
    """A number whose gradients with respect to y and the final states are the problem's dy and dstate."""
    given = problem.cell, problem.x, problem.state, problem.weights
    y, state_n, _ = reference.forward(*given, tape=False, **problem.order)
    return float((y * problem.dy).sum() + sum((s * d).sum() for s, d in zip(state_n, problem.dstate, strict=True)))


def distance_to_kink(problem: Problem) -> float:
    """The smallest |pre-activation| of a rnn_relu, whose derivative jumps at 0."""
    y, _, _ = reference.forward(problem.cell, problem.x, problem.state, problem.weights, tape=False)
    h_prev = np.concatenate([problem.state[0][None], y[:-1]])
    ih, hh, bias_ih, bias_hh, *_ = problem.weights
    bias = 0 if bias_ih is None else bias_ih + bias_hh
    return float(np.abs(problem.x @ ih.T + h_prev @ hh.T + bias).min())


def central_difference(problem: Problem, name: str) -> Array:
    """d loss / d inputs[name], one element at a time."""
    inputs = problem.inputs()
    gradient = np.empty_like(inputs[name])
    for index in np.ndindex(gradient.shape):
        at = []
        for step in (STEP, -STEP):
            moved = inputs[name].copy()
            moved[index] += step
            at.append(loss(problem.with_inputs(inputs | {name: moved})))
        gradient[index] = (at[0] - at[1]) / (2 * STEP)
    return gradient


# The cube root of eps balances the two errors of a central difference: STEP**2 = 4e-11 of cutting the series off, and
# eps * |loss| / STEP = 4e-10 of rounding for a loss of 10.
STEP = np.finfo(np.float64).eps ** (1 / 3)
DIFFERENCE_LIMIT = 1e-8


@cells
@biases
def test_gradients_equal_central_differences(cell: str, bias: bool) -> None:
    problem = make(cell, T=3, N=2, I=3, H=4, bias=bias)
    if cell == "rnn_relu":
        assert distance_to_kink(problem) > 1000 * STEP, "choose another seed: a step would cross the kink"
    assert_gradients_equal_central_differences(problem)


@pytest.mark.parametrize(("cell", "proj_size"), [("rnn_tanh", 0), ("lstm", 0), ("lstm", 3), ("gru", 0)])
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_gradients_of_every_order_equal_central_differences(
    cell: str, ragged: bool, reverse: bool, proj_size: int
) -> None:
    problem = make(cell, T=4, N=3, I=2, H=4, ragged=ragged, reverse=reverse, proj_size=proj_size)
    assert_gradients_equal_central_differences(problem)


def assert_gradients_equal_central_differences(problem: Problem) -> None:
    got = run("numpy", problem)
    names = ["x", *(f"{name}_0" for name in problem.cell.states), *(p for p in PARAMETERS if p in problem.inputs())]
    for name in names:
        want = central_difference(problem, name)
        assert np.abs(want).max() > 0.01, f"the gradient of {name} is too small to test anything"
        assert_close(f"d{name}", got[f"d{name}"], want, DIFFERENCE_LIMIT * scale(want))


def run_torch(torch: ModuleType, problem: Problem) -> Outcome:
    """The problem on torch.nn and its autograd."""
    cell, sizes = problem.cell, (problem.weights.ih.shape[1], problem.weights.hh.shape[1])
    options = {"bias": problem.weights.bias_ih is not None, "dtype": torch.float64}
    if cell.name.startswith("rnn_"):
        module = torch.nn.RNN(*sizes, nonlinearity=cell.name.removeprefix("rnn_"), **options)
    else:
        module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell.name](*sizes, **options)
    inputs = {name: torch.tensor(array, requires_grad=True) for name, array in problem.inputs().items()}
    module.load_state_dict({f"{name}_l0": inputs[name] for name in PARAMETERS if name in inputs})
    state = tuple(inputs[f"{name}_0"][None] for name in cell.states)
    y, state_n = module(inputs["x"], state if len(state) > 1 else state[0])
    state_n = state_n if len(state) > 1 else (state_n,)
    incoming = [inputs["dy"], *(inputs[f"d{name}_n"][None] for name in cell.states)]
    torch.autograd.backward([y, *state_n], incoming)
    outcome = {"y": y, "dx": inputs["x"].grad}
    outcome |= {f"{name}_n": s[0] for name, s in zip(cell.states, state_n, strict=True)}
    outcome |= {f"d{name}_0": inputs[f"{name}_0"].grad for name in cell.states}
    outcome |= {f"d{name.removesuffix('_l0')}": p.grad for name, p in module.named_parameters()}
    return {name: value.detach().numpy() for name, value in outcome.items()}


@cells
@biases
@pytest.mark.parametrize("size", [(7, 3, 5, 6), (1, 1, 1, 1), (60, 2, 4, 17), (9, 13, 1, 33)], ids=str)
def test_equals_torch(torch: ModuleType, cell: str, bias: bool, size: tuple[int, ...]) -> None:
    problem = make(cell, *size, bias=bias)
    got, want = run("numpy", problem), run_torch(torch, problem)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert_close(name, got[name], value, 1e-12 * scale(value))


@cells
@biases
def test_tokens_equal_one_hot_rows(cell: str, bias: bool) -> None:
    problem = make(cell, T=6, N=4, I=5, H=7, tokens=True, bias=bias)
    got, want = run("numpy", problem), run("numpy", problem.dense())
    assert "dx" not in got
    for name, value in got.items():
        assert_close(name, value, want[name], 1e-14 * scale(want[name]))


@cells
def test_inference_equals_training(cell: str) -> None:
    problem = make(cell, T=6, N=4, I=5, H=7)
    want = run("numpy", problem)
    y, state_n, tape = reference.forward(problem.cell, problem.x, problem.state, problem.weights, tape=False)
    assert tape is None
    assert_same_bits("y", y, want["y"])
    for name, state in zip(problem.cell.states, state_n, strict=True):
        assert_same_bits(f"{name}_n", state, want[f"{name}_n"])


def test_sigmoid_neither_overflows_nor_loses_its_tails() -> None:
    got = reference.sigmoid(np.array([-1e4, -700.0, -1.0, 0.0, 1.0, 700.0, 1e4, -np.inf, np.inf, np.nan]))
    want = [0, np.exp(-700), 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1, 1, 0, 1, np.nan]
    np.testing.assert_allclose(got, want, rtol=1e-15)
